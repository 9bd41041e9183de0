"""Files of rows, written one row after another, whole or absent like all that hone writes."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from hone.errors import StorageError
from hone.files import sync_folder

__all__ = ["atomic_stream"]


@contextmanager
def atomic_stream(path: str | os.PathLike[str]) -> Iterator[IO[bytes]]:
    """Write a file piece by piece; it takes its name when the block ends without an error, else it is not there.

    The temporary name is one that :func:`hone.files.remove_abandoned` knows.

    Args:
        path: the file; missing parent folders are made.

    Yields:
        The open temporary file beside it.

    Raises:
        StorageError: an ``OSError`` came up, in the block or after it; every other error of the block passes through.
    """
    target = Path(path)
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(6)}.tmp")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("xb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, target)
        sync_folder(target.parent)
    except OSError as error:
        raise StorageError(
            f"cannot be written: {error.strerror or error}",
            where=str(target),
            remedy="check that the disk has space and that the folder may be written to",
        ) from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
