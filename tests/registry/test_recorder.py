"""The recorder: what a run writes, and that a resumed run writes the same bytes."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from hone.engine.events import Event
from hone.errors import StorageError
from hone.registry import RunFolder, RunRecorder


def events_of(folder: Path, steps: range) -> list[Event]:
    """What a loop emits from ``steps``: each step, a validation each second one, then its checkpoint."""
    events = []
    for step in steps:
        timing = {"seconds": float(os.urandom(1)[0])}
        if step:
            events.append(Event("step", {"step": step, "loss": 1 / step, "epoch": step / 8}, timing))
        if step % 2 == 0:
            events.append(Event("validation", {"step": step, "loss": 2 / (step + 1), "best": True}))
            events.append(Event("checkpoint", {"step": step, "path": str(folder / "checkpoints" / f"step-{step}")}))
    return events


def lines(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_each_kind_of_event_has_its_file(tmp_path: Path) -> None:
    run = RunFolder.at(tmp_path / "out")
    with RunRecorder(run) as recorder:
        recorder.record(Event("stage", {"name": "training", "detail": "3 epochs"}))
        recorder.record(Event("note", {"text": "Grüße"}))
        recorder.record(Event("progress", {"task": "reading", "done": 1, "total": 2}))
        recorder.record(Event("step", {"step": 1, "loss": 0.5}, {"seconds": 0.1, "tokens_per_second": 10.0}))
        assert lines(run.metrics)  # flushed, while the file is still open
        recorder.record(Event("validation", {"step": 1, "loss": 0.25, "best": True}, {"seconds": 2.0}))
        recorder.record(Event("checkpoint", {"step": 1, "path": str(run.checkpoints / "step-1")}))
        recorder.record(Event("novelty", {"x": object()}))
    assert lines(run.metrics) == [
        {"event": "step", "step": 1, "loss": 0.5},
        {"event": "validation", "step": 1, "loss": 0.25, "best": True},
        {"event": "checkpoint", "step": 1, "path": "checkpoints/step-1"},
    ]
    assert lines(run.timings) == [
        {"event": "step", "step": 1, "seconds": 0.1, "tokens_per_second": 10.0},
        {"event": "validation", "step": 1, "seconds": 2.0},
    ]
    texts = [line.partition("Z ")[2] for line in run.log.read_text(encoding="utf-8").splitlines()]
    assert texts == ["training: 3 epochs", "Grüße"]


def test_a_figure_that_is_not_finite_is_still_json(tmp_path: Path) -> None:
    with RunRecorder(tmp_path) as recorder:
        recorder.record(Event("step", {"step": 1, "loss": float("nan"), "gradient_norm": float("inf")}))
    assert lines(tmp_path / "metrics.jsonl") == [{"event": "step", "step": 1, "loss": "nan", "gradient_norm": "inf"}]


def test_metrics_hold_neither_clock_nor_place(tmp_path: Path) -> None:
    for name in ("a", "b"):
        with RunRecorder(tmp_path / name) as recorder:
            for event in events_of(tmp_path / name, range(9)):
                recorder.record(event)
    assert (tmp_path / "a" / "metrics.jsonl").read_bytes() == (tmp_path / "b" / "metrics.jsonl").read_bytes()


def test_killed_at_any_byte_a_resumed_run_writes_what_an_uninterrupted_one_does(tmp_path: Path) -> None:
    with RunRecorder(tmp_path / "whole") as recorder:
        for event in events_of(tmp_path / "whole", range(9)):
            recorder.record(event)
    whole = (tmp_path / "whole" / "metrics.jsonl").read_bytes()
    metrics = tmp_path / "killed" / "metrics.jsonl"
    metrics.parent.mkdir()
    # The last checkpoint was of step 4; its own line, and all after it, may be torn or missing.
    began = whole.index(b'{"event": "checkpoint", "step": 4')
    for length in [*range(began, len(whole), 7), len(whole) - 1, len(whole)]:
        metrics.write_bytes(whole[:length])
        with RunRecorder.resume(metrics.parent, 4) as recorder:
            for event in events_of(metrics.parent, range(4, 9))[1:]:
                recorder.record(event)
        assert metrics.read_bytes() == whole, f"killed after byte {length}"


def test_resuming_from_nothing_begins_anew(tmp_path: Path) -> None:
    RunRecorder.resume(tmp_path, 0).close()
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "metrics.jsonl").write_bytes(b'{"event": "step", "step": 1}\n\xff{]\n[1]\n{"event": "st')
    (tmp_path / "timings.jsonl").write_bytes(b'{"event": "step", "step": 1, "seconds": 1}\n')
    RunRecorder.resume(tmp_path, 0).close()
    assert (tmp_path / "metrics.jsonl").read_bytes() == b""
    assert (tmp_path / "timings.jsonl").read_bytes() == b""


def test_a_disk_that_cannot_be_written_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").mkdir()
    with pytest.raises(StorageError, match=r"metrics\.jsonl"):
        RunRecorder(tmp_path).record(Event("step", {"step": 1}))


def test_rollouts_behind_the_checkpoint_are_taken_back(tmp_path: Path) -> None:
    with RunRecorder(tmp_path) as recorder:
        for step in (1, 2, 3):
            recorder.record(Event("rollout", {"step": step, "row": 4, "answer": f"of step {step}", "reward": 0.5}))
            if step == 2:
                recorder.record(Event("checkpoint", {"step": 2, "path": "checkpoints/step-000002"}))
    path = tmp_path / "rollouts.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"step": 3, "row"')  # torn by a crash
    with RunRecorder.resume(tmp_path, 2) as recorder:
        recorder.record(Event("rollout", {"step": 3, "row": 4, "answer": "of step 3", "reward": 0.5}))
    assert path.read_bytes() == whole
