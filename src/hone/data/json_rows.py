"""Rows of JSON: an object a line, one array of objects, or objects printed over several lines."""

from __future__ import annotations

import json
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

from hone.data.ledger import RowError
from hone.data.rows import MAX_LINE_BYTES, PhysicalLine, RawRow, read_lines, read_text
from hone.data.strict_json import decode_json, decode_prefix, skip_whitespace
from hone.errors import DataError

__all__ = ["is_document", "is_json_text", "json_document_rows", "json_line_rows"]

_SHOWN_CHARACTERS = 40
_Element = tuple[int, Any, RowError | None]


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
        DataError: the file cannot be read, or its JSON breaks off; where the next row begins is then unknown.
    """
    text = read_text(path)
    line, counted = 1, 0
    for row, (start, value, fault) in enumerate(_elements(path, text), start=1):
        line, counted = line + text.count("\n", counted, start), start
        yield _raw_row(value, row, line) if fault is None else RawRow(row, line, None, fault.reason, fault.code)


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
        return opening[0] == "[" and sum(not line.is_blank for line in read_lines(path)) == 1
    if opening in ("{", "[") or (opening[0] == "[" and path.suffix.lower() == ".json"):
        return True
    text = read_text(path)
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
        return error.code != "not_json"
    return True


def _line_row(line: PhysicalLine, row: int) -> RawRow:
    if line.too_long:
        return RawRow(row, line.number, None, f"a line of more than {MAX_LINE_BYTES >> 20} MiB", "line_too_long")
    try:
        value = decode_json(line.text)
    except RowError as error:
        reason = error.reason
        if error.code == "not_json" and not line.ended:
            reason += " (the last line has no line end: the file may have been cut short)"
        return RawRow(row, line.number, None, reason, error.code)
    return _raw_row(value, row, line.number)


def _raw_row(value: Any, row: int, line: int) -> RawRow:
    if isinstance(value, dict):
        return RawRow(row, line, value)
    shown = json.dumps(value, ensure_ascii=False)
    if len(shown) > _SHOWN_CHARACTERS:
        shown = shown[: _SHOWN_CHARACTERS - 3] + "..."
    return RawRow(row, line, None, f"no object with named fields, but {shown}", "not_object")


def _elements(path: Path, text: str) -> Iterator[_Element]:
    position = skip_whitespace(text, 0)
    while position < len(text):
        if text[position] == "[":
            position = yield from _array_elements(path, text, position)
            continue
        value, end, fault = _element(path, text, position)
        yield position, value, fault
        position = skip_whitespace(text, end)


def _array_elements(path: Path, text: str, opening: int) -> Generator[_Element, None, int]:
    """Yield the elements of the array that opens at ``opening``; return the index of what follows it."""
    position = skip_whitespace(text, opening + 1)
    while not text.startswith("]", position):
        value, end, fault = _element(path, text, position)
        yield position, value, fault
        position = skip_whitespace(text, end)
        if text.startswith(",", position):
            position = skip_whitespace(text, position + 1)
            if text.startswith("]", position):
                raise _broken(path, text, position, "JSON has no comma before a closing bracket")
        elif not text.startswith("]", position):
            what = "',' or ']' must follow here" if position < len(text) else "the array is never closed"
            raise _broken(path, text, position, what)
    return skip_whitespace(text, position + 1)


def _element(path: Path, text: str, position: int) -> tuple[Any, int, RowError | None]:
    try:
        return decode_prefix(text, position)
    except RowError as error:
        cause = error.__cause__
        at = cause.pos if isinstance(cause, json.JSONDecodeError) else position
        raise _broken(path, text, at, error.reason) from error


def _broken(path: Path, text: str, position: int, what: str) -> DataError:
    return DataError(
        what,
        where=f"{path}:{text.count(chr(10), 0, position) + 1}",
        why="behind this place it is unknown where a row begins",
        remedy="mend the file there, or write one object a line (JSON lines): a bad line then costs one row only",
    )
