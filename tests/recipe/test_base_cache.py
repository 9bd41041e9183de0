"""Figures of a base are measured once, and again where the key changes or the file was damaged."""

from __future__ import annotations

import json
from pathlib import Path

from hone.recipe.base_cache import cached_figures
from hone.types import JsonDict


class Counting:
    def __init__(self) -> None:
        self.calls = 0

    def __call__(self) -> JsonDict:
        self.calls += 1
        return {"answers": [[1, 2], []], "text": "schön", "call": self.calls}


def test_measured_once_for_each_key(tmp_path: Path) -> None:
    measure = Counting()
    first = cached_figures(tmp_path, ("hash", 3), measure)
    assert cached_figures(tmp_path, ("hash", 3), measure) == first
    assert measure.calls == 1
    assert cached_figures(tmp_path, ("hash", 4), measure)["call"] == 2
    assert cached_figures(tmp_path, ("hash", "3"), measure)["call"] == 3, "3 is not '3'"


def test_a_damaged_file_is_measured_again(tmp_path: Path) -> None:
    measure = Counting()
    cached_figures(tmp_path, ("hash",), measure)
    (path,) = (tmp_path / "cache" / "base").iterdir()
    text = path.read_text(encoding="utf-8")
    for damaged in (text.replace("schön", "schon"), text[:-9], "[]", ""):
        path.write_text(damaged, encoding="utf-8")
        before = measure.calls
        found = cached_figures(tmp_path, ("hash",), measure)
        assert measure.calls == before + 1
        assert found["text"] == "schön"
        assert json.loads(path.read_text(encoding="utf-8"))["figures"] == found
