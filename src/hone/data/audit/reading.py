"""A source -> its rows, each judged, in one pass; and what is told of the file as a whole on the way."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from hone.data.audit.copies import Place
from hone.data.audit.judge import Judge, Judged
from hone.data.faults import Fault
from hone.data.rows import BYTE_ORDER_MARK, MAX_LINE_BYTES, RawRow, byte_lines, opened, read_head, text_encoding
from hone.data.source import is_hub_id, read_rows, source_kind
from hone.types import JsonDict

__all__ = ["JudgedRow", "judged_rows"]

_TOO_LONG = Judged("dropped", (("line_too_long", "", f"a line of more than {MAX_LINE_BYTES >> 20} MiB"),))


@dataclass(frozen=True, slots=True)
class JudgedRow:
    """One row with its verdict.

    Args:
        place: row, line and byte offset.
        judged: the verdict.
        raw: the row as it stands in the file, as UTF-8 and without its line end; None where it has no text of its own.
        value: the row as an object, where ``raw`` is no JSON (tables, Parquet).
    """

    place: Place
    judged: Judged
    raw: bytes | None
    value: JsonDict | None = None


def judged_rows(source: str, judge: Judge, note: Callable[[Fault], None]) -> Iterator[JudgedRow]:
    """Read and judge the rows of a source.

    Args:
        source: a file or hub data set, as for :func:`hone.data.source.read_rows`.
        judge: says what each row is.
        note: receives what is told of the file: marks, line ends, blank lines, its kind.

    Raises:
        RefusedSource: the file is refused, at its beginning or where it breaks off.
        DataError: it is missing, a folder, or cannot be read.
        MissingDependencyError: an optional package is needed for this kind of source.
    """
    if is_hub_id(source):
        yield from (_judged(row, judge) for row in read_rows(source))
        return
    path = Path(source)
    kind = source_kind(path)
    if kind == "json_lines":
        yield from _json_lines(path, judge, note)
        return
    if kind != "parquet":
        code = "table" if kind == "table" else "json_document"
        note(Fault.of(code, "a table" if kind == "table" else "one JSON document", line=1, offset=0))
        head = read_head(path, 4)
        if head.startswith(BYTE_ORDER_MARK):
            note(Fault.of("bom", "the file begins with a byte order mark", line=1, offset=0))
        if encoding := text_encoding(head):
            note(Fault.of("other_encoding", f"the file is {encoding[:-3].upper()}", line=1, offset=0))
    yield from (_judged(row, judge) for row in read_rows(source))


def _json_lines(path: Path, judge: Judge, note: Callable[[Fault], None]) -> Iterator[JudgedRow]:
    encoding = text_encoding(read_head(path, 4))
    if encoding is not None:
        note(Fault.of("other_encoding", f"the file is {encoding[:-3].upper()}", line=1, offset=0))
    row = 0
    data = b"\n"
    number = offset = 0
    with opened(path) as stream:
        for number, offset, data, too_long in byte_lines(stream, encoding=encoding):
            while data.startswith(BYTE_ORDER_MARK):
                if encoding is None:
                    note(Fault.of("bom", "a byte order mark", line=number, offset=offset))
                data = data.removeprefix(BYTE_ORDER_MARK)
            if data.endswith(b"\r\n"):
                note(Fault.of("crlf", "the line ends with CR and LF", line=number, offset=offset))
            if data.isspace() or not data.strip():
                note(Fault.of("blank_lines", "nothing stands on it", line=number, offset=offset))
                continue
            row += 1
            if too_long:
                yield JudgedRow((row, number, offset), _TOO_LONG, None)
                continue
            yield JudgedRow((row, number, offset), judge.line(data), data.rstrip(b"\r\n"))
    if not data.endswith(b"\n") and not data.isspace():
        note(Fault.of("no_final_newline", "the last line has no line end", line=number, offset=offset))


def _judged(row: RawRow, judge: Judge) -> JudgedRow:
    place = (row.row, row.line, row.offset)
    raw = None if row.raw is None else row.raw.encode("utf-8", "surrogateescape")
    if row.value is None:
        # a document's row is looked at again, for the pointers
        judged = judge.line(raw) if raw is not None and row.code not in ("bad_csv", "bad_columns") else None
        if judged is None or judged.status != "dropped" or row.code not in [code for code, _, _ in judged.findings]:
            judged = Judged("dropped", ((row.code or "not_json", "", row.error or "not read"),))
        return JudgedRow(place, judged, raw)
    return JudgedRow(place, judge.value(row.value), raw, row.value)
