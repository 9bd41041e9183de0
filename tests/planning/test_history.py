"""Outcomes are kept one by one; corrections and errors follow from them by hand."""

from __future__ import annotations

from pathlib import Path

import pytest

from hone.planning.history import correction_of, error_margin, error_summary, read_history, record_outcome
from hone.types import JsonDict

KEY = "machine/Llama/100/2x64/lora/plain/once/packed"
OTHER_METHOD = "machine/Llama/100/2x64/full/plain/once/packed"
OTHER_BASE = "machine/Llama/200/2x64/lora/plain/once/packed"


def _outcome(
    seconds: float, *, kind: str = "run", key: str = KEY, memory: int = 1000, formula: float = 10.0
) -> JsonDict:
    return {
        "key": key,
        "kind": kind,
        "predicted": {"seconds": 10.0, "peak_memory_bytes": 1000},
        "formula": {"seconds": formula, "peak_memory_bytes": 1000, "beyond_process_bytes": 500},
        "actual": {"seconds": seconds, "peak_memory_bytes": memory, "beyond_process_bytes": 600},
    }


def test_what_is_recorded_is_read_in_order(tmp_path: Path) -> None:
    assert read_history(tmp_path) == []
    record_outcome(tmp_path, "20260102-run", _outcome(2.0))
    record_outcome(tmp_path, "20260101-run", _outcome(1.0))
    record_outcome(tmp_path, "20260102-run", _outcome(3.0))
    assert [entry["actual"]["seconds"] for entry in read_history(tmp_path)] == [1.0, 3.0]


def test_a_damaged_file_counts_as_none(tmp_path: Path) -> None:
    record_outcome(tmp_path, "a", _outcome(1.0))
    (tmp_path / "plan" / "history" / "b.json").write_text('{"schema": 1, "ke', encoding="utf-8")
    (tmp_path / "plan" / "history" / "c.json").write_text("[1]", encoding="utf-8")
    assert [entry["name"] for entry in read_history(tmp_path)] == ["a"]


def test_the_median_of_the_last_five_of_the_same_kind_corrects() -> None:
    history = [_outcome(seconds) for seconds in (100.0, 11.0, 12.0, 13.0, 14.0, 20.0)]
    found = correction_of(history, KEY)
    assert found.seconds == pytest.approx(1.3)
    assert found.memory == pytest.approx(600 / 500)
    assert found.runs == 5


def test_another_method_tells_the_speed_alone_and_another_base_nothing() -> None:
    history = [_outcome(15.0)]
    near = correction_of(history, OTHER_METHOD)
    assert (near.seconds, near.memory, near.runs) == (1.5, 1.0, 1)
    far = correction_of(history, OTHER_BASE)
    assert (far.seconds, far.memory, far.runs) == (1.0, 1.0, 0)


def test_errors_are_of_runs_alone() -> None:
    history = [_outcome(8.0, memory=800), _outcome(12.5, memory=1250), _outcome(1000.0, kind="probe")]
    summary = error_summary(history)
    assert summary["runs"] == 2
    assert summary["seconds"] == {"median": pytest.approx(0.225), "largest": pytest.approx(0.25)}
    assert summary["peak_memory_bytes"]["largest"] == pytest.approx(0.25)
    assert error_summary([])["seconds"] is None


def test_the_margin_is_the_largest_error_once_there_are_enough() -> None:
    assert error_margin([_outcome(1.0, memory=800)] * 7) == 0.15
    assert error_margin([_outcome(1.0, memory=800)] * 8) == pytest.approx(0.25)
    assert error_margin([_outcome(1.0)] * 8) == 0.05
