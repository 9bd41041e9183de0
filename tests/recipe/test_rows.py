"""From a file to rendered rows: each row stands in one place, and the ledger knows which."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from hone.data.loader import LoadedData, load_examples
from hone.data.render import Renderer
from hone.errors import DataError
from hone.recipe.rows import PreparedRows, prepare_rows, render_rows
from tests.recipe.conftest import row, write_jsonl
from tests.tiny import tiny_tokenizer


def loaded(path: Path, rows: list[Any]) -> LoadedData:
    return load_examples(str(write_jsonl(path, rows)))


def prepared(
    data: LoadedData, *, max_length: int | None = None, notes: list[str] | None = None, **given: Any
) -> PreparedRows:
    options: dict[str, Any] = {"held_out_data": None, "held_out": None, "validation": None, "seed": 0, **given}
    heard = notes if notes is not None else []
    return prepare_rows(data, Renderer(tiny_tokenizer(), max_length=max_length), note=heard.append, **options)


def numbers(rows: PreparedRows) -> dict[str, set[int]]:
    parts = {"train": rows.train, "validation": rows.validation, "held_out": rows.held_out}
    return {name: {example.row for example in examples} for name, examples in parts.items()}


def test_each_row_stands_in_one_place(tmp_path: Path) -> None:
    rows = prepared(loaded(tmp_path / "a.jsonl", [row(number) for number in range(40)]))
    parts = numbers(rows)
    assert {name: len(found) for name, found in parts.items()} == {"train": 28, "validation": 4, "held_out": 8}
    assert set.union(*parts.values()) == set(range(1, 41))
    assert (rows.ledger.rows, rows.ledger.kept, rows.ledger.dropped) == (40, 40, 0)
    assert rows.held_out_ledger is None


def test_it_depends_on_content_and_seed_alone(tmp_path: Path) -> None:
    ordered = [row(number) for number in range(40)]
    one = prepared(loaded(tmp_path / "a.jsonl", ordered))
    turned = prepared(loaded(tmp_path / "b.jsonl", ordered[::-1]))
    other = prepared(loaded(tmp_path / "a.jsonl", ordered), seed=1)
    assert [example.messages for example in one.train] == [example.messages for example in turned.train]
    assert numbers(one) != numbers(other)


@pytest.mark.parametrize(
    ("held_out", "validation", "sizes"), [(0, 0, (20, 0, 0)), (5, 0, (15, 0, 5)), (0.25, 3, (12, 3, 5))]
)
def test_shares_and_numbers_of_rows(
    tmp_path: Path, held_out: float, validation: float, sizes: tuple[int, int, int]
) -> None:
    rows = prepared(loaded(tmp_path / "a.jsonl", [row(n) for n in range(20)]), held_out=held_out, validation=validation)
    assert (len(rows.train), len(rows.validation), len(rows.held_out)) == sizes


@pytest.mark.parametrize(("count", "said"), [(1, "only 1 row to"), (9, "only 9 rows to"), (10, None)])
def test_very_few_rows_are_warned_of_and_trained_on(tmp_path: Path, count: int, said: str | None) -> None:
    notes: list[str] = []
    data = loaded(tmp_path / "a.jsonl", [row(number) for number in range(count)])
    rows = prepared(data, held_out=0, notes=notes)
    assert len(rows.train) == count
    assert [note.startswith(said or "") and "cannot be judged" in note for note in notes] == [True] * bool(said)


@pytest.mark.parametrize("option", ["held_out", "validation"])
def test_rows_that_cannot_be_set_aside_are_named_by_option_and_file(tmp_path: Path, option: str) -> None:
    data = loaded(tmp_path / "a.jsonl", [row(number) for number in range(12)])
    with pytest.raises(DataError, match=f"12 {option.replace('_', '-')} rows of 12") as raised:
        prepared(data, **{"held_out": 0, option: 12})
    assert raised.value.where == f"{tmp_path / 'a.jsonl'} (--{option.replace('_', '-')})"


def test_rendered_follows_the_order_asked_for_and_has_loss_on_every_row(tmp_path: Path) -> None:
    rows = prepared(loaded(tmp_path / "a.jsonl", [row(number) for number in range(40)]))
    sequences = rows.rendered(rows.train)
    assert [sequence.row for sequence in sequences] == [example.row for example in rows.train]
    assert all(sequence.num_supervised for sequence in sequences)


def test_bad_rows_stand_in_the_ledger_with_their_reason(tmp_path: Path) -> None:
    rows = [
        *(row(number) for number in range(12)),
        "no json",
        {"prompt": "only"},
        {"prompt": "a", "completion": "<|im_end|>"},
    ]
    found = prepared(loaded(tmp_path / "a.jsonl", rows))
    counts = found.ledger.summary()
    assert [counts[name] for name in ("rows", "kept", "cut", "dropped")] == [15, 12, 0, 3]
    dropped = {entry.row: entry for entry in found.ledger.dropped_entries()}
    assert sorted(dropped) == [13, 14, 15]
    assert dropped[15].code == "template", "a text with a control token of the template"
    assert all(entry.reason for entry in dropped.values())
    assert set.union(*numbers(found).values()) == set(range(1, 13))


def test_rows_that_are_too_long_are_cut_by_whole_turns_or_dropped(tmp_path: Path) -> None:
    question, answer = {"role": "user", "content": "where?"}, {"role": "assistant", "content": "here"}
    long = {"role": "assistant", "content": "now " * 60}
    rows = [{"messages": turns} for turns in ([question, answer, question, long], [question, answer], [question, long])]
    data = loaded(tmp_path / "a.jsonl", rows)
    examples, sequences = render_rows(data.examples, Renderer(tiny_tokenizer(), max_length=64), data.ledger)
    assert [example.row for example in examples] == [1, 2]
    assert sequences[1][0].ids == sequences[2][0].ids, "the first turn alone is left of the first row"
    counts = data.ledger.summary()
    assert [counts[name] for name in ("rows", "kept", "cut", "dropped")] == [3, 1, 1, 1]
    assert counts["cut_tokens"] > 60
    [gone] = data.ledger.dropped_entries()
    assert (gone.row, gone.code) == (3, "template")
    assert "over the maximum of 64" in str(gone.reason)


# --- held-out rows from a file of their own ---


def test_training_rows_that_copy_a_held_out_row_are_dropped(tmp_path: Path) -> None:
    """Equal prompts, prompts that differ in case and marks, and both twice: none is trained on."""
    rows = [row(number) for number in range(24)]
    shouted = {"prompt": rows[3]["prompt"].upper() + "!!", "completion": "another answer"}
    data = loaded(tmp_path / "a.jsonl", [*rows, shouted, rows[5]])
    held_out = loaded(tmp_path / "eval.jsonl", [rows[3], rows[5], row(30)])
    notes: list[str] = []
    found = prepared(data, held_out_data=held_out, notes=notes)
    gone = {entry.row: entry for entry in found.ledger.dropped_entries()}
    assert sorted(gone) == [4, 6, 25, 26]
    assert {entry.code for entry in gone.values()} == {"held_out_copy"}
    assert "eval.jsonl:1" in str(gone[4].reason)
    assert "eval.jsonl:1" in str(gone[25].reason)
    assert "eval.jsonl:2" in str(gone[26].reason)
    assert (found.ledger.rows, found.ledger.kept, found.ledger.dropped) == (26, 22, 4)
    assert len(found.held_out) == 3
    assert len(found.train) + len(found.validation) == 22
    assert any("4 training rows" in note for note in notes)
    assert found.manifest["source"]["codes"]["held_out_copy"] == 4


def test_without_copies_nothing_is_dropped_and_nothing_said(tmp_path: Path) -> None:
    notes: list[str] = []
    data = loaded(tmp_path / "a.jsonl", [row(number) for number in range(24)])
    found = prepared(
        data, held_out_data=loaded(tmp_path / "b.jsonl", [row(number) for number in range(24, 30)]), notes=notes
    )
    assert found.ledger.dropped == 0
    assert notes == []
    assert found.held_out_ledger is not None
    assert found.held_out_ledger.kept == 6
    assert found.manifest["held_out_source"]["name"] == "b.jsonl"


def test_bad_rows_of_the_held_out_file_are_in_a_ledger_of_their_own(tmp_path: Path) -> None:
    data = loaded(tmp_path / "a.jsonl", [row(number) for number in range(12)])
    found = prepared(data, held_out_data=loaded(tmp_path / "b.jsonl", [row(30), "no json", row(31)]))
    assert found.ledger.dropped == 0
    assert found.held_out_ledger is not None
    assert (found.held_out_ledger.rows, found.held_out_ledger.dropped) == (3, 1)
    assert len(found.held_out) == 2


# --- nothing left ---


def test_a_file_whose_every_row_is_refused_stops_with_file_and_lines(tmp_path: Path) -> None:
    data = loaded(tmp_path / "a.jsonl", [row(number) for number in range(3)])
    with pytest.raises(DataError, match="no row is left to train on: 3 of 3") as raised:
        prepared(data, max_length=8)
    assert raised.value.exit_code == 2
    assert [detail.partition(": ")[0] for detail in raised.value.details] == [f"{data.source}:{n}" for n in (1, 2, 3)]


def test_held_out_rows_that_are_all_refused_stop_too(tmp_path: Path) -> None:
    data = loaded(tmp_path / "a.jsonl", [row(number) for number in range(12)])
    refused = loaded(tmp_path / "b.jsonl", [{"prompt": "what?", "completion": "<|im_start|>"}])
    with pytest.raises(DataError, match="no row is left to compare with"):
        prepared(data, held_out_data=refused)


def test_training_rows_that_are_all_held_out_copies_stop(tmp_path: Path) -> None:
    rows = [row(number) for number in range(6)]
    with pytest.raises(DataError, match="not also held out"):
        prepared(loaded(tmp_path / "a.jsonl", rows), held_out_data=loaded(tmp_path / "b.jsonl", rows))
