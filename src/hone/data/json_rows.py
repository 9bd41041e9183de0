"""Rows of JSON: an object a line, one array of objects, or objects printed over several lines.

A document is read a piece at a time, so that its length does not matter, only that of its longest row.
"""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from hone.data.faults import RefusedSource
from hone.data.ledger import RowError
from hone.data.rows import MAX_LINE_BYTES, PhysicalLine, RawRow, decoded, opened, read_head, read_lines, text_encoding
from hone.data.strict_json import UNREADABLE, breaks_off, decode_json, decode_prefix, skip_whitespace

__all__ = ["describe_value", "is_document", "is_json_text", "json_document_rows", "json_line_rows"]

_SHOWN_CHARACTERS = 40
_CHUNK_BYTES = 1 << 20
_KEPT_CHARACTERS = 1 << 20


def json_line_rows(path: Path) -> Iterator[RawRow]:
    """The rows of a file that has one object a line; blank lines are no rows.

    Raises:
        DataError: the file cannot be read.
    """
    row = 0
    for line in read_lines(path):
        if not line.is_blank:
            row += 1
            yield _line_row(line, row)


def json_document_rows(path: Path) -> Iterator[RawRow]:
    """The rows of a file that holds an array of objects, or objects one after another over any number of lines.

    Raises:
        RefusedSource: its JSON breaks off, or a row is over 16 MiB; where the next row begins is then unknown.
        DataError: the file cannot be read.
    """
    encoding = text_encoding(read_head(path, 4))
    with opened(path) as stream:
        document = _Document(path, stream, encoding or "utf-8")
        for row, (line, offset, value, fault, raw) in enumerate(document.elements(), start=1):
            if fault is None:
                yield _raw_row(value, row, line, offset, raw)
            else:
                yield RawRow(row, line, None, fault.reason, fault.code, offset, raw)


def is_document(path: Path, first: PhysicalLine) -> bool:
    """Whether a file is one JSON document rather than an object a line.

    Args:
        path: the file.
        first: its first line that is not blank.

    Raises:
        DataError: the file cannot be read.
    """
    opening = first.text.strip()
    if opening[:1] not in ("{", "["):
        return False
    if is_json_text(first.text):
        more = (line for line in read_lines(path) if not line.is_blank and line.number != first.number)
        return opening[0] == "[" and next(more, None) is None
    if opening in ("{", "[") or (opening[0] == "[" and path.suffix.lower() == ".json"):
        return True
    head = read_head(path, MAX_LINE_BYTES)
    text = decoded(head) if (encoding := text_encoding(head)) is None else head.decode(encoding, errors="ignore")
    text = text.lstrip("\ufeff")
    start = skip_whitespace(text, 0)
    try:
        _, end, _ = decode_prefix(text, start)
    except RowError:
        return False
    return "\n" in text[start:end]


def is_json_text(text: str) -> bool:
    """Whether ``text`` is one JSON value by itself, be it with faults that a row would be dropped for."""
    try:
        decode_json(text)
    except RowError as error:
        return error.code not in UNREADABLE
    return True


def describe_value(value: Any) -> str:
    """What stands where an object should, in words."""
    shown = json.dumps(value, ensure_ascii=False)
    if len(shown) > _SHOWN_CHARACTERS:
        shown = shown[: _SHOWN_CHARACTERS - 3] + "..."
    return f"no object with named fields, but {shown}"


def _line_row(line: PhysicalLine, row: int) -> RawRow:
    if line.too_long:
        reason = f"a line of more than {MAX_LINE_BYTES >> 20} MiB"
        return RawRow(row, line.number, None, reason, "line_too_long", line.offset)
    try:
        value = decode_json(line.text)
    except RowError as error:
        reason = error.reason
        if error.code in UNREADABLE and not line.ended:
            reason += " (the last line has no line end: the file may have been cut short)"
        return RawRow(row, line.number, None, reason, error.code, line.offset, line.text)
    return _raw_row(value, row, line.number, line.offset, line.text)


def _raw_row(value: Any, row: int, line: int, offset: int, raw: str) -> RawRow:
    if isinstance(value, dict):
        return RawRow(row, line, value, offset=offset, raw=raw)
    return RawRow(row, line, None, describe_value(value), "not_object", offset, raw)


_Element = tuple[int, int, Any, RowError | None, str]
"""Line, offset, value, fault and text of one value of a document."""


