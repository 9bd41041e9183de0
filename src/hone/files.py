"""Writes that are whole or absent, and the checks around them.

Everything that hone writes for later reading goes through here: a temporary name in the same folder, fsync, rename,
fsync of the folder. A reader therefore never meets a half-written file; a killed writer leaves at most a temporary
name (``.<name>.<token>.tmp``), which :func:`remove_abandoned` takes away.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from hone.errors import StorageError

__all__ = [
    "atomic_folder",
    "exclusive_lock",
    "remove_abandoned",
    "remove_folder",
    "require_free_space",
    "sha256_file",
    "sync_folder",
    "write_atomically",
    "write_json",
]

_TEMPORARY_SUFFIX = ".tmp"
_REPLACED_SUFFIX = ".old.tmp"
_TEMPORARY_NAME = re.compile(r"\.(?P<name>.+)\.[0-9a-f]{12}(?P<replaced>\.old)?\.tmp")
_LOCK_POLL_SECONDS = 0.05


def write_atomically(path: str | os.PathLike[str], data: bytes | str) -> None:
    """Write a file so that it holds either its old content or all of ``data``, never a part.

    Args:
        path: the file; missing parent folders are made.
        data: the whole content; text is written as UTF-8, with its line ends as they are.

    Raises:
        StorageError: the file cannot be written (no space, no permission, a folder in its place).
    """
    target = Path(path)
    content = data.encode("utf-8") if isinstance(data, str) else data
    temporary = _temporary_sibling(target, _TEMPORARY_SUFFIX)
    try:
        _make_folders(target.parent)
        with temporary.open("xb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, target)
        sync_folder(target.parent)
    except OSError as error:
        raise _cannot_write(target, error) from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """Write ``value`` as indented UTF-8 JSON, atomically.

    Args:
        path: the file; missing parent folders are made.
        value: anything that JSON can hold. NaN and infinity are not JSON: they raise ``ValueError``,
            the caller's mistake.

    Raises:
        StorageError: the file cannot be written.
    """
    write_atomically(path, json.dumps(value, ensure_ascii=False, indent=2, allow_nan=False) + "\n")


@contextmanager
def atomic_folder(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Fill a folder under a temporary name; it takes its own name when the block ends without an error.

    An existing folder of that name is replaced. Folders cannot be exchanged in one call on every platform, so the old
    one is moved aside first. A kill in that instant leaves the name absent, never a mixture of old and new, and
    :func:`remove_abandoned` puts the old folder back.

    Args:
        path: the folder to be made; missing parents are made too.

    Yields:
        The temporary folder, empty, beside ``path``.

    Raises:
        StorageError: an ``OSError`` came up, in the block or after it; every other error of the block passes
            through. Either way the temporary folder is removed and ``path`` is as it was.
    """
    target = Path(path)
    temporary = _temporary_sibling(target, _TEMPORARY_SUFFIX)
    try:
        _make_folders(target.parent)
        temporary.mkdir()
        yield temporary
        _sync_tree(temporary)
        _move_into_place(temporary, target)
    except OSError as error:
        raise _cannot_write(target, error) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def remove_abandoned(folder: str | os.PathLike[str]) -> list[str]:
    """Remove what killed writers left directly in ``folder``; call it only while no other process writes there.

    A folder that was moved aside, and whose successor never came to stand in its place, is put back.

    Args:
        folder: the folder to look in; one that does not exist is fine.

    Returns:
        The names removed, sorted.

    Raises:
        StorageError: something cannot be removed or put back.
    """
    removed = []
    for entry in sorted(Path(folder).glob(f".*{_TEMPORARY_SUFFIX}")):
        if not (match := _TEMPORARY_NAME.fullmatch(entry.name)):
            continue
        original = entry.with_name(match["name"])
        try:
            if match["replaced"] and not original.exists():
                entry.rename(original)
                continue
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink(missing_ok=True)
        except OSError as error:
            raise _cannot_write(entry, error, "removed or renamed") from error
        removed.append(entry.name)
    return removed


def remove_folder(path: str | os.PathLike[str]) -> None:
    """Remove a folder so that it stands under its name whole or not at all, whenever the process or the power ends.

    It takes a temporary name first; what a killed remover leaves is taken away by :func:`remove_abandoned`.

    Args:
        path: the folder; it must exist.

    Raises:
        StorageError: it cannot be renamed or removed.
    """
    target = Path(path)
    temporary = _temporary_sibling(target, _TEMPORARY_SUFFIX)
    try:
        target.rename(temporary)
        sync_folder(target.parent)  # else the power can end with the files gone and the name still there
        shutil.rmtree(temporary)
    except OSError as error:
        raise _cannot_write(target, error, "removed or renamed") from error


