"""Each file call of each writer is failed in each way: there is always a sound state, the old one or the new one."""

from __future__ import annotations

import errno
import shutil
from pathlib import Path

import pytest

from hone.engine.checkpoint import save_checkpoint
from hone.engine.events import Event
from hone.errors import StorageError
from hone.files import remove_abandoned, write_atomically, write_json
from hone.model.adapter_files import load_adapter, save_adapter
from hone.registry.recorder import RunRecorder
from hone.registry.runs import RunFolder
from tests.reliability.checkpoints import after_a_start, checkpoint_of, steps_of
from tests.reliability.file_calls import Ending, Fault, FileCalls, Killed, every_fault
from tests.tiny import attach_random_adapter, tiny_model

# --- the harness itself ---


def _write(folder: Path) -> None:
    with (folder / "x").open("wb") as stream:
        stream.write(b"abcdef")


def test_calls_are_counted_and_those_elsewhere_are_not(tmp_path: Path) -> None:
    inside = tmp_path / "inside"
    inside.mkdir()
    with FileCalls([inside]) as calls:
        _write(inside)
        write_atomically(inside / "deep" / "y", "text")
        (inside / "x").read_bytes()
        shutil.rmtree(inside / "deep")
        _write(tmp_path)
    names = [(call.name, call.path.name.split(".")[-1]) for call in calls.calls]
    assert names[:2] == [("create", "x"), ("write", "x")]
    assert [name for name, _ in names[2:10]] == [
        "mkdir", "open", "fsync", "create", "write", "fsync", "rename", "open",
    ]  # fmt: skip
    assert {"read", "unlink", "rmdir"} <= {name for name, _ in names}
    assert not [call for call in calls.calls if inside not in (call.path, *call.path.parents)]


@pytest.mark.parametrize(
    ("fault", "left"),
    [
        (Fault("kill before", 1), None),
        (Fault("kill after", 1), b""),
        (Fault("kill before", 2), b""),
        (Fault("kill within", 2), b"abc"),
        (Fault("kill after", 2), b"abcdef"),
        (Fault("short", 2), b"abcdef"),
    ],
    ids=str,
)
def test_a_kill_leaves_what_was_done_until_then(tmp_path: Path, fault: Fault, left: bytes | None) -> None:
    def work() -> None:
        try:
            _write(tmp_path)
        finally:  # a process that is gone cleans nothing up
            (tmp_path / "x").unlink()

    with FileCalls([tmp_path], fault=fault):
        if fault.kind == "short":
            _write(tmp_path)
        else:
            with pytest.raises(Killed):
                work()
    assert ((tmp_path / "x").read_bytes() if (tmp_path / "x").exists() else None) == left


@pytest.mark.parametrize(("kind", "number"), [("no space", errno.ENOSPC), ("input/output error", errno.EIO)])
def test_an_error_leaves_a_part(tmp_path: Path, kind: str, number: int) -> None:
    with (
        FileCalls([tmp_path], fault=Fault(kind, 2)),  # type: ignore[arg-type]
        pytest.raises(OSError, match=r"\[Errno") as caught,
        (tmp_path / "x").open("wb", buffering=0) as stream,
    ):
        stream.write(b"abcdef")
    assert caught.value.errno == number
    assert (tmp_path / "x").read_bytes() == b"abc"


def test_a_full_disk_stays_full_and_files_may_be_removed(tmp_path: Path) -> None:
    (tmp_path / "old").write_bytes(b"old")
    with FileCalls([tmp_path], fault=Fault("disk full", 1)):
        for name in ("a", "b"):
            with pytest.raises(OSError, match="No space"):
                (tmp_path / name).open("wb")
        (tmp_path / "old").unlink()
    assert not list(tmp_path.iterdir())


# --- checkpoints ---


# The checkpoints that there were, how many are kept, the step that is saved, and what is there when it was saved.
@pytest.mark.parametrize(
    ("there", "keep", "step", "after"),
    [([], 2, 8, [8]), ([4], 1, 8, [8]), ([2, 4], 2, 8, [4, 8])],
    ids=["first", "keep 1", "keep 2"],
)
def test_a_checkpoint_is_the_old_one_or_the_new_one_whatever_call_fails(
    tmp_path: Path, there: list[int], keep: int, step: int, after: list[int]
) -> None:
    before = tmp_path / "before"
    before.mkdir()
    for old in there:
        save_checkpoint(before, checkpoint_of(old), keep=0)

    def check(folder: Path, ending: Ending, fault: Fault) -> None:
        newest, damaged = after_a_start(folder)
        assert damaged == [], fault
        assert newest in {max(there, default=0), step}, fault
        # as many as were kept before are there at every instant, and one that was begun to be removed is whole or gone
        assert len(steps_of(folder)) >= len(there), fault
        if ending == "done":
            assert steps_of(folder) == after, fault
        if fault.at % 3 == 0:  # and the run goes on
            save_checkpoint(folder, checkpoint_of(12), keep=1)
            assert after_a_start(folder) == (12, []), fault
            assert steps_of(folder) == [12], fault

    trials = every_fault(before, lambda folder: save_checkpoint(folder, checkpoint_of(step), keep=keep), check,
                         scratch=tmp_path)  # fmt: skip
    assert trials > 200


