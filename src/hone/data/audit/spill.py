"""A table of numbers that may be larger than the memory: rows are dealt out to files by their first column.

Rows with an equal first number always meet in one part, so that groups of equals can be found a part at a time.
"""

from __future__ import annotations

import tempfile
from array import array
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

__all__ = ["NumberTable"]

_PARTS = 64
_BUFFERED_NUMBERS = 1 << 15


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
            self._folder = tempfile.TemporaryDirectory(prefix="hone-audit-")
        with self._file(part).open("ab") as stream:
            self._buffers[part].tofile(stream)
        del self._buffers[part][:]