@contextmanager
def exclusive_lock(path: str | os.PathLike[str], *, what: str, wait_seconds: float = 0.0) -> Iterator[None]:
    """Hold a lock that one process has at a time; the system frees it when its holder dies, however it dies.

    Args:
        path: the lock file. It holds the owner's process id, and stays when the lock is freed: removing it would let
            two processes lock two files of one name.
        what: what is locked, for the message.
        wait_seconds: how long to wait for another holder.

    Raises:
        StorageError: another process holds the lock, or the lock file cannot be written.
    """
    target = Path(path)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        stream = target.open("a+b")
    except OSError as error:
        raise _cannot_write(target, error) from error
    with stream:
        give_up_at = time.monotonic() + wait_seconds
        while not _try_lock(stream):
            if time.monotonic() >= give_up_at:
                raise StorageError(
                    f"{what} is in use by another process{_owner(target)}",
                    where=str(target.parent),
                    remedy="wait until that process has ended, or stop it",
                )
            time.sleep(_LOCK_POLL_SECONDS)
        try:
            stream.truncate(0)
            stream.write(str(os.getpid()).encode())
            stream.flush()
            yield
        finally:
            stream.truncate(0)
            _unlock(stream)


def sha256_file(path: str | os.PathLike[str]) -> str:
    """The SHA-256 of a file's bytes, in hexadecimal; the file is streamed.

    Raises:
        StorageError: the file cannot be read.
    """
    try:
        with Path(path).open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise StorageError(f"cannot be read: {error.strerror or error}", where=str(path)) from error


def require_free_space(path: str | os.PathLike[str], needed_bytes: int, what: str) -> None:
    """Refuse, before any work is done, what the disk cannot hold.

    Args:
        path: where the bytes will go; need not exist yet.
        needed_bytes: bytes about to be written.
        what: what they are for, as in "checkpoints and the adapter".

    Raises:
        StorageError: fewer than ``needed_bytes`` are free; the message gives both figures.
    """
    existing = Path(path).absolute()
    while not existing.exists() and existing != existing.parent:
        existing = existing.parent
    free_bytes = shutil.disk_usage(existing).free
    if free_bytes < needed_bytes:
        raise StorageError(
            f"not enough disk space for {what}: {_readable(needed_bytes)} ({needed_bytes} bytes) needed, "
            f"{_readable(free_bytes)} ({free_bytes} bytes) free",
            where=str(path),
            remedy="free some space, or choose another disk with --output or HONE_HOME",
        )


if sys.platform == "win32":
    import msvcrt

    _LOCKED_BYTE = 1 << 20  # beyond the process id, which others must be able to read: locks are mandatory there

    def _try_lock(stream: IO[bytes]) -> bool:
        stream.seek(_LOCKED_BYTE)
        try:
            msvcrt.locking(stream.fileno(), msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True

    def _unlock(stream: IO[bytes]) -> None:
        stream.seek(_LOCKED_BYTE)
        msvcrt.locking(stream.fileno(), msvcrt.LK_UNLCK, 1)

else:
    import fcntl

    def _try_lock(stream: IO[bytes]) -> bool:
        # flock, not lockf: the latter is lost as soon as any handle of the file is closed in this process
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def _unlock(stream: IO[bytes]) -> None:
        fcntl.flock(stream, fcntl.LOCK_UN)


def _owner(lock_file: Path) -> str:
    with suppress(OSError):
        owner = lock_file.read_bytes()
        if owner.isdigit():
            return f" (process {int(owner)})"
    return ""


def _temporary_sibling(target: Path, suffix: str) -> Path:
    return target.with_name(f".{target.name}.{secrets.token_hex(6)}{suffix}")


def _make_folders(folder: Path) -> None:
    """``mkdir -p`` that lasts: a new folder's name is on the disk only when the folder above it is."""
    missing = []
    while not folder.exists():
        missing.append(folder)
        folder = folder.parent
    for path in reversed(missing):
        path.mkdir(exist_ok=True)  # another process may have been quicker
        sync_folder(path.parent)


def _move_into_place(temporary: Path, target: Path) -> None:
    if not target.exists():
        temporary.rename(target)
        sync_folder(target.parent)
        return
    replaced = _temporary_sibling(target, _REPLACED_SUFFIX)
    target.rename(replaced)
    try:
        temporary.rename(target)
    except OSError:
        replaced.rename(target)
        raise
    sync_folder(target.parent)  # before the old content goes, which until then may still be what the name leads to
    shutil.rmtree(replaced, ignore_errors=True)


def _sync_tree(folder: Path) -> None:
    mode = "r+b" if os.name == "nt" else "rb"  # Windows flushes only a handle that may write
    for parent, _folders, names in os.walk(folder):
        for name in names:
            with (Path(parent) / name).open(mode) as stream:
                os.fsync(stream.fileno())
        sync_folder(Path(parent))


def sync_folder(folder: Path) -> None:
    """Have the system write a folder's names to the disk; a new or renamed file may else be gone with the power."""
    if os.name == "nt":
        return  # Windows has no fsync of a folder
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _cannot_write(target: Path, error: OSError, done: str = "written") -> StorageError:
    cause = error.strerror or str(error)
    if error.filename is not None and not Path(error.filename).name.startswith(f".{target.name}."):
        cause += f" ({error.filename})"
    remedy = "check that the disk has space and that the folder may be written to"
    return StorageError(f"cannot be {done}: {cause}", where=str(target), remedy=remedy)


def _readable(num_bytes: int) -> str:
    size = float(num_bytes)
    for unit in ("bytes", "kB", "MB", "GB"):
        if size < 1000 or unit == "GB":
            break
        size /= 1000
    return f"{size:.1f} {unit}" if unit != "bytes" else f"{num_bytes} bytes"
