"""The layer contracts of pyproject.toml hold, can fail, and are the ones that CONTRIBUTING.md tells."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.house.source_tree import REPOSITORY, SOURCE, pyproject


def _lint_imports(folder: Path, source: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-logo", "--no-cache"],
        cwd=folder,
        # The copy under test goes before an installed hone.
        env={**os.environ, "PYTHONPATH": str(source)},
        capture_output=True,
        text=True,
        check=False,
    )


def test_contracts_hold() -> None:
    done = _lint_imports(REPOSITORY, SOURCE)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("files", "broken"),
    [
        ({"data/rows.py": "import hone.model.load"}, "Layers go one way"),
        ({"data/rows.py": "def f():\n    from hone.model import load"}, "Layers go one way"),
        ({"utilities/__init__.py": ""}, "Layers go one way"),
        ({"engine/loop.py": "import hone.config"}, "Configs stop at the recipe"),
        ({"objective/loss.py": "import transformers"}, "An objective is a function of tensors"),
        ({"recipe/sft.py": "import trl"}, "are what hone is measured against"),
        ({"data/a.py": "import hone.data.b", "data/b.py": "import hone.data.a"}, "No cycles"),
    ],
    ids=["upwards", "upwards in a function", "no place", "config below recipe", "impure objective", "peer", "cycle"],
)
def test_contracts_can_fail(tmp_path: Path, files: dict[str, str], broken: str) -> None:
    (tmp_path / "pyproject.toml").write_bytes((REPOSITORY / "pyproject.toml").read_bytes())
    package = tmp_path / "src" / "hone"
    for layer in ("config", "data", "model", "objective", "engine", "evaluation", "proof", "registry", "recipe"):
        (package / layer).mkdir(parents=True)
        (package / layer / "__init__.py").touch()
    for name in ("__init__", "errors", "types", "files", "home", "model/load"):
        (package / f"{name}.py").touch()
    for name, text in files.items():
        (package / name).parent.mkdir(exist_ok=True)
        (package / name).write_text(text, encoding="utf-8")
    done = _lint_imports(tmp_path, tmp_path / "src")
    said = done.stdout + done.stderr
    assert done.returncode == 1, said
    assert broken in said


def test_contributing_tells_the_layers() -> None:
    contracts = {contract["id"]: contract for contract in pyproject()["tool"]["importlinter"]["contracts"]}
    layers = [name.strip("()") for line in contracts["layers"]["layers"] for name in line.split(" | ")]
    page = (REPOSITORY / "CONTRIBUTING.md").read_text(encoding="utf-8")
    rows = [line.split("|")[1].strip().strip("`") for line in page.splitlines() if line.startswith("| `")]
    told = [name for name in rows if name in layers]
    assert told == layers, "the table of layers in CONTRIBUTING.md and the contract in pyproject.toml differ"
