"""Every file-system call below some folders, counted, and one of them failed: a kill, a full disk, an error, a part.

    with FileCalls([folder], fault=Fault("kill within", 17)) as calls:
        save_checkpoint(folder, ...)          # the 17th call writes half of its bytes, and nothing happens after it

A kill inside one process is a :class:`Killed` after which no further call has any effect, so that clean-up code leaves
no trace either, as of a process that is gone. A child process is really killed (``die``).
"""

from __future__ import annotations

import errno
import io
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, NoReturn, Self, TypeVar

from hone.errors import StorageError

FaultKind = Literal["kill before", "kill within", "kill after", "no space", "disk full", "input/output error", "short"]
FAULTS: tuple[FaultKind, ...] = (
    "kill before",  # of the call: nothing of it happened
    "kill within",  # half of a write happened
    "kill after",
    "no space",  # this one call fails; a write after half of its bytes
    "disk full",  # from this call on, whatever needs space fails
    "input/output error",
    "short",  # a write takes half of its bytes and says so, as write(2) may
)
_NEEDS_SPACE = {"write", "create", "mkdir", "fsync"}
_Result = TypeVar("_Result")


class Killed(BaseException):
    """The process is gone."""


@dataclass(frozen=True)
class Call:
    """One call: its number from 1, what it does, and to which path."""

    number: int
    name: str
    at: str
    to: str = ""

    @property
    def path(self) -> Path:
        """What it is done to."""
        return Path(self.at)

    @property
    def target(self) -> Path | None:
        """The new name, where it gives one."""
        return Path(self.to) if self.to else None

    def __str__(self) -> str:
        return f"{self.number} {self.name} {self.path.name}"


@dataclass(frozen=True)
class Fault:
    """What happens at the call of this number."""

    kind: FaultKind
    at: int


