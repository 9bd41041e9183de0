"""Rows out of a file or a hub data set, one at a time, each with the line on which it begins.

The kind of a file is found from its first bytes; its extension only settles what those leave open. A row that cannot
be read is handed on with its fault, never skipped. A file that cannot be split into rows at all is refused whole.

    JSON lines      one object a line, split on \\n only; blank lines are no rows
    JSON document   an array of objects, or objects printed over several lines
    CSV, TSV        the first line names the columns
    Parquet         needs pyarrow
    org/name        the split "train" of a hub data set, ``org/name:split`` for another; needs datasets
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from hone.data.faults import RefusedSource
from hone.data.json_rows import is_document, is_json_text, json_document_rows, json_line_rows
from hone.data.rows import RawRow, read_lines, text_encoding
from hone.data.tables import hub_rows, looks_like_table, parquet_rows, table_rows
from hone.errors import DataError
from hone.files import sha256_file

__all__ = ["RawRow", "is_hub_id", "read_rows", "require_source", "source_hash", "source_kind"]

_TABLE_EXTENSIONS = frozenset({".csv", ".tsv", ".tab"})
_JSON_EXTENSIONS = frozenset({".jsonl", ".ndjson", ".json"})
_FILE_EXTENSIONS = _TABLE_EXTENSIONS | _JSON_EXTENSIONS | {".parquet", ".txt", ".gz", ".zip", ".xlsx"}
_HUB_ID = re.compile(r"(?P<name>[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(?::(?P<split>[\w.+-]+))?")
_HEAD_BYTES = 1 << 16
_PARQUET = b"PAR1"
_UNPACK = "unpack it first, and give the file inside"
_PACKED = frozenset({"a gzip file", "a bzip2 file", "an xz file", "a zstd file"})
# First bytes of files that look like data and are not: what they are, and what to do.
_FOREIGN = (
    (b"\x1f\x8b", "a gzip file", _UNPACK),
    (b"BZh", "a bzip2 file", _UNPACK),
    (b"\xfd7zXZ", "an xz file", _UNPACK),
    (b"\x28\xb5\x2f\xfd", "a zstd file", _UNPACK),
    (b"\xd0\xcf\x11\xe0", "an Excel file (.xls)", "export the sheet as CSV (UTF-8), and give that"),
    (b"ARROW1", "an Arrow file", "write it as Parquet or JSON lines"),
    (b"SQLite format 3", "an SQLite database", "export the table as CSV or JSON lines"),
    (b"%PDF", "a PDF", "hone needs examples as JSON lines, CSV or Parquet"),
)


def read_rows(path_or_hub_id: str) -> Iterator[RawRow]:
    """Open a source and return its rows, in order.

    Args:
        path_or_hub_id: a file, or ``org/name[:split]`` where no such file exists.

    Returns:
        An iterator of rows; it reads as it goes, except that a JSON document is held in memory.

    Raises:
        DataError: at once if the source is missing, a folder, empty, or of a kind that is not read; while iterating
            if the file breaks off where no further row can be told from the one before.
        MissingDependencyError: Parquet without pyarrow, a hub data set without datasets.
    """
    path = Path(path_or_hub_id)
    if is_hub_id(path_or_hub_id):
        return hub_rows(path_or_hub_id)
    _require_file(path)
    head = _head(path)
    if head.startswith(_PARQUET):
        _refuse_misnamed_parquet(path)
        return parquet_rows(path)
    _refuse_foreign(path, head)
    return _text_rows(path, head)


def require_source(path_or_hub_id: str) -> None:
    """Stop where a source is missing, or is no file; a data set of the hub is taken to be there.

    Args:
        path_or_hub_id: as for :func:`read_rows`.

    Raises:
        DataError: as at once of :func:`read_rows`.
    """
    if not is_hub_id(path_or_hub_id):
        _require_file(Path(path_or_hub_id))


def source_kind(path: Path) -> Literal["json_lines", "json_document", "table", "parquet"]:
    """What kind of file ``path`` is, as :func:`read_rows` reads it.

    Raises:
        DataError: as for :func:`read_rows`.
    """
    _require_file(path)
    head = _head(path)
    if head.startswith(_PARQUET):
        _refuse_misnamed_parquet(path)
        return "parquet"
    _refuse_foreign(path, head)
    return _text_kind(path, head)


def source_hash(path: str) -> str:
    """The SHA-256 of a file's bytes, in hexadecimal.

    Raises:
        StorageError: the file cannot be read.
    """
    return sha256_file(path)


def is_hub_id(source: str) -> bool:
    """Whether ``source`` names a data set of the hub: shaped like ``org/name[:split]``, and nothing local is meant."""
    if _HUB_ID.fullmatch(source) is None:
        return False
    path = Path(source)
    meant_local = path.suffix.lower() in _FILE_EXTENSIONS or path.parent.exists()
    return not meant_local and not path.exists()


def _require_file(path: Path) -> None:
    if path.is_dir():
        names = ", ".join(_data_files(path)[:5])
        raise DataError(
            "is a folder, not a file",
            where=str(path),
            remedy=f"give one file in it: {names}" if names else "give a file of examples",
        )
    if not path.exists():
        raise DataError("no such file", where=str(path), remedy=_nearest_files(path))
    if not path.is_file():
        raise DataError("is no regular file", where=str(path), remedy="write the rows to a file first, and give that")


def _data_files(folder: Path) -> list[str]:
    try:
        return sorted(entry.name for entry in folder.iterdir() if entry.suffix.lower() in _FILE_EXTENSIONS)
    except OSError:
        return []


def _nearest_files(path: Path) -> str:
    if not path.parent.is_dir():
        return f"check the path: there is no folder {path.parent}"
    names = _data_files(path.parent)
    nearest = difflib.get_close_matches(path.name, names, n=3, cutoff=0.5) or names[:5]
    if nearest:
        return f"check the name; in that folder: {', '.join(nearest)}"
    return "check the path, or name a data set of the hub as org/name"


def _head(path: Path) -> bytes:
    try:
        with path.open("rb") as stream:
            head = stream.read(_HEAD_BYTES)
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror or error}", where=str(path)) from error
    return head


def _refuse_misnamed_parquet(path: Path) -> None:
    if path.suffix.lower() in _TABLE_EXTENSIONS | _JSON_EXTENSIONS:
        raise RefusedSource(
            "wrong_name",
            "is a Parquet file, whatever its name says",
            where=str(path),
            remedy=f"name it {path.stem}.parquet",
        )


def _refuse_foreign(path: Path, head: bytes) -> None:
    for magic, what, remedy in _FOREIGN:
        if head.startswith(magic):
            code = "packed_file" if what in _PACKED else "foreign_file"
            raise RefusedSource(code, f"is {what}, whatever its name says", where=str(path), remedy=remedy)
    if head.startswith(b"PK\x03\x04"):
        excel = b"xl/" in head or b"[Content_Types].xml" in head
        raise RefusedSource(
            "foreign_file" if excel else "packed_file",
            f"is {'an Excel file (.xlsx)' if excel else 'a zip file'}, whatever its name says",
            where=str(path),
            remedy="export the sheet as CSV (UTF-8), and give that" if excel else _UNPACK,
        )
    if path.suffix.lower() == ".parquet":
        raise RefusedSource(
            "wrong_name",
            "is no Parquet file, though named so",
            where=str(path),
            remedy="give it the name of its true kind",
        )
    if text_encoding(head) is not None:
        return
    if head[:200].count(0) > len(head[:200]) // 4:
        raise RefusedSource(
            "foreign_file", "is binary, not UTF-8 text", where=str(path), remedy="save it as UTF-8 text"
        )
    # A lone CR can stand inside a quoted cell; as the only line end of a file it would make one row of all.
    if b"\n" not in head and re.search(rb"\r[^\r\n]", head):
        raise RefusedSource(
            "lone_cr",
            "its lines end with a lone carriage return (old Mac text)",
            where=str(path),
            remedy="convert the line ends: tr '\\r' '\\n' < FILE > NEW",
        )


def _text_rows(path: Path, head: bytes) -> Iterator[RawRow]:
    kind = _text_kind(path, head)
    if kind == "table":
        return table_rows(path, _sample(head))
    return json_document_rows(path) if kind == "json_document" else json_line_rows(path)


def _text_kind(path: Path, head: bytes) -> Literal["json_lines", "json_document", "table"]:
    first = next((line for line in read_lines(path) if not line.is_blank), None)
    if first is None:
        raise RefusedSource("empty_file", "is empty", where=str(path), remedy="give a file with at least one example")
    extension = path.suffix.lower()
    begins_as_json = first.text.lstrip()[0] in "[{"
    if extension in _TABLE_EXTENSIONS and not (begins_as_json and is_json_text(first.text)):
        return "table"
    if begins_as_json or extension in _JSON_EXTENSIONS:
        return "json_document" if is_document(path, first) else "json_lines"
    if looks_like_table(_sample(head)):
        return "table"
    raise RefusedSource(
        "not_rows",
        "is neither JSON nor a table",
        where=f"{path}:{first.number}",
        line=first.number,
        why="each row must be an object with named fields",
        remedy="give JSON lines, a JSON array, CSV or TSV with a header, or Parquet",
    )


def _sample(head: bytes) -> str:
    """The beginning of a text, for telling its columns."""
    encoding = text_encoding(head)
    if encoding is not None:
        return head.decode(encoding, errors="ignore").removeprefix("\ufeff")
    return head.decode("utf-8-sig", errors="replace")
