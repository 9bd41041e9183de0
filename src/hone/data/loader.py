"""A source -> examples and a ledger in which every row is accounted for."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import islice

from hone.data.detection import PREFERENCE_FORMATS
from hone.data.faults import RefusedSource
from hone.data.formats import FORMATS, FormatMapping, detect_format, parse_row, read_keys
from hone.data.ledger import Ledger, RowError
from hone.data.messages import nearest, quoted
from hone.data.preferences import parse_preference, preference_keys
from hone.data.rows import RawRow
from hone.data.source import is_hub_id, read_rows, source_hash
from hone.data.tasks import as_task, with_answer
from hone.errors import DataError
from hone.types import Example

__all__ = ["LoadedData", "load_examples"]


@dataclass(frozen=True, slots=True)
class LoadedData:
    """A source's usable rows, and what became of the others.

    Args:
        examples: one for each row that is kept or cut, in the order of the file.
        ledger: an entry for each row.
        format: the name of the format, one of :data:`hone.data.formats.FORMATS`, or where preferences were asked for
            perhaps of :data:`hone.data.detection.PREFERENCE_FORMATS`; each example is then a Preference.
        source: the file or data set, as the user gave it.
        sha256: of the file's bytes; of a hub data set, of its rows as canonical JSON.
        unused_keys: top-level keys of rows that no part of the example was read from, sorted.
    """

    examples: list[Example]
    ledger: Ledger
    format: str
    source: str
    sha256: str
    unused_keys: tuple[str, ...] = ()

    @property
    def are_preferences(self) -> bool:
        """Whether answers are compared or judged in its rows."""
        return self.format in PREFERENCE_FORMATS


def load_examples(
    source: str,
    *,
    mapping: Mapping[str, str] | None = None,
    limit: int | None = None,
    preferences: bool = False,
    tasks: bool = False,
) -> LoadedData:
    """Read a source whole; a row that cannot be used is dropped with its reason, and never stops the others.

    Args:
        source: a file, or a hub data set as ``org/name[:split]``.
        mapping: columns of the prompt, the completion and, if there is one, the system prompt, as keys
            ``prompt``, ``completion`` and ``system``; where left out, the format is found by the rows' keys.
        limit: read only the first rows, this many; None for all.
        preferences: whether rows may compare or judge answers.
        tasks: whether answers will be graded: rows may then lack one, and each example is a :class:`hone.types.Task`.

    Returns:
        The examples and their ledger; ``ledger.rows`` is the number of rows read.

    Raises:
        DataError: the source is missing, empty, of no known or of mixed formats, or no row of it can be used.
        ConfigError: ``mapping`` is not what it must be.
        MissingDependencyError: an optional package is needed for this kind of source.
    """
    columns = FormatMapping.from_pairs(mapping) if mapping is not None else None
    # the text of a row is not needed beside its value
    rows = [replace(row, raw=None) for row in islice(read_rows(source), limit)]
    if not rows:
        raise RefusedSource("empty_file", "has no rows", where=source, remedy="give a file with at least one example")
    own = {row.row: row.value or {} for row in rows} if tasks else {}
    lacking: set[int] = set()
    if tasks:
        rows, lacking = _with_answers(rows, columns)
    format_name = _format_of(rows, columns, source, preferences=preferences, tasks=tasks)
    ledger = Ledger(source)
    examples = [example for row in rows if (example := _account(row, format_name, columns, ledger)) is not None]
    if not examples:
        raise _no_usable_row(ledger)
    if tasks:
        examples = [as_task(one, own[one.row], is_stand_in=one.row in lacking) for one in examples]
    unused = set() if tasks else {key for row in rows for key in row.value or ()} - _keys_of(format_name, columns)
    return LoadedData(examples, ledger, format_name, source, _hash_of(source, rows), tuple(sorted(unused)))


def _with_answers(rows: list[RawRow], columns: FormatMapping | None) -> tuple[list[RawRow], set[int]]:
    """The rows with stand-ins for answers that they lack, and which rows those are."""
    found, lacking = [], set()
    for row in rows:
        value, is_stand_in = (None, False) if row.value is None else with_answer(row.value, columns)
        found.append(replace(row, value=value))
        if is_stand_in:
            lacking.add(row.row)
    return found, lacking


def _keys_of(format_name: str, columns: FormatMapping | None) -> frozenset[str]:
    return preference_keys(format_name) if format_name in PREFERENCE_FORMATS else read_keys(format_name, columns)


def _format_of(
    rows: list[RawRow], columns: FormatMapping | None, source: str, *, preferences: bool, tasks: bool
) -> str:
    if columns is not None:
        _require_columns(rows, columns, source)
        return "mapped"
    if all(row.value is None for row in rows):
        return FORMATS[0]  # none is read by it: the error that follows tells what is wrong with each row
    try:
        return detect_format(rows, preferences=preferences, tasks=tasks)
    except DataError as error:
        error.where = source
        raise


def _require_columns(rows: list[RawRow], columns: FormatMapping, source: str) -> None:
    """Refuse a mapping that no row can follow: the mistake is in the option, not in the rows."""
    found = list(dict.fromkeys(key for row in rows for key in row.value or ()))
    named = [columns.prompt, columns.completion, *([columns.system] if columns.system else [])]
    problems = [f"no row has {quoted(name)}{nearest(name, found)}" for name in named if name not in found]
    if found and problems:
        raise DataError(
            "has no column of a name given with --map",
            where=source,
            details=problems,
            remedy=f"its columns are: {', '.join(found[:20])}",
        )


def _account(row: RawRow, format_name: str, columns: FormatMapping | None, ledger: Ledger) -> Example | None:
    """The example of a row, or None where it is dropped; either way the ledger has an entry."""
    if row.value is None:
        ledger.drop(row.row, row.line, row.code or "not_json", row.error or "not read")
        return None
    try:
        if format_name in PREFERENCE_FORMATS:
            example: Example = parse_preference(row.value, format_name)
            left_out = None
        else:
            example, left_out = parse_row(row.value, format_name, columns)
    except RowError as error:
        ledger.drop(row.row, row.line, error.code, error.reason)
        return None
    if left_out is None:
        ledger.keep(row.row, row.line)
    else:
        ledger.cut(row.row, row.line, left_out, cut_tokens=0)
    return replace(example, row=row.row, line=row.line, source=ledger.source)


def _no_usable_row(ledger: Ledger) -> RefusedSource:
    codes = ", ".join(f"{code} {count}" for code, count in ledger.summary()["codes"].items())
    return RefusedSource(
        "no_usable_row",
        f"none of its {ledger.rows} rows can be used ({codes})",
        where=ledger.source,
        details=[f"{ledger.source}:{entry.line}: {entry.reason}" for entry in ledger.dropped_entries()],
        remedy="mend the rows; the first of them shows what is expected where",
    )


def _hash_of(source: str, rows: list[RawRow]) -> str:
    if not is_hub_id(source):
        return source_hash(source)
    digest = hashlib.sha256()
    for row in rows:
        digest.update(json.dumps(row.value, ensure_ascii=False, sort_keys=True, default=str).encode() + b"\n")
    return digest.hexdigest()