class FileCalls:
    """Counts the calls on paths below ``watched`` while the block runs, and fails one.

    Args:
        watched: folders, or single files.
        fault: what fails; None only counts.
        die: ends the process; unless given, :class:`Killed` is raised now and at every later call.
        observe: told of each call that was made.
        sync: whether fsync is really done; counting it is enough where no power is cut.
    """

    def __init__(
        self,
        watched: Sequence[Path],
        *,
        fault: Fault | None = None,
        die: Callable[[Call], None] | None = None,
        observe: Callable[[Call], None] | None = None,
        sync: bool = False,
    ) -> None:
        self.calls: list[Call] = []
        self.dead = False
        self._watched = [os.path.abspath(path) for path in watched]
        self._fault = fault
        self._die_with = die
        self._observe = observe
        self._sync = sync
        self._paths: dict[int, str] = {}  # of open files and folders by descriptor
        self._plain = {name: getattr(os, name) for name in _PATCHED}
        self._plain_io_open = io.open

    def __enter__(self) -> Self:
        for name in _PATCHED:
            setattr(os, name, getattr(self, f"_{name}"))
        io.open = self._io_open
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for name, plain in self._plain.items():
            setattr(os, name, plain)
        io.open = self._plain_io_open

    def perform(
        self,
        name: str,
        path: str,
        do: Callable[[], _Result],
        *,
        half: Callable[[], _Result] | None = None,
        target: str | None = None,
    ) -> _Result:
        """Count a call and make it, unless it is the one that fails."""
        if self.dead:
            raise Killed
        call = Call(len(self.calls) + 1, name, path, target or "")
        self.calls.append(call)
        kind = self._fault.kind if self._fault and self._fault.at == call.number else None
        full = self._fault is not None and self._fault.kind == "disk full" and call.number >= self._fault.at
        if kind == "kill before":
            self._die(call)
        if kind == "kill within":
            if half:
                half()
            self._die(call)
        if kind == "no space" or (full and name in _NEEDS_SPACE):
            self._fail(errno.ENOSPC, path, half)
        if kind == "input/output error":
            self._fail(errno.EIO, path, half)
        result = half() if kind == "short" and half else do()
        if self._observe:
            self._observe(call)
        if kind == "kill after":
            self._die(call)
        return result

    def _die(self, call: Call) -> NoReturn:
        self.dead = True
        if self._die_with:
            self._die_with(call)
        raise Killed

    @staticmethod
    def _fail(number: int, path: str, half: Callable[[], Any] | None) -> NoReturn:
        if half:
            half()
        raise OSError(number, os.strerror(number), path)

    # --- the calls -----------------------------------------------------------------------------------------------

    def _at(self, path: Any, dir_fd: int | None = None) -> str | None:
        """The absolute path where it is watched, else None."""
        if isinstance(path, int):
            full = self._paths.get(path)
            return full
        parent = self._paths.get(dir_fd, "") if dir_fd is not None else ""
        full = os.path.abspath(os.path.join(parent, os.fsdecode(path)))
        return full if any(full == one or full.startswith(one + os.sep) for one in self._watched) else None

    def _open(self, path: Any, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        full = self._at(path, dir_fd)
        if full is None:
            return int(self._plain["open"](path, flags, mode, dir_fd=dir_fd))
        descriptor = self.perform("open", full, lambda: self._plain["open"](path, flags, mode, dir_fd=dir_fd))
        self._paths[descriptor] = full
        return int(descriptor)

    def _close(self, descriptor: int) -> None:
        self._paths.pop(descriptor, None)
        self._plain["close"](descriptor)

    def _fsync(self, descriptor: Any) -> None:
        number = descriptor if isinstance(descriptor, int) else descriptor.fileno()
        full = self._paths.get(number)
        if full is None:
            return self._plain["fsync"](number)  # type: ignore[no-any-return]
        return self.perform("fsync", full, lambda: self._plain["fsync"](number) if self._sync else None)

    def _mkdir(self, path: Any, mode: int = 0o777, *, dir_fd: int | None = None) -> None:
        self._simple("mkdir", path, lambda: self._plain["mkdir"](path, mode, dir_fd=dir_fd), dir_fd)

    def _unlink(self, path: Any, *, dir_fd: int | None = None) -> None:
        self._simple("unlink", path, lambda: self._plain["unlink"](path, dir_fd=dir_fd), dir_fd)

    _remove = _unlink

    def _rmdir(self, path: Any, *, dir_fd: int | None = None) -> None:
        self._simple("rmdir", path, lambda: self._plain["rmdir"](path, dir_fd=dir_fd), dir_fd)

    def _rename(self, source: Any, target: Any, **given: Any) -> None:
        self._simple("rename", source, lambda: self._plain["rename"](source, target, **given), target=target)

    def _replace(self, source: Any, target: Any, **given: Any) -> None:
        self._simple("rename", source, lambda: self._plain["replace"](source, target, **given), target=target)

    def _simple(
        self, name: str, path: Any, do: Callable[[], Any], dir_fd: int | None = None, target: Any = None
    ) -> None:
        full = self._at(path, dir_fd)
        if full is None:
            do()
        else:
            self.perform(name, full, do, target=os.path.abspath(target) if target is not None else None)

    def _io_open(self, file: Any, mode: str = "r", buffering: int = -1, *text: Any, **more: Any) -> Any:
        full = None if isinstance(file, int) else self._at(file)
        if full is None:
            return self._plain_io_open(file, mode, buffering, *text, **more)
        creates = any(letter in mode for letter in "xwa") and not os.path.lexists(full)
        raw_mode = mode.replace("b", "").replace("t", "")
        raw = self.perform("create" if creates else "open", full, lambda: _Raw(self, full, raw_mode))
        self._paths[raw.fileno()] = full
        if buffering == 0:
            return raw
        buffered: Any
        if "+" in mode:
            buffered = io.BufferedRandom(raw)
        else:
            buffered = io.BufferedReader(raw) if "r" in mode else io.BufferedWriter(raw)
        if "b" in mode:
            return buffered
        names = ("encoding", "errors", "newline")
        return io.TextIOWrapper(buffered, **{**dict(zip(names, text, strict=False)), **more})


_PATCHED = ("open", "close", "fsync", "mkdir", "unlink", "remove", "rmdir", "rename", "replace")


class _Raw(io.FileIO):
    """A file whose reads and writes are counted one by one."""

    def __init__(self, calls: FileCalls, path: str, mode: str) -> None:
        super().__init__(path, mode)
        self._calls = calls
        self._at = path

    def write(self, data: Any) -> int:
        if self._calls.dead:
            return len(data)  # what a buffer still held when the process was gone
        view = memoryview(data).cast("B")
        write = super().write
        return int(
            self._calls.perform(
                "write", self._at, lambda: write(view), half=lambda: write(view[: max(1, len(view) // 2)])
            )
        )

    def readinto(self, buffer: Any) -> int:
        read = super().readinto
        return int(self._calls.perform("read", self._at, lambda: read(buffer)))

    def readall(self) -> bytes:
        read = super().readall
        return bytes(self._calls.perform("read", self._at, read))

    def close(self) -> None:
        if not self.closed:
            self._calls._paths.pop(self.fileno(), None)
        super().close()


Ending = Literal["done", "killed", "refused"]


def every_fault(
    before: Path,
    work: Callable[[Path], object],
    check: Callable[[Path, Ending, Fault], None],
    *,
    scratch: Path,
    kinds: Sequence[FaultKind] = tuple(kind for kind in FAULTS if kind != "kill after"),
) -> int:
    """Fail each call of ``work`` in each way, each time on a fresh copy of ``before``; the number of trials.

    Args:
        before: a folder as it was before.
        work: what is tried, on a copy of it; it may raise StorageError and nothing else.
        check: looks at the copy afterwards, and asserts.
        scratch: where the copy is made.
        kinds: the ways to fail; a kill after a call is one before the next call.
    """
    trials = 0
    names = _names_of_calls(before, work, scratch)
    for kind in kinds:
        for number, name in enumerate([*names, ""], start=1):
            if kind in ("kill within", "short") and name != "write":
                continue  # no other call has a half
            folder = Path(shutil.copytree(before, scratch / "copy"))
            fault = Fault(kind, number)
            with FileCalls([folder], fault=fault) as calls:
                ending: Ending = "done"
                try:
                    work(folder)
                except Killed:
                    ending = "killed"
                except StorageError:
                    ending = "refused"
            assert (len(calls.calls) >= number) == bool(name), "the calls are the same each time"
            trials += 1
            with FileCalls([folder]):  # which spares the disk the syncs of what is looked at and thrown away
                check(folder, ending, fault)
            shutil.rmtree(folder)
    return trials


def _names_of_calls(before: Path, work: Callable[[Path], object], scratch: Path) -> list[str]:
    folder = Path(shutil.copytree(before, scratch / "copy"))
    with FileCalls([folder]) as calls:
        work(folder)
    shutil.rmtree(folder)
    return [call.name for call in calls.calls]
