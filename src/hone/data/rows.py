"""Raw rows, and the physical lines of a text file that they are read from."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from hone.errors import DataError
from hone.types import JsonDict

__all__ = ["MAX_LINE_BYTES", "PhysicalLine", "RawRow", "read_lines", "read_text"]

MAX_LINE_BYTES = 16 << 20
_SHOWN_BYTES = 64


@dataclass(frozen=True, slots=True)
class RawRow:
    """One input row as it was read: an object, or what was wrong with it.

    Args:
        row: ordinal, from 1; blank lines are no rows.
        line: line of the file on which it begins, from 1; equals ``row`` where there are no lines.
        value: the object; None where the row could not be read.
        error: what was wrong, for a person; None where ``value`` is given.
        code: the same as a word for programs, one of :data:`hone.data.ledger.DROP_CODES`.
    """

    row: int
    line: int
    value: JsonDict | None
    error: str | None = None
    code: str | None = None


@dataclass(frozen=True, slots=True)
class PhysicalLine:
    r"""One line of a file, its line end included.

    Args:
        number: from 1.
        text: bytes that are not UTF-8 stand in it as Python's surrogate escapes.
        too_long: the line is over the limit, and ``text`` only its beginning.
    """

    number: int
    text: str
    too_long: bool = False

    @property
    def is_blank(self) -> bool:
        """Whether nothing but white space stands on it."""
        return not self.text.strip()

    @property
    def ended(self) -> bool:
        r"""Whether it ends with ``\n``; only the last line of a file may not."""
        return self.too_long or self.text.endswith("\n")


def read_lines(path: Path, *, max_bytes: int | None = MAX_LINE_BYTES) -> Iterator[PhysicalLine]:
    r"""The lines of a file, split on ``\n`` alone, with byte order marks taken off.

    Python's own line splitting also breaks at U+2028, U+2029 and U+0085, which may stand inside a JSON string.

    Args:
        path: the file.
        max_bytes: a longer line is not held in memory, only noted; None for no limit.

    Raises:
        DataError: the file cannot be read.
    """
    limit = -1 if max_bytes is None else max_bytes + 1
    number = 0
    try:
        with path.open("rb") as stream:
            while data := stream.readline(limit):
                number += 1
                too_long = max_bytes is not None and len(data) > max_bytes
                if too_long:
                    rest = data
                    while rest and not rest.endswith(b"\n"):
                        rest = stream.readline(limit)
                    data = data[:_SHOWN_BYTES]
                yield PhysicalLine(number, _decoded(data), too_long)
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror or error}", where=str(path)) from error


def read_text(path: Path) -> str:
    """The whole text of a file, decoded as :func:`read_lines` does.

    Raises:
        DataError: the file cannot be read.
    """
    try:
        return _decoded(path.read_bytes())
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror or error}", where=str(path)) from error


def _decoded(data: bytes) -> str:
    # Files joined with cat have a mark at the beginning of each part, so it is taken off wherever a line has one.
    return data.decode("utf-8", errors="surrogateescape").removeprefix("\ufeff")
