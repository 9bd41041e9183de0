"""The public names of hone are frozen in public_names.txt."""

from __future__ import annotations

import difflib
import importlib

import pytest

from tests.house.freeze_public_names import GOLDEN, public_names


def test_public_names_are_the_frozen_ones() -> None:
    frozen, present = GOLDEN.read_text(encoding="utf-8"), public_names()
    if frozen != present:
        changes = difflib.unified_diff(frozen.splitlines(), present.splitlines(), "frozen", "now", n=0, lineterm="")
        remedy = "Meant so? python tests/house/freeze_public_names.py, and a line in CHANGELOG.md."
        pytest.fail("\n".join([*changes, remedy]), pytrace=False)


@pytest.mark.parametrize("module", ["hone", "hone.errors", "hone.types"])
def test_frozen_names_can_be_imported(module: str) -> None:
    frozen = dict(line.split(":") for line in GOLDEN.read_text(encoding="utf-8").splitlines())
    loaded = importlib.import_module(module)
    names = frozen[module].split()
    assert names, f"{module} has no public names"
    assert [name for name in names if not hasattr(loaded, name)] == []
