"""The tests themselves: each file collects, each test can fail, each layer has some."""

from __future__ import annotations

import ast

import pytest

from tests.house.source_tree import (
    REPOSITORY,
    FunctionNode,
    Module,
    dotted_name,
    functions,
    hone_modules,
    module_from_text,
    modules_of_tests,
)

# Folders of tests that mirror no layer.
OTHER_FOLDERS = {"docs", "examples", "golden", "house", "parity", "real", "reliability"}


def tests_of(module: Module) -> list[tuple[str, FunctionNode]]:
    """The functions of a module that pytest collects."""
    return [
        (name, node)
        for name, node in functions(module.tree)
        if node.name.startswith("test_") and all(part.startswith("Test") for part in name.split(".")[:-1])
    ]


def asserts(node: ast.AST, module: Module, seen: frozenset[str] = frozenset()) -> bool:
    """Whether something in a test can fail it: an assert, raises/warns/fail, or a function that asserts."""
    local = {name.split(".")[-1]: inner for name, inner in functions(module.tree)}
    for leaf in ast.walk(node):
        if isinstance(leaf, ast.Assert) and not isinstance(leaf.test, ast.Constant):
            return True
        if isinstance(leaf, ast.Call):
            called = dotted_name(leaf.func).split(".")[-1]
            if called in {"raises", "warns", "fail"} or called.startswith(("assert_", "check_")):
                return True
            if called in local and called not in seen and asserts(local[called], module, seen | {called}):
                return True
    return False


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("def test_a():\n    assert f()", True),
        ("def test_a():\n    with pytest.raises(ValueError):\n        f()", True),
        ("def test_a():\n    torch.testing.assert_close(a, b)", True),
        ("def same(a):\n    assert a\ndef test_a():\n    same(1)", True),
        ("def test_a():\n    f()", False),
        ("def test_a():\n    assert True", False),
        ("def same(a):\n    same(a)\ndef test_a():\n    same(1)", False),
    ],
)
def test_assertions_are_seen(code: str, expected: bool) -> None:
    module = module_from_text(code, "tests.test_sample")
    [(_, node)] = tests_of(module)
    assert asserts(node, module) is expected


def test_every_test_file_collects_a_test() -> None:
    empty = [module.name for module in modules_of_tests() if not tests_of(module)]
    assert not empty, f"these collect nothing: {empty}"


def test_no_test_is_in_a_file_that_pytest_passes_over() -> None:
    collected = {module.path for module in modules_of_tests()}
    lost = []
    for path in sorted((REPOSITORY / "tests").rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        tests = [node.name for node in tree.body if isinstance(node, FunctionNode) and node.name.startswith("test_")]
        # A helper that is called modules_of_tests() and takes nothing would be collected if its file were.
        if path not in collected and path.name != "source_tree.py" and tests:
            lost.append(f"{path.relative_to(REPOSITORY)}: {tests}")
    assert not lost, "\n".join(lost)


def test_every_test_can_fail() -> None:
    blind = [
        f"{module.at(node)}: {name}"
        for module in modules_of_tests()
        for name, node in tests_of(module)
        if not asserts(node, module)
    ]
    assert not blind, "no assertion in:\n" + "\n".join(blind)


def test_no_test_is_switched_off() -> None:
    off = [
        module.at(node)
        for module in modules_of_tests()
        for node in ast.walk(module.tree)
        if isinstance(node, ast.Attribute) and dotted_name(node) in {"pytest.mark.skip", "pytest.mark.xfail"}
    ]
    assert not off, "mend these or take them out:\n" + "\n".join(off)


def test_every_layer_has_tests() -> None:
    layers = {module.name.split(".")[1] for module in hone_modules() if module.name.count(".") >= 2}
    folders = {module.name.split(".")[1] for module in modules_of_tests() if module.name.count(".") >= 2}
    assert layers - folders == set(), "layers without a folder of tests"
    assert folders - layers - OTHER_FOLDERS == set(), "folders of tests that mirror no layer"
