"""Every rule of ``rules.py`` finds what it is for, and finds nothing in hone."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.house import rules
from tests.house.source_tree import Module, functions, hone_modules, module_from_text

Rule = Callable[[Module], Iterator[str]]

# (rule, code that breaks it). Two of a rule where it looks for two things.
BREACHES: list[tuple[Rule, str]] = [
    (rules.annotations_are_postponed, '"""Doc."""\nx = 1'),
    (rules.failures_do_not_vanish, "try:\n    f()\nexcept Exception:\n    pass"),
    (rules.failures_do_not_vanish, "try:\n    f()\nexcept (ValueError, BaseException):\n    pass"),
    (rules.failures_do_not_vanish, "try:\n    f()\nexcept:\n    log()"),
    (rules.failures_do_not_vanish, "with contextlib.suppress(Exception):\n    f()"),
    (rules.files_are_short, "x = 1\n" * 351),
    (rules.functions_are_short, "def f():\n" + "    x = 1\n" * 60),
    (rules.functions_are_short, "class A:\n    def f(self):\n" + "        x = 1\n" * 60),
    (rules.importing_does_nothing, "data = load()"),
    (rules.importing_does_nothing, "setup()"),
    (rules.importing_does_nothing, "def f():\n    return Path(x).read_bytes()\ndata = f()"),
    (rules.importing_does_nothing, "for x in y:\n    pass"),
    (rules.importing_does_nothing, "x = [torch.device(n) for n in names]"),
    (rules.libraries_stay_as_they_are, "import transformers\ntransformers.Trainer.step = f"),
    (rules.libraries_stay_as_they_are, "import torch.nn as nn\ndef f():\n    nn.Linear.forward = g"),
    (rules.nothing_is_left_open, "x = 1  # " + "TO" + "DO"),
    (rules.nothing_is_left_open, "def f():\n    raise NotImplementedError"),
    (rules.nothing_runs_foreign_code, "import pickle"),
    (rules.nothing_runs_foreign_code, "from joblib import load"),
    (rules.nothing_runs_foreign_code, "weights = torch.load(path)"),
    (rules.nothing_runs_foreign_code, "f(trust_remote_code=flag)"),
    (rules.nothing_runs_foreign_code, "yaml.load(text)"),
    (rules.nothing_runs_foreign_code, "x = eval(text)"),
    (rules.public_names_are_declared, "x = 1"),
    (rules.public_names_are_declared, "__all__ = ['f']"),
    (rules.public_names_are_declared, "__all__ = []\ndef f(): ..."),
    (rules.public_names_are_declared, "__all__ = ['x', 'x']\nx = 1"),
    (rules.state_is_visible, "def f():\n    global x"),
    (rules.state_is_visible, "def f():\n    x = 1\n    def g():\n        nonlocal x"),
    (rules.text_is_utf8, "open(path)"),
    (rules.text_is_utf8, "path.read_text()"),
    (rules.text_is_utf8, "path.open('w')"),
    (rules.text_is_utf8, "json.dumps(x)"),
    (rules.writes_are_whole, "path.write_text(x, encoding='utf-8')"),
    (rules.writes_are_whole, "open(path, 'ab')"),
    (rules.writes_are_whole, "path.open(mode='x')"),
    (rules.writes_are_whole, "Path(name).open('wb')"),
]

# What every rule lets pass: the same things done as the house does them.
GOOD = '''"""Doc."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

import torch
import yaml

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["PATTERN", "read"]

PATTERN = re.compile("x")
_LATER = {"a": lambda: torch.device("cpu")}
_TABLE = [_row("a"), _row("b")]
torch.backends.cudnn.benchmark = False


def _row(name: str) -> dict[str, str]:
    return dict(name=name)


def read(path: Path) -> str:
    """Read."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError:
        return ""
    except BaseException:
        close()
        raise
    with open(path, "rb") as stream, Path(path).open("rb") as other, path.open(encoding="utf-8") as lines:
        pass
    yaml.load(text, Loader=Strict)
    f(trust_remote_code=False).eval()
    return json.dumps(text, ensure_ascii=False)
'''


@pytest.mark.parametrize(("rule", "code"), BREACHES, ids=lambda value: getattr(value, "__name__", "code"))
def test_rule_sees_a_breach(rule: Rule, code: str) -> None:
    assert list(rule(module_from_text(code)))


@pytest.mark.parametrize("code", ["x = 1", "import torch", "def f(): ...", '"""Doc."""\n"""Another."""'])
def test_init_rule_sees_logic(code: str) -> None:
    assert list(rules.init_holds_no_logic(module_from_text(code, "hone.data.__init__")))


@pytest.mark.parametrize("name", ["hone.utils", "hone.data.row_helpers", "hone.common.rows", "hone.run_manager"])
def test_name_rule_sees_a_drawer(name: str) -> None:
    assert list(rules.names_say_what(module_from_text("", name)))


@pytest.mark.parametrize("rule", rules.RULES, ids=lambda rule: rule.__name__)
def test_rule_lets_good_code_pass(rule: Rule) -> None:
    assert list(rule(module_from_text(GOOD))) == []


def test_every_rule_is_tried() -> None:
    tried = {rule for rule, _ in BREACHES} | {rules.init_holds_no_logic, rules.names_say_what}
    assert tried == set(rules.RULES)


@pytest.mark.parametrize("rule", rules.RULES, ids=lambda rule: rule.__name__)
def test_hone_keeps_the_rule(rule: Rule) -> None:
    breaches = [breach for module in hone_modules() for breach in rule(module)]
    assert not breaches, f"{rule.__doc__}\n" + "\n".join(breaches)


def test_longer_functions_are_still_longer() -> None:
    lengths = {
        f"{module.name}.{name}": rules.function_lines(node)
        for module in hone_modules()
        for name, node in functions(module.tree)
    }
    for name, reason in rules.LONGER_FUNCTIONS.items():
        assert len(reason.split()) > 3, f"{name} needs a reason"
        assert lengths.get(name, 0) > rules.MAX_FUNCTION_LINES, f"{name} can leave LONGER_FUNCTIONS"


def test_own_writers_still_write() -> None:
    by_name = {module.name: module for module in hone_modules()}
    for name, reason in rules.OWN_WRITES.items():
        assert len(reason.split()) > 3, f"{name} needs a reason"
        renamed = module_from_text(by_name[name].text, "hone.other")
        assert list(rules.writes_are_whole(renamed)), f"{name} can leave OWN_WRITES"


# Classes that inherit from one that inherits, with the reason.
DEEPER_CLASSES = {"ContinueConfig": "its options are a run's, and so a training's, and two more: data, not behaviour"}


def test_classes_inherit_at_most_once() -> None:
    bases: dict[str, list[str]] = {}
    for module in hone_modules():
        if module.name != "hone.errors":
            for name, parents in rules.class_bases(module):
                bases.setdefault(name, []).extend(parents)
    deep = [
        f"{name} < {parent} < {grandparent}"
        for name, parents in bases.items()
        for parent in parents
        for grandparent in bases.get(parent, [])
        if grandparent in bases and name not in DEEPER_CLASSES
    ]
    assert not deep, "inherit once at most; pass a callable or a Protocol:\n" + "\n".join(deep)