def test_the_same_step_again_is_the_old_one_or_the_new_one(tmp_path: Path) -> None:
    """As after a damaged checkpoint was replaced: the old folder is moved aside, and comes back if need be."""
    before = tmp_path / "before"
    save_checkpoint(before, checkpoint_of(8), keep=1)

    def check(folder: Path, ending: Ending, fault: Fault) -> None:
        assert after_a_start(folder) == (8, []), (ending, fault)

    assert every_fault(before, lambda folder: save_checkpoint(folder, checkpoint_of(8), keep=1), check,
                       scratch=tmp_path) > 200  # fmt: skip


def test_an_old_checkpoint_goes_only_after_the_new_one_was_read_back(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, checkpoint_of(4), keep=1)
    with FileCalls([tmp_path]) as calls:
        save_checkpoint(tmp_path, checkpoint_of(8), keep=1)
    done = [(call.name, call.path.relative_to(tmp_path).as_posix()) for call in calls.calls]
    goes = done.index(("rename", "step-000004"))
    named = [number for number, call in enumerate(calls.calls) if call.target == tmp_path / "step-000008"]
    written = max(number for number, call in enumerate(done) if call[0] == "write")
    read = {call[1].rpartition("/")[2] for call in done[written : named[0]] if call[0] == "read"}
    assert read == {
        "manifest.json",
        "progress.json",
        "adapter.safetensors",
        "best.safetensors",
        "optimizer.safetensors",
    }
    assert written < named[0] < goes
    assert ("fsync", ".") in done[named[0] : goes], "and its name is on the disk"
    assert not [call for call in done[:goes] if call[0] in ("unlink", "rmdir") and "step-000004" in call[1]]


# --- the adapter ---


def test_an_adapter_is_whole_or_absent_whatever_call_fails(tmp_path: Path) -> None:
    model = tiny_model("llama", num_hidden_layers=1)
    attach_random_adapter(model)
    before = tmp_path / "before"
    before.mkdir()
    plain = tiny_model("llama", num_hidden_layers=1)

    def work(folder: Path) -> None:
        save_adapter(model, folder / "adapter", base_name="tiny", notes={"base_hash": "ab"})

    def check(folder: Path, ending: Ending, fault: Fault) -> None:
        remove_abandoned(folder)
        found = sorted(path.name for path in folder.iterdir())
        assert found == ["adapter"] if ending == "done" else found in ([], ["adapter"]), fault
        if found:
            # a model that is not fit for it is refused only after the sums were compared
            with pytest.raises(Exception, match="fit this model"):
                load_adapter(plain.model.layers, folder / "adapter")

    trials = every_fault(before, work, check, scratch=tmp_path)
    assert trials > 150
    work(before)
    trials = every_fault(before, work, check, scratch=tmp_path, kinds=("kill before", "kill within", "no space"))
    assert trials > 70


# --- the run's own files ---


def test_the_state_of_a_run_is_the_one_before_or_the_one_after(tmp_path: Path) -> None:
    before = tmp_path / "before"
    RunFolder.at(before, name="orders").start({})

    def work(folder: Path) -> None:
        RunFolder.open(folder).finish({"steps": 3})

    def check(folder: Path, ending: Ending, fault: Fault) -> None:
        remove_abandoned(folder)
        run = RunFolder.open(folder)
        assert run.record()["status"] in ({"done"} if ending == "done" else {"running", "done"}), fault
        if run.record()["status"] == "done":
            assert run.result.read_text(encoding="utf-8") == '{\n  "steps": 3\n}\n'

    assert every_fault(before, work, check, scratch=tmp_path) > 50


def test_metrics_are_cut_back_whole_or_not_at_all(tmp_path: Path) -> None:
    before = tmp_path / "before"
    before.mkdir()
    lines = [f'{{"event": "step", "step": {step}}}\n' for step in range(1, 6)]
    whole, cut = "".join(lines), "".join(lines[:3])
    (before / "metrics.jsonl").write_text(whole + '{"event": "st', encoding="utf-8")

    def check(folder: Path, ending: Ending, fault: Fault) -> None:
        remove_abandoned(folder)
        text = (folder / "metrics.jsonl").read_text(encoding="utf-8")
        assert text == cut or (ending != "done" and text == whole + '{"event": "st'), fault
        RunRecorder.resume(folder, 3)
        assert (folder / "metrics.jsonl").read_text(encoding="utf-8") == cut

    assert every_fault(before, lambda folder: RunRecorder.resume(folder, 3), check, scratch=tmp_path) > 30


@pytest.mark.parametrize("kind", ["no space", "disk full", "short"])
def test_a_line_that_a_full_disk_refused_is_not_written_later(tmp_path: Path, kind: str) -> None:
    """Else the file would get it when it is closed, perhaps after other lines."""
    recorder = RunRecorder(tmp_path)
    with FileCalls([tmp_path], fault=Fault(kind, 3)):  # type: ignore[arg-type]
        if kind == "short":
            recorder.record(Event("step", {"step": 1}))
        else:
            with pytest.raises(StorageError, match="No space"):
                recorder.record(Event("step", {"step": 1}))
        recorder.close()
    text = (tmp_path / "metrics.jsonl").read_text(encoding="utf-8")
    line = '{"event": "step", "step": 1}\n'
    assert text == (line if kind == "short" else line[: len(line) // 2])


def test_a_number_that_is_no_json_never_reaches_the_disk(tmp_path: Path) -> None:
    with FileCalls([tmp_path]) as calls, pytest.raises(ValueError, match="nan"):
        write_json(tmp_path / "x.json", {"loss": float("nan")})
    assert calls.calls == []
