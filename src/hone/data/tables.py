"""Rows of tables: CSV and TSV with a header, Parquet, and data sets of the Hugging Face hub."""

from __future__ import annotations

import csv
import importlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

from hone.data.faults import RefusedSource
from hone.data.row_files import atomic_stream
from hone.data.rows import PhysicalLine, RawRow, read_lines
from hone.errors import DataError, MissingDependencyError

__all__ = ["hub_rows", "looks_like_table", "parquet_rows", "table_rows", "write_parquet"]

_DELIMITERS = (",", "\t", ";", "|")
_TAB_EXTENSIONS = frozenset({".tsv", ".tab"})
_SAMPLE_RECORDS = 20
_MAX_CELL_CHARACTERS = 16 << 20
_COLUMN_NAME = re.compile(r"\w[\w .-]{0,39}")
_UNDECODABLE = re.compile("[\udc80-\udcff]")
_PARQUET_BATCH_ROWS = 1000


def looks_like_table(sample: str) -> bool:
    """Whether text without a telling extension is a table: a line of names, and every record as wide as it."""
    records = next((found for delimiter in _DELIMITERS if (found := _even_records(sample, delimiter))), [])
    return len(records) > 1 and all(_COLUMN_NAME.fullmatch(name.strip()) for name in records[0])


def table_rows(path: Path, sample: str) -> Iterator[RawRow]:
    """The rows of a CSV or TSV file, as objects of texts keyed by the header's names.

    The delimiter is the one that splits the beginning most evenly. Tab-separated files come with quotes as text as
    often as with quotes around cells; the latter reading is taken only if the whole file allows it.

    Args:
        path: the file.
        sample: its beginning.

    Raises:
        DataError: the header cannot be used, or a quote is never closed.
    """
    delimiter = _delimiter(sample, path.suffix.lower())
    quoting = csv.QUOTE_NONE if delimiter == "\t" and not _quotes_are_closed(path, delimiter) else csv.QUOTE_MINIMAL
    records = _records(path, delimiter, quoting)
    header_line, _, header, _ = next(records, (1, 0, [], ""))
    names = _column_names(path, header_line, header)
    for row, (line, offset, cells, raw) in enumerate(records, start=1):
        yield replace(_table_row(names, cells, row, line), offset=offset, raw=raw)


def parquet_rows(path: Path) -> Iterator[RawRow]:
    """The rows of a Parquet file; nulls within nested columns are taken out.

    Parquet gives every struct of a column the same fields, and fills those that a row lacks with null; kept, they
    would show up in tool schemas and arguments.

    Raises:
        DataError: the file is damaged.
        MissingDependencyError: pyarrow is not installed.
    """
    arrow = _optional_module("pyarrow", "Parquet files", "parquet")
    parquet = _optional_module("pyarrow.parquet", "Parquet files", "parquet")
    row = 0
    try:
        with parquet.ParquetFile(path) as table:
            for batch in table.iter_batches(batch_size=_PARQUET_BATCH_ROWS):
                for value in batch.to_pylist():
                    row += 1
                    yield RawRow(row, row, _without_nested_nulls(value))
    except (arrow.ArrowException, OSError) as error:
        raise RefusedSource(
            "damaged_parquet",
            f"is damaged Parquet: {_first_line(error)}",
            where=f"{path}:{row + 1}",
            line=row + 1,
            remedy="write or download it anew",
        ) from error


def hub_rows(hub_id: str) -> Iterator[RawRow]:
    """The rows of one split of a hub data set; nothing of it is executed.

    Args:
        hub_id: ``org/name`` for its split "train", or ``org/name:split``.

    Raises:
        DataError: there is no such data set or split, or the hub cannot be reached.
        MissingDependencyError: datasets is not installed.
    """
    name, _, split = hub_id.partition(":")
    datasets = _optional_module("datasets", "data sets of the hub", "hub")
    try:
        table = datasets.load_dataset(name, split=split or "train")
    except ConnectionError as error:
        raise DataError(
            f"no such file, and the hub cannot be asked for a data set of that name: {_first_line(error)}",
            where=hub_id,
            remedy="check the path; for a hub data set, check the network, or download it where there is one",
        ) from error
    except (datasets.exceptions.DatasetsError, OSError, ValueError) as error:
        raise DataError(
            f"no such file, and no such data set on the hub: {_first_line(error)}",
            where=hub_id,
            remedy="check the name; another split than train is named as org/name:split",
        ) from error
    for row, value in enumerate(table, start=1):
        yield RawRow(row, row, _without_nested_nulls(value))


def _table_row(names: Sequence[str], cells: Sequence[str] | csv.Error, row: int, line: int) -> RawRow:
    if isinstance(cells, csv.Error):
        return RawRow(row, line, None, f"not CSV: {cells}; a quote inside a quoted cell is written twice", "bad_csv")
    for name, cell in zip(names, cells, strict=False):
        if _UNDECODABLE.search(cell):
            return RawRow(row, line, None, f"column {name!r} has bytes that are not UTF-8", "invalid_utf8")
        if "\0" in cell:
            return RawRow(row, line, None, f"column {name!r} has a NUL byte", "nul_byte")
    if len(cells) != len(names):
        return RawRow(row, line, None, f"{len(cells)} cells where the header has {len(names)}", "bad_columns")
    return RawRow(row, line, {name: cell for name, cell in zip(names, cells, strict=True) if name})


