"""Tables that may be larger than the memory, in temporary files: of numbers, and of texts.

Rows of numbers are dealt out to files by their first column. Rows with an equal first number always meet in one part,
so that groups of equals can be found a part at a time.
"""

from __future__ import annotations

import struct
import tempfile
from array import array
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import IO

import numpy as np
from numpy.typing import NDArray

__all__ = ["NumberTable", "StoredText", "TextTable"]

_PARTS = 64
_BUFFERED_NUMBERS = 1 << 15
_PREFIX = "hone-audit-"
_TEXT_HEAD = struct.Struct("<QQQI")

StoredText = tuple[int, int, int, str]
"""Three numbers of the caller's, and the text."""


class NumberTable:
    """Rows of unsigned 64-bit numbers; holds at most 16 MiB in memory, and the rest in a temporary folder.

    Args:
        columns: numbers in a row.
    """

    def __init__(self, columns: int) -> None:
        self._columns = columns
        self._buffers = [array("Q") for _ in range(_PARTS)]
        self._folder: tempfile.TemporaryDirectory[str] | None = None

    def __enter__(self) -> NumberTable:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._folder is not None:
            self._folder.cleanup()

    def add(self, row: tuple[int, ...]) -> None:
        """Add one row, of as many numbers as there are columns."""
        buffer = self._buffers[row[0] % _PARTS]
        buffer.extend(row)
        if len(buffer) > _BUFFERED_NUMBERS:
            self._spill(row[0] % _PARTS)

    def extend(self, rows: NDArray[np.uint64]) -> None:
        """Add many rows, as an array of rows and columns."""
        parts = (rows[:, 0] % np.uint64(_PARTS)).astype(np.intp)
        rows = rows[np.argsort(parts, kind="stable")]
        ends = np.cumsum(np.bincount(parts, minlength=_PARTS))
        for part, (start, end) in enumerate(zip((0, *ends[:-1]), ends, strict=True)):
            if start == end:
                continue
            self._buffers[part].frombytes(rows[start:end].tobytes())
            if len(self._buffers[part]) > _BUFFERED_NUMBERS:
                self._spill(part)

    def parts(self) -> Iterator[NDArray[np.uint64]]:
        """The rows in parts, each sorted by all columns, the first one foremost; together all rows."""
        for number, buffer in enumerate(self._buffers):
            stored = self._file(number).read_bytes() if self._folder and self._file(number).exists() else b""
            rows = np.frombuffer(stored + buffer.tobytes(), dtype=np.uint64).reshape(-1, self._columns)
            if len(rows):
                yield rows[np.lexsort(tuple(rows[:, column] for column in reversed(range(self._columns))))]

    def groups(self) -> Iterator[NDArray[np.uint64]]:
        """The rows that share their first number with another row, a group at a time."""
        for rows in self.parts():
            starts = np.flatnonzero(np.r_[True, rows[1:, 0] != rows[:-1, 0]])
            ends = np.r_[starts[1:], len(rows)]
            for start, end in zip(starts[ends - starts > 1], ends[ends - starts > 1], strict=True):
                yield rows[start:end]

    def _file(self, part: int) -> Path:
        assert self._folder is not None
        return Path(self._folder.name) / f"{part}.bin"

    def _spill(self, part: int) -> None:
        if self._folder is None:
            self._folder = tempfile.TemporaryDirectory(prefix=_PREFIX)
        with self._file(part).open("ab") as stream:
            self._buffers[part].tofile(stream)
        del self._buffers[part][:]


class TextTable:
    """Texts in a temporary file, each with three numbers, found again by the place that :meth:`add` gives."""

    def __init__(self) -> None:
        self._stream: IO[bytes] = tempfile.TemporaryFile(prefix=_PREFIX)  # noqa: SIM115  closed by close
        self._end = 0

    @property
    def end(self) -> int:
        """The place that the next text will have."""
        return self._end

    def close(self) -> None:
        """Remove the file."""
        self._stream.close()

    def add(self, numbers: tuple[int, int, int], text: str) -> int:
        """Store a text with its numbers; its place."""
        data = text.encode("utf-8", "surrogatepass")
        self._stream.write(_TEXT_HEAD.pack(*numbers, len(data)))
        self._stream.write(data)
        place, self._end = self._end, self._end + _TEXT_HEAD.size + len(data)
        return place

    def read(self, place: int) -> StoredText:
        """What was stored at a place. Nothing may be added after the first reading."""
        self._stream.seek(place)
        first, second, third, length = _TEXT_HEAD.unpack(self._stream.read(_TEXT_HEAD.size))
        return first, second, third, self._stream.read(length).decode("utf-8", "surrogatepass")