class _Document:
    """A JSON document, of which a window is held in memory.

    Args:
        path: its file, for messages.
        stream: the open file.
        encoding: of its text.
    """

    def __init__(self, path: Path, stream: BinaryIO, encoding: str) -> None:
        self._path = path
        self._stream = stream
        self._encoding = encoding
        errors = "surrogateescape" if encoding == "utf-8" else "strict"
        self._decode = codecs.getincrementaldecoder(encoding)(errors=errors).decode
        self._text = ""
        self._ended = False
        # Place of a character in the file that comes before the next element: its index in the window, line, offset.
        self._known = (0, 1, 0)

    def elements(self) -> Iterator[_Element]:
        """The values of the document: those of its arrays, and those that stand by themselves."""
        position = self._skip(0)
        while self._text.startswith("\ufeff", position):
            position = self._skip(position + 1)
        while position < len(self._text):
            if self._text[position] == "[":
                yield from self._array(position)
                position = self._skip(self._known[0])
                continue
            element, position = self._element(position)
            yield element
            position = self._skip(position)

    def _array(self, opening: int) -> Iterator[_Element]:
        """The elements of the array that opens at ``opening``; afterwards the known place is behind its end."""
        position = self._skip(opening + 1)
        while not self._text.startswith("]", position):
            element, position = self._element(position)
            yield element
            position = self._skip(position)
            if self._text.startswith(",", position):
                position = self._skip(position + 1)
                if self._text.startswith("]", position):
                    raise self._broken(position, "JSON has no comma before a closing bracket")
            elif not self._text.startswith("]", position):
                there = position < len(self._text)
                raise self._broken(position, "',' or ']' must follow here" if there else "the array is never closed")
        self._place(position + 1)

    def _element(self, position: int) -> tuple[_Element, int]:
        """The value at ``position``, and the index behind it in the window."""
        position = self._forget(position)
        while True:
            try:
                value, end, fault = decode_prefix(self._text, position)
            except RowError as error:
                cause = error.__cause__
                cut = isinstance(cause, json.JSONDecodeError) and (breaks_off(cause) or len(cause.doc) - cause.pos < 16)
                if cut and self._more():
                    self._refuse_giant(position)
                    continue
                at = cause.pos if isinstance(cause, json.JSONDecodeError) else position
                raise self._broken(at, error.reason) from error
            # a number at the window's end may go on behind it
            if end == len(self._text) and self._more():
                continue
            line, offset = self._place(position)
            return (line, offset, value, fault, self._text[position:end]), end

    def _refuse_giant(self, position: int) -> None:
        if len(self._text) - position > MAX_LINE_BYTES:
            raise self._broken(position, f"a row of more than {MAX_LINE_BYTES >> 20} MiB begins here")

    def _skip(self, position: int) -> int:
        """The next character that is no white space, reading on as needed."""
        position = skip_whitespace(self._text, position)
        while position == len(self._text) and self._more():
            position = skip_whitespace(self._text, position)
        return position

    def _more(self) -> bool:
        """Read on; whether there was more."""
        if self._ended:
            return False
        chunk = self._stream.read(_CHUNK_BYTES)
        self._ended = not chunk
        try:
            self._text += self._decode(chunk, final=not chunk)
        except UnicodeDecodeError as error:
            raise self._broken(len(self._text), f"no valid {self._encoding}: {error.reason}") from error
        return bool(chunk)

    def _place(self, position: int) -> tuple[int, int]:
        """Line and byte offset of a character, which must not lie before the last one asked for."""
        known, line, offset = self._known
        between = self._text[known:position]
        errors = "surrogateescape" if self._encoding == "utf-8" else "strict"
        line, offset = line + between.count("\n"), offset + len(between.encode(self._encoding, errors=errors))
        self._known = (position, line, offset)
        return line, offset

    def _forget(self, position: int) -> int:
        """Drop what lies before ``position`` once it is much; the index of the same character afterwards."""
        if position < _KEPT_CHARACTERS:
            return position
        line, offset = self._place(position)
        self._text, self._known = self._text[position:], (0, line, offset)
        return 0

    def _broken(self, position: int, what: str) -> RefusedSource:
        known, line, _ = self._known
        line += self._text.count("\n", known, position)
        return RefusedSource(
            "broken_document",
            what,
            where=f"{self._path}:{line}",
            line=line,
            why="behind this place it is unknown where a row begins",
            remedy="mend the file there, or write one object a line (JSON lines): a bad line then costs one row only",
        )