_Record = tuple[int, int, list[str] | csv.Error, str]
"""First line, offset, cells (the error in their place where there was one) and text of a record."""


def _records(path: Path, delimiter: str, quoting: int) -> Iterator[_Record]:
    """The records that are not blank."""
    csv.field_size_limit(max(csv.field_size_limit(), _MAX_CELL_CHARACTERS))
    taken: list[PhysicalLine] = []
    reader = csv.reader(_noted(path, taken), delimiter=delimiter, quoting=quoting, strict=True)  # type: ignore[arg-type]
    while True:
        taken.clear()
        try:
            cells: list[str] | csv.Error = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            if "unexpected end of data" in str(error):
                raise _unclosed_quote(path, taken[0].number) from error
            cells = error
        if isinstance(cells, csv.Error) or len(cells) > 1 or (cells and cells[0].strip()):
            yield taken[0].number, taken[0].offset, cells, "".join(line.text for line in taken)


def _noted(path: Path, taken: list[PhysicalLine]) -> Iterator[str]:
    """The lines of a file, each noted when it is taken: the reader does not tell where a record lies."""
    for line in read_lines(path, max_bytes=None):
        taken.append(line)
        yield line.text


def _unclosed_quote(path: Path, line: int) -> RefusedSource:
    return RefusedSource(
        "unclosed_quote",
        "a quote is opened in the record that begins here, and never closed",
        where=f"{path}:{line}",
        line=line,
        why="everything behind it would be read as one cell",
        remedy='close the quote; a quote inside a quoted cell is written twice ("")',
    )


def _quotes_are_closed(path: Path, delimiter: str) -> bool:
    try:
        return not any(isinstance(cells, csv.Error) for _, _, cells, _ in _records(path, delimiter, csv.QUOTE_MINIMAL))
    except DataError:
        return False


def _column_names(path: Path, line: int, header: list[str] | csv.Error) -> list[str]:
    if isinstance(header, csv.Error):
        raise RefusedSource(
            "bad_header",
            f"the header is not CSV: {header}",
            where=f"{path}:{line}",
            line=line,
            remedy="mend the first line",
        )
    names = [name.strip() for name in header]
    twice = sorted({name for name in names if name and names.count(name) > 1})
    if twice:
        raise RefusedSource(
            "bad_header",
            f"the header names a column twice: {', '.join(twice)}",
            where=f"{path}:{line}",
            line=line,
            remedy="give each column a name of its own",
        )
    if not any(names) or any(_UNDECODABLE.search(name) for name in names):
        raise RefusedSource(
            "bad_header",
            "the header names no columns in UTF-8",
            where=f"{path}:{line}",
            line=line,
            remedy="name the columns on the first line, and save the file as UTF-8",
        )
    return names


def _delimiter(sample: str, extension: str) -> str:
    preferred = "\t" if extension in _TAB_EXTENSIONS else ","
    found = [delimiter for delimiter in _DELIMITERS if _even_records(sample, delimiter)]
    if found and preferred not in found:
        return found[0]
    if found:
        return preferred
    # No delimiter splits the sample evenly (bad rows among its first): the one that gives the header most names.
    header = sample.split("\n", 1)[0]
    return max(_DELIMITERS, key=lambda delimiter: (header.count(delimiter), delimiter == preferred))


def _even_records(sample: str, delimiter: str) -> list[list[str]]:
    """The first records of ``sample``, if all have the same number of cells, and more than one; else nothing."""
    reader = csv.reader((line + "\n" for line in sample.split("\n")), delimiter=delimiter)
    try:
        records = [cells for cells in islice(reader, _SAMPLE_RECORDS) if cells]
    except csv.Error:
        return []
    if len(records) > 2:
        records.pop()  # the sample may end within it
    even = len({len(cells) for cells in records}) == 1 and len(records[0]) > 1
    return records if even else []


def _without_nested_nulls(value: dict[str, Any]) -> dict[str, Any]:
    return {key: _without_nulls(item) for key, item in value.items()}


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nulls(item) for key, item in value.items() if item is not None}
    if isinstance(value, list):
        return [_without_nulls(item) for item in value]
    return value


def _optional_module(name: str, what: str, extra: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise MissingDependencyError(
            f"{what} need the package {name.partition('.')[0]}", remedy=f'pip install "hone-llm[{extra}]"'
        ) from error


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)


def write_parquet(path: Path, rows: Iterator[dict[str, Any]]) -> None:
    """Write rows as Parquet; the file is whole or absent.

    Args:
        path: the file.
        rows: objects with the same fields; held in memory, because the columns' types are those of all rows.

    Raises:
        DataError: a column has values of several types, which Parquet cannot hold.
        StorageError: the file cannot be written.
        MissingDependencyError: pyarrow is not installed.
    """
    arrow = _optional_module("pyarrow", "Parquet files", "parquet")
    parquet = _optional_module("pyarrow.parquet", "Parquet files", "parquet")
    try:
        table = arrow.Table.from_pylist(list(rows))
    except arrow.ArrowException as error:
        raise DataError(
            f"its rows do not fit into columns: {_first_line(error)}", where=str(path), remedy="write JSON lines"
        ) from error
    with atomic_stream(path) as stream:
        parquet.write_table(table, stream)
