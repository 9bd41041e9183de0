"""The power goes out after each file call: what was reported as saved is there, and nothing is ever half there."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from hone.engine.checkpoint import save_checkpoint
from hone.files import atomic_folder, remove_abandoned, write_atomically
from hone.model.adapter_files import read_adapter_notes, save_adapter
from tests.reliability.checkpoints import after_a_start, checkpoint_of, steps_of
from tests.reliability.power_loss import every_power_loss
from tests.tiny import attach_random_adapter, tiny_model

pytestmark = pytest.mark.skipif(os.name == "nt", reason="Windows has no fsync of a folder")

# --- the harness itself: it finds what is known to be wrong ---


def _rename_without_sync(folder: Path) -> None:
    (folder / "x.tmp").write_bytes(b"new")
    (folder / "x.tmp").replace(folder / "x")


def _sync_without_folder(folder: Path) -> None:
    with (folder / "x.tmp").open("wb") as stream:
        stream.write(b"new")
        stream.flush()
        os.fsync(stream.fileno())
    (folder / "x.tmp").replace(folder / "x")


def _contents(before: Path, work: object, scratch: Path) -> dict[bool, set[bytes]]:
    found: dict[bool, set[bytes]] = {False: set(), True: set()}
    every_power_loss(before, work, lambda folder, done: found[done].add((folder / "x").read_bytes()), scratch=scratch)  # type: ignore[arg-type]
    return found


def test_what_is_known_to_be_wrong_is_found(tmp_path: Path) -> None:
    before = tmp_path / "before"
    before.mkdir()
    (before / "x").write_bytes(b"old")
    assert _contents(before, _rename_without_sync, tmp_path) == {False: {b"old"}, True: {b"old", b""}}
    assert b"" not in set.union(*_contents(before, _sync_without_folder, tmp_path).values())
    assert _contents(before, _sync_without_folder, tmp_path)[True] == {b"old", b"new"}
    found = _contents(before, lambda folder: write_atomically(folder / "x", "new"), tmp_path)
    assert found[True] == {b"new"}
    assert found[False] <= {b"old", b"new"}


# --- hone's writers ---


def test_a_file_that_was_written_is_there_with_its_folders(tmp_path: Path) -> None:
    before = tmp_path / "before"
    before.mkdir()

    def check(folder: Path, done: bool) -> None:
        path = folder / "a" / "b" / "x"
        assert path.read_bytes() == b"new" if done or path.exists() else True

    states = every_power_loss(before, lambda folder: write_atomically(folder / "a" / "b" / "x", "new"), check,
                              scratch=tmp_path)  # fmt: skip
    assert states >= 5


def test_a_folder_that_is_replaced_is_the_old_one_or_the_new_one(tmp_path: Path) -> None:
    before = tmp_path / "before"
    (before / "it").mkdir(parents=True)
    for name in "abc":
        (before / "it" / name).write_text("old")

    def work(folder: Path) -> None:
        with atomic_folder(folder / "it") as temporary:
            for name in "abc":
                write_atomically(temporary / name, "new")

    def check(folder: Path, done: bool) -> None:
        remove_abandoned(folder)
        assert [path.name for path in folder.iterdir()] == ["it"]
        content = {path.name: path.read_text(encoding="utf-8") for path in (folder / "it").iterdir()}
        assert content in [dict.fromkeys("abc", "new")] + ([] if done else [dict.fromkeys("abc", "old")])

    assert every_power_loss(before, work, check, scratch=tmp_path) > 10


@pytest.mark.parametrize(("there", "keep"), [([], 2), ([4], 1), ([2, 4], 2)], ids=["first", "keep 1", "keep 2"])
def test_a_checkpoint_that_was_saved_is_on_the_disk(tmp_path: Path, there: list[int], keep: int) -> None:
    before = tmp_path / "before"
    before.mkdir()
    for old in there:
        save_checkpoint(before / "checkpoints", checkpoint_of(old), keep=0)

    def work(folder: Path) -> None:
        save_checkpoint(folder / "checkpoints", checkpoint_of(8), keep=keep)

    def check(folder: Path, done: bool) -> None:
        checkpoints = folder / "checkpoints"
        if not checkpoints.exists():
            assert not done
            assert not there
            return
        newest, damaged = after_a_start(checkpoints)
        assert damaged == []
        assert newest in ({8} if done else {max(there, default=0), 8})
        assert len(steps_of(checkpoints)) >= len(there)

    assert every_power_loss(before, work, check, scratch=tmp_path) > 15


def test_an_adapter_that_was_saved_is_on_the_disk(tmp_path: Path) -> None:
    model = tiny_model("llama", num_hidden_layers=1)
    attach_random_adapter(model)
    before = tmp_path / "before"
    save_adapter(model, before / "adapter", base_name="tiny", notes={"number": 1})

    def check(folder: Path, done: bool) -> None:
        remove_abandoned(folder)
        assert read_adapter_notes(folder / "adapter")["number"] in ({2} if done else {1, 2})

    def work(folder: Path) -> None:
        save_adapter(model, folder / "adapter", base_name="tiny", notes={"number": 2})

    assert every_power_loss(before, work, check, scratch=tmp_path) > 15
