"""The row ledger: counts that add up whatever is called in whatever order, and a file that says so."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hone.data.ledger import DROP_CODES, Ledger, LedgerEntry, RowError
from hone.errors import StorageError

calls = st.lists(st.tuples(st.integers(1, 12), st.sampled_from(["keep", "cut", "drop"])), max_size=60)


def _apply(ledger: Ledger, row: int, call: str) -> None:
    if call == "keep":
        ledger.keep(row, row)
    elif call == "cut":
        ledger.cut(row, row, "too long", 3)
    else:
        ledger.drop(row, row, "not_json", "broken")


@given(calls)
def test_counts_always_add_up(done: list[tuple[int, str]]) -> None:
    ledger = Ledger("rows.jsonl")
    expected: dict[int, str] = {}
    for row, call in done:
        _apply(ledger, row, call)
        if expected.get(row) != "drop":
            expected[row] = call
        assert ledger.rows == ledger.kept + ledger.cut_rows + ledger.dropped
    assert ledger.rows == len(expected)
    assert ledger.dropped == sum(call == "drop" for call in expected.values())
    assert ledger.cut_rows == sum(call == "cut" for call in expected.values())
    assert [entry.row for entry in ledger.entries()] == sorted(expected)
    assert ledger.summary()["cut_tokens"] == 3 * ledger.cut_rows


def test_a_drop_is_final_and_a_later_call_overrides() -> None:
    ledger = Ledger("rows.jsonl")
    ledger.keep(1, 1)
    ledger.cut(1, 1, "too long", 7)
    ledger.drop(2, 4, "bad_role", "messages[0] has no role")
    ledger.keep(2, 4)
    ledger.cut(2, 4, "too long", 9)
    assert ledger.entries() == [
        LedgerEntry(1, 1, "cut", None, "too long", 7),
        LedgerEntry(2, 4, "dropped", "bad_role", "messages[0] has no role", 0),
    ]
    assert ledger.dropped_entries() == ledger.entries()[1:]


def test_reasons_of_two_cuts_are_joined_once() -> None:
    ledger = Ledger("rows.jsonl")
    ledger.cut(1, 1, "1 turn left out", 0)
    ledger.cut(1, 1, "longer than 64 tokens", 12)
    ledger.cut(1, 1, "longer than 64 tokens", 12)
    assert ledger.entries() == [LedgerEntry(1, 1, "cut", None, "1 turn left out; longer than 64 tokens", 12)]


def test_summary_counts_codes_from_frequent_to_rare() -> None:
    ledger = Ledger("ä.jsonl")
    ledger.keep(1, 1)
    for row, code in ((2, "bad_role"), (3, "not_json"), (4, "not_json")):
        ledger.drop(row, row, code, "why")
    assert ledger.summary() == {
        "source": "ä.jsonl",
        "rows": 4,
        "kept": 1,
        "cut": 0,
        "dropped": 3,
        "cut_tokens": 0,
        "codes": {"not_json": 2, "bad_role": 1},
    }
    assert list(ledger.summary()["codes"]) == ["not_json", "bad_role"]


def test_the_file_has_a_line_a_row_in_order(tmp_path: Path) -> None:
    ledger = Ledger("rows.jsonl")
    ledger.drop(3, 5, "bad_content", "“ü” is no text")
    ledger.keep(1, 1)
    ledger.cut(2, 2, "too long", 4)
    path = tmp_path / "run" / "ledger.jsonl"
    ledger.write(path)
    lines = path.read_text(encoding="utf-8").splitlines()
    assert [json.loads(line) for line in lines] == [
        {"row": 1, "line": 1, "status": "kept", "code": None, "reason": None, "cut_tokens": 0},
        {"row": 2, "line": 2, "status": "cut", "code": None, "reason": "too long", "cut_tokens": 4},
        {"row": 3, "line": 5, "status": "dropped", "code": "bad_content", "reason": "“ü” is no text", "cut_tokens": 0},
    ]
    assert "ü" in lines[2]
    assert [entry.name for entry in path.parent.iterdir()] == ["ledger.jsonl"]


def test_a_file_that_cannot_be_written_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "ledger.jsonl").mkdir()
    with pytest.raises(StorageError):
        Ledger("rows.jsonl").write(tmp_path / "ledger.jsonl")


def test_row_errors_have_a_documented_code() -> None:
    assert list(DROP_CODES) == sorted(DROP_CODES)
    with pytest.raises(AssertionError):
        RowError("no_such_code", "why")
