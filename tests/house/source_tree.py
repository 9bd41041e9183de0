"""The files that the house tests read: hone's modules, the tests, the pages, each parsed once."""

from __future__ import annotations

import ast
import subprocess
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[2]
SOURCE = REPOSITORY / "src"

FunctionNode = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Module:
    """One Python file: its dotted name (``hone.data.split``), text and syntax tree."""

    name: str
    path: Path
    text: str
    tree: ast.Module

    @property
    def is_package(self) -> bool:
        """Whether this is an ``__init__.py``."""
        return self.path.name == "__init__.py"

    def at(self, node: ast.AST) -> str:
        """``path:line`` of a node, as an editor opens it."""
        shown = self.path.relative_to(REPOSITORY) if self.path.is_relative_to(REPOSITORY) else self.path
        return f"{shown}:{getattr(node, 'lineno', 1)}"


def module_from_text(text: str, name: str = "hone.data.sample") -> Module:
    """A module that is not on disk, for trying a rule."""
    path = SOURCE / f"{name.replace('.', '/')}.py"
    return Module(name.removesuffix(".__init__"), path, text, ast.parse(text))


def _read(path: Path, root: Path) -> Module:
    text = path.read_text(encoding="utf-8")
    parts = path.relative_to(root).with_suffix("").parts
    return Module(".".join(part for part in parts if part != "__init__"), path, text, ast.parse(text, str(path)))


@cache
def hone_modules() -> tuple[Module, ...]:
    """Every module of the package, in order of its name."""
    return tuple(_read(path, SOURCE) for path in sorted((SOURCE / "hone").rglob("*.py")))


@cache
def modules_of_tests() -> tuple[Module, ...]:
    """Every file that pytest would collect."""
    return tuple(_read(path, REPOSITORY) for path in sorted((REPOSITORY / "tests").rglob("test_*.py")))


@cache
def pyproject() -> dict[str, Any]:
    """pyproject.toml, parsed."""
    return tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))


@cache
def committed_files() -> tuple[Path, ...]:
    """The files of the checkout that git tracks or would track."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=True,
    )
    files = (REPOSITORY / name for name in sorted(set(listed.stdout.split("\0"))) if name)
    return tuple(file for file in files if file.is_file())


def functions(tree: ast.AST, prefix: str = "") -> Iterator[tuple[str, FunctionNode]]:
    """Every function and method with its qualified name, nested ones too."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, FunctionNode):
            yield f"{prefix}{node.name}", node
            yield from functions(node, f"{prefix}{node.name}.")
        elif isinstance(node, ast.ClassDef):
            yield from functions(node, f"{prefix}{node.name}.")
        else:
            yield from functions(node, prefix)


def dotted_name(node: ast.AST) -> str:
    """``a.b.c`` of a chain of names; only the last parts where the chain begins with something else (a call)."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        return f"{dotted_name(node.value)}.{node.attr}".lstrip(".")
    return ""


def literal_all(module: Module) -> list[str] | None:
    """The names in ``__all__``; None where it is missing or not written out as a list of strings."""
    for node in module.tree.body:
        if isinstance(node, ast.Assign) and any(dotted_name(target) == "__all__" for target in node.targets):
            try:
                names = ast.literal_eval(node.value)
            except ValueError:
                return None
            return list(names) if all(isinstance(name, str) for name in names) else None
    return None
