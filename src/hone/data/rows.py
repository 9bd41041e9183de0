"""Raw rows, and the physical lines of a text file that they are read from."""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from hone.data.faults import RefusedSource
from hone.errors import DataError
from hone.types import JsonDict

__all__ = [
    "BYTE_ORDER_MARK",
    "MAX_LINE_BYTES",
    "PhysicalLine",
    "RawRow",
    "byte_lines",
    "decoded",
    "opened",
    "read_head",
    "read_lines",
    "text_encoding",
]

MAX_LINE_BYTES = 16 << 20
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_SHOWN_BYTES = 64
_BUFFER_BYTES = 1 << 20
_CHUNK_BYTES = 1 << 20
_BLANKS = " \t\n\r\v\f"
_PLAIN = frozenset(b"\t\n\r") | frozenset(range(0x20, 0x7F))
# The first bytes of text in the encodings that Windows and older tools write; the longer marks go first.
_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)


@dataclass(frozen=True, slots=True)
class RawRow:
    """One input row as it was read: an object, or what was wrong with it.

    Args:
        row: ordinal, from 1; blank lines are no rows.
        line: line of the file on which it begins, from 1; equals ``row`` where there are no lines.
        value: the object; None where the row could not be read.
        error: what was wrong, for a person; None where ``value`` is given.
        code: the same as a word for programs, one of :data:`hone.data.ledger.DROP_CODES`.
        offset: bytes of the file before the row (or the line it begins on); None where a source has none.
        raw: the row as it stands in the file; None where a source has no text, or the line is too long to be held.
    """

    row: int
    line: int
    value: JsonDict | None
    error: str | None = None
    code: str | None = None
    offset: int | None = None
    raw: str | None = None


@dataclass(frozen=True, slots=True)
class PhysicalLine:
    r"""One line of a file, its line end included.

    Args:
        number: from 1.
        text: bytes that are not UTF-8 stand in it as Python's surrogate escapes.
        too_long: the line is over the limit, and ``text`` only its beginning.
        offset: bytes of the file before it.
    """

    number: int
    text: str
    too_long: bool = False
    offset: int = 0

    @property
    def is_blank(self) -> bool:
        """Whether nothing but white space stands on it."""
        return not self.text.strip(_BLANKS)

    @property
    def ended(self) -> bool:
        r"""Whether it ends with ``\n``; only the last line of a file may not."""
        return self.too_long or self.text.endswith("\n")


def text_encoding(head: bytes) -> str | None:
    """The encoding of a text that begins with ``head``, where it is UTF-16 or UTF-32; None for UTF-8 and all else.

    Without a mark it is told by the zero bytes of its first characters, which in data are ASCII.

    Source: RFC 4627, section 3.
    """
    for mark, encoding in _MARKS:
        if head.startswith(mark):
            return encoding
    zeros = tuple(byte == 0 for byte in head[:4])
    without_mark: dict[tuple[bool, ...], str] = {
        (False, True, True, True): "utf-32-le",
        (True, True, True, False): "utf-32-be",
        (False, True, False, True): "utf-16-le",
        (True, False, True, False): "utf-16-be",
    }
    # binary files have zeros too, but no letters beside them
    plain = all(byte in _PLAIN for byte in head[:4] if byte)
    return without_mark.get(zeros) if plain else None


@contextmanager
def opened(path: Path) -> Iterator[BinaryIO]:
    """A file open for reading bytes.

    Raises:
        DataError: it cannot be read.
    """
    try:
        with path.open("rb", buffering=_BUFFER_BYTES) as stream:
            yield stream
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror or error}", where=str(path)) from error


def read_head(path: Path, num_bytes: int) -> bytes:
    """The first bytes of a file.

    Raises:
        DataError: it cannot be read.
    """
    with opened(path) as stream:
        return stream.read(num_bytes)


def byte_lines(
    stream: BinaryIO, *, encoding: str | None = None, max_bytes: int | None = MAX_LINE_BYTES
) -> Iterator[tuple[int, int, bytes, bool]]:
    r"""The lines of an open file as UTF-8 bytes, split on ``\n`` alone, whatever else breaks lines elsewhere.

    Args:
        stream: at the beginning of the file.
        encoding: as :func:`text_encoding` gives it; such text comes as UTF-8, with its own offsets.
        max_bytes: a longer line is not held in memory; None for no limit.

    Yields:
        (number from 1, bytes of the file before it, the line with its end, whether it is over the limit); of a line
        over the limit only the beginning.
    """
    if encoding is not None:
        yield from _transcoded_lines(stream, encoding, max_bytes)
        return
    limit = -1 if max_bytes is None else max_bytes + 1
    number = offset = 0
    while data := stream.readline(limit):
        number += 1
        length = len(data)
        if length == limit:
            rest = data
            while rest and not rest.endswith(b"\n"):
                rest = stream.readline(limit)
                length += len(rest)
            yield number, offset, data[:_SHOWN_BYTES], True
        else:
            yield number, offset, data, False
        offset += length


def read_lines(path: Path, *, max_bytes: int | None = MAX_LINE_BYTES) -> Iterator[PhysicalLine]:
    r"""The lines of a file, split on ``\n`` alone, with byte order marks taken off.

    Python's own line splitting also breaks at U+2028, U+2029 and U+0085, which may stand inside a JSON string.

    Args:
        path: the file.
        max_bytes: a longer line is not held in memory, only noted; None for no limit.

    Raises:
        DataError: the file cannot be read.
    """
    encoding = text_encoding(read_head(path, 4))
    with opened(path) as stream:
        for number, offset, data, too_long in byte_lines(stream, encoding=encoding, max_bytes=max_bytes):
            yield PhysicalLine(number, decoded(data), too_long, offset)


def decoded(data: bytes) -> str:
    """A line as text, with surrogate escapes for bytes that are not UTF-8, without marks at its beginning."""
    # Files joined with cat have a mark at the beginning of each part, so it is taken off wherever a line has one.
    return data.decode("utf-8", errors="surrogateescape").lstrip("\ufeff")


def _transcoded_lines(stream: BinaryIO, encoding: str, max_bytes: int | None) -> Iterator[tuple[int, int, bytes, bool]]:
    decoder = codecs.getincrementaldecoder(encoding)()
    number = offset = 0
    rest, skipping, chunk = "", False, b"-"
    while chunk:
        chunk = stream.read(_CHUNK_BYTES)
        try:
            text = rest + decoder.decode(chunk, final=not chunk)
        except UnicodeDecodeError as error:
            raise RefusedSource(
                "foreign_file",
                f"is no valid {encoding[:-3].upper()}: {error.reason}",
                where=str(stream.name),
                line=number + 1,
                remedy="write the file anew, as UTF-8",
            ) from error
        *lines, rest = text.split("\n")
        for line in lines:
            if not skipping:
                number += 1
                yield _transcoded(number, offset, line + "\n", max_bytes)
            offset += len((line + "\n").encode(encoding))
            skipping = False
        if max_bytes is not None and len(rest) > max_bytes:
            if not skipping:
                number += 1
                yield number, offset, rest[:_SHOWN_BYTES].encode("utf-8"), True
            offset += len(rest.encode(encoding))
            rest, skipping = "", True
    if rest and not skipping:
        yield _transcoded(number + 1, offset, rest, max_bytes)


def _transcoded(number: int, offset: int, line: str, max_bytes: int | None) -> tuple[int, int, bytes, bool]:
    data = line.encode("utf-8")
    too_long = max_bytes is not None and len(data) > max_bytes
    return number, offset, data[:_SHOWN_BYTES] if too_long else data, too_long
