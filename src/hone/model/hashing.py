"""Content hashes: of a file, remembered while the file is untouched, and of a model's folder."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from hone.errors import StorageError
from hone.files import sha256_file, write_json

__all__ = ["cached_sha256", "hash_of_files"]

# Below this, reading is as quick as looking the hash up.
_CACHED_FROM_BYTES = 16_000_000
# A file written this recently may be written again within the clock's grain, size and time unchanged.
_SETTLED_SECONDS = 2.0


def cached_sha256(path: Path, *, home: Path) -> str:
    """The SHA-256 of a file's bytes; of a big file it is remembered under ``home``.

    What is remembered holds while path, device, inode, size and modification time (in nanoseconds) are the same. It
    tells whether a file was replaced or rewritten, not whether its disk has failed.

    Raises:
        StorageError: the file cannot be read. A memory that cannot be read or written is done without.
    """
    try:
        status = path.stat()
    except OSError as error:
        raise StorageError(f"cannot be read: {error.strerror or error}", where=str(path)) from error
    if status.st_size < _CACHED_FROM_BYTES:
        return sha256_file(path)
    identity = [str(path.resolve()), status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns]
    entry = home / "cache" / "sha256" / (hashlib.sha256(os.fsencode(path.resolve())).hexdigest()[:32] + ".json")
    known = _remembered(entry, identity)
    if known is not None:
        return known
    found = sha256_file(path)
    if time.time() - status.st_mtime > _SETTLED_SECONDS:
        with suppress(StorageError):
            write_json(entry, {"identity": identity, "sha256": found})
    return found


def hash_of_files(paths: Iterable[Path], *, home: Path) -> str:
    """One hash of several files: SHA-256 over the sorted lines ``<name>`` NUL ``<sha256 of its bytes>`` line feed."""
    lines = sorted(f"{path.name}\0{cached_sha256(path, home=home)}\n" for path in paths)
    return hashlib.sha256("".join(lines).encode("utf-8")).hexdigest()


def _remembered(entry: Path, identity: list[object]) -> str | None:
    try:
        value = json.loads(entry.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if not isinstance(value, dict) or value.get("identity") != identity:
        return None
    found = value.get("sha256")
    return found if isinstance(found, str) and len(found) == 64 else None
