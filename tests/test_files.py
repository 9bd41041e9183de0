"""Files are whole or absent, whatever happens while they are written; locks end with their holder."""

from __future__ import annotations

import errno
import hashlib
import json
import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from hone import files
from hone.errors import StorageError
from hone.files import (
    atomic_folder,
    exclusive_lock,
    remove_abandoned,
    require_free_space,
    sha256_file,
    write_atomically,
    write_json,
)

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="kills a forked process")


def in_killed_process(work: Callable[[], None]) -> None:
    """Run ``work`` in a process that ends at once, without any clean-up, when ``work`` is done."""
    process = multiprocessing.get_context("fork").Process(target=lambda: (work(), os._exit(9)))
    process.start()
    process.join()
    assert process.exitcode == 9


def names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


class TestWriteAtomically:
    def test_text_is_utf8_with_its_line_ends_and_missing_parents_are_made(self, tmp_path: Path) -> None:
        path = tmp_path / "a" / "b.txt"
        write_atomically(path, "Grüße\r\n\n")
        assert path.read_bytes() == b"Gr\xc3\xbc\xc3\x9fe\r\n\n"
        write_atomically(path, b"\x00\xff")
        assert path.read_bytes() == b"\x00\xff"
        assert names(path.parent) == ["b.txt"]

    @pytest.mark.parametrize("call", ["fsync", "replace"])
    @pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
    def test_a_failing_disk_leaves_the_old_content_and_nothing_else(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, number: int
    ) -> None:
        path = tmp_path / "result.json"
        path.write_text("old")

        def fail(*_arguments: object) -> None:
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(files.os, call, fail)
        with pytest.raises(StorageError, match=r"result\.json") as caught:
            write_atomically(path, "new")
        assert os.strerror(number) in caught.value.what
        assert path.read_text() == "old"
        assert names(tmp_path) == ["result.json"]

    def test_content_is_on_the_disk_before_it_has_its_name(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        calls = []
        fsync, replace = os.fsync, os.replace
        monkeypatch.setattr(files.os, "fsync", lambda handle: (calls.append("fsync"), fsync(handle)))
        monkeypatch.setattr(files.os, "replace", lambda *paths: (calls.append("replace"), replace(*paths)))
        write_atomically(tmp_path / "x", "x")
        assert calls[:2] == ["fsync", "replace"]
        assert os.name == "nt" or calls[2:] == ["fsync"]  # of the folder, which holds the name

    @needs_fork
    def test_a_kill_before_the_rename_leaves_the_old_content(self, tmp_path: Path) -> None:
        path = tmp_path / "x"
        path.write_text("old")

        def work() -> None:
            files.os.replace = lambda *_paths: os._exit(9)
            write_atomically(path, "new")

        in_killed_process(work)
        assert path.read_text() == "old"
        assert len(names(tmp_path)) == 2
        remove_abandoned(tmp_path)
        assert names(tmp_path) == ["x"]


def test_json_is_readable_and_strict(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    write_json(path, {"b": "Grüße", "a": [1.5, None]})
    assert "Grüße" in path.read_text(encoding="utf-8")
    assert list(json.loads(path.read_bytes())) == ["b", "a"]
    with pytest.raises(ValueError, match="nan"):
        write_json(path, {"loss": float("nan")})
    assert json.loads(path.read_bytes())["a"] == [1.5, None]


class TestAtomicFolder:
    def test_the_name_appears_only_when_all_is_written(self, tmp_path: Path) -> None:
        target = tmp_path / "deep" / "adapter"
        with atomic_folder(target) as folder:
            (folder / "sub").mkdir()
            (folder / "sub" / "x").write_text("1")
            assert not target.exists()
        assert (target / "sub" / "x").read_text() == "1"
        assert names(target.parent) == ["adapter"]

    def test_an_existing_folder_is_replaced_whole(self, tmp_path: Path) -> None:
        target = tmp_path / "adapter"
        target.mkdir()
        (target / "old").write_text("old")
        with atomic_folder(target) as folder:
            (folder / "new").write_text("new")
            assert names(target) == ["old"]
        assert names(target) == ["new"]
        assert names(tmp_path) == ["adapter"]

    @pytest.mark.parametrize(
        ("raised", "expected"),
        [(KeyboardInterrupt(), KeyboardInterrupt), (OSError(errno.ENOSPC, "No space left on device"), StorageError)],
    )
    def test_an_error_in_the_block_changes_nothing(
        self, tmp_path: Path, raised: BaseException, expected: type[BaseException]
    ) -> None:
        target = tmp_path / "adapter"
        target.mkdir()
        (target / "old").write_text("old")

        def write() -> None:
            with atomic_folder(target) as folder:
                (folder / "new").write_text("new")
                raise raised

        with pytest.raises(expected):
            write()
        assert names(target) == ["old"]
        assert names(tmp_path) == ["adapter"]

    @needs_fork
    @pytest.mark.parametrize("kill_at_rename", [1, 2])
    def test_a_kill_at_either_rename_keeps_the_old_folder(self, tmp_path: Path, kill_at_rename: int) -> None:
        target = tmp_path / "adapter"
        target.mkdir()
        (target / "old").write_text("old")
        rename, count = Path.rename, iter(range(1, 3))

        def work() -> None:
            Path.rename = lambda self, to: os._exit(9) if next(count) == kill_at_rename else rename(self, to)
            with atomic_folder(target) as folder:
                (folder / "new").write_text("new")

        in_killed_process(work)
        remove_abandoned(tmp_path)
        assert names(tmp_path) == ["adapter"]
        assert names(target) == ["old"]


def test_only_names_of_our_own_making_are_removed(tmp_path: Path) -> None:
    for name in (".mine.tmp", "x.tmp", ".adapter.0123456789ab.tmp.txt", ".x.0123456789ab.tmp"):
        (tmp_path / name).write_text("")
    assert remove_abandoned(tmp_path) == [".x.0123456789ab.tmp"]
    assert names(tmp_path) == [".adapter.0123456789ab.tmp.txt", ".mine.tmp", "x.tmp"]
    assert remove_abandoned(tmp_path / "missing") == []


def test_sha256_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"abc" * 100_000)
    assert sha256_file(path) == hashlib.sha256(b"abc" * 100_000).hexdigest()
    with pytest.raises(StorageError, match="missing"):
        sha256_file(tmp_path / "missing")


def test_too_little_space_is_refused_with_both_figures(tmp_path: Path) -> None:
    require_free_space(tmp_path / "not" / "yet", 1, "a byte")
    with pytest.raises(StorageError, match=f"the adapter: 1000000.0 GB .{10**15} bytes. needed") as caught:
        require_free_space(tmp_path / "not" / "yet", 10**15, "the adapter")
    assert "bytes) free" in caught.value.what


class TestExclusiveLock:
    def test_a_second_holder_is_refused_and_the_first_is_named(self, tmp_path: Path) -> None:
        path = tmp_path / ".lock"
        with exclusive_lock(path, what="the folder"):
            with (
                pytest.raises(StorageError, match=rf"the folder is in use by another process \(process {os.getpid()}"),
                exclusive_lock(path, what="the folder"),
            ):
                pass
            assert path.read_text() == str(os.getpid())
        with exclusive_lock(path, what="the folder"):
            pass

    def test_waiting_ends(self, tmp_path: Path) -> None:
        path = tmp_path / ".lock"
        began = time.monotonic()
        with (
            exclusive_lock(path, what="it"),
            pytest.raises(StorageError),
            exclusive_lock(path, what="it", wait_seconds=0.2),
        ):
            pass
        assert time.monotonic() - began >= 0.2

    @needs_fork
    def test_a_killed_holder_holds_nothing(self, tmp_path: Path) -> None:
        path = tmp_path / ".lock"
        holding = multiprocessing.get_context("fork").Event()

        def hold() -> None:
            with exclusive_lock(path, what="it"):
                holding.set()
                time.sleep(60)

        process = multiprocessing.get_context("fork").Process(target=hold)
        process.start()
        assert holding.wait(30)
        with pytest.raises(StorageError, match=str(process.pid)), exclusive_lock(path, what="it"):
            pass
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        with exclusive_lock(path, what="it"):
            assert path.read_text() == str(os.getpid())
