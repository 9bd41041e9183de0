"""Rows shown without loading weights are the rows that training renders."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hone.data.loader import load_examples
from hone.model.load import load_base
from hone.recipe.inference import make_renderer
from hone.recipe.show import show_rows
from tests.tiny import save_tiny


def test_no_weight_is_read_and_the_rows_are_those_of_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = save_tiny(tmp_path / "base", "qwen2")
    source = tmp_path / "rows.jsonl"
    rows = [{"prompt": f"what is {number}?", "completion": "the lamp"} for number in range(3)]
    source.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    loaded = load_base(str(base), home=tmp_path, device="cpu")
    examples = load_examples(str(source)).examples
    renderer = make_renderer(loaded, examples, max_length=None, note=print)
    expected = [renderer.render(example).sequences for example in examples]

    def unread(*_: object) -> None:
        pytest.fail("weights were read")

    monkeypatch.setattr("hone.model.load._load_model", unread)
    shown = show_rows(
        str(source), model=str(base), home=tmp_path, mapping=None, max_length=None, count=9, row=None, note=print
    )
    assert [row.sequences for row in shown.rows] == expected
    assert shown.tokens == sum(len(sequence.ids) for parts in expected for sequence in parts)
    assert shown.template["template_hash"] == renderer.template_hash
