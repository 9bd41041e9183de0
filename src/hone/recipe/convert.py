"""A file in another format: the recipe behind ``hone data convert``."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from hone.data.convert import PAIR_TARGETS, TARGETS, convert_example, convert_preference
from hone.data.detection import (
    LABEL,
    OPENAI_PREFERENCE,
    PREFERENCE,
    PREFERENCE_FORMATS,
    RANKING,
    FormatMapping,
    detect_format,
)
from hone.data.formats import parse_row
from hone.data.ledger import RowError
from hone.data.row_files import atomic_stream
from hone.data.rows import RawRow
from hone.data.source import read_rows
from hone.data.tables import write_parquet
from hone.errors import ConfigError, DataError
from hone.types import JsonDict

__all__ = ["Conversion", "convert_file"]

_OF_ONE_ANSWER = tuple(one for one in TARGETS if one not in (*PAIR_TARGETS, "chosen"))
_OF_PREFERENCES = ("chat", *PAIR_TARGETS, "chosen")


@dataclass(slots=True)
class Conversion:
    """What became of the rows of a file.

    Args:
        source: the file.
        out: what was written.
        target: its format.
        rows: rows read; ``written`` + ``refused`` rows.
        written: rows in ``out``.
        refused: rows that are not in ``out``: (line, reason) of each.
        lost: what the target cannot hold, with the number of rows that had it.
    """

    source: str
    out: Path
    target: str
    rows: int = 0
    written: int = 0
    refused: list[tuple[int, str]] = field(default_factory=list)
    lost: Counter[str] = field(default_factory=Counter)

    def to_json(self) -> JsonDict:
        """All fields, as ``--json`` prints them."""
        return {
            "schema": 1,
            "source": self.source,
            "out": str(self.out),
            "target": self.target,
            "rows": self.rows,
            "written": self.written,
            "refused": [{"line": line, "reason": reason} for line, reason in self.refused],
            "lost": dict(self.lost.most_common()),
        }


def convert_file(
    source: str, out: Path, *, target: str, mapping: Mapping[str, str] | None = None, allow_loss: bool = False
) -> Conversion:
    """Write the rows of a source in another format; nothing is written where something would be lost, unless allowed.

    Args:
        source: the file or hub data set.
        out: the file to write: JSON lines, or Parquet where its name ends so.
        target: one of :data:`hone.data.convert.TARGETS`.
        mapping: columns that the user named.
        allow_loss: whether what the target cannot hold, and rows that cannot be read, may be left out.

    Raises:
        ConfigError: ``target`` is unknown, or ``out`` is the source.
        DataError: the rows are of a kind that the target never holds, or something would be lost; every kind of loss
            is named.
        StorageError: ``out`` cannot be written.
    """
    if target not in TARGETS:
        raise ConfigError(f"{target!r} is no format", where="--to", remedy=f"give one of {', '.join(TARGETS)}")
    if out.exists() and Path(source).exists() and out.samefile(source):
        raise ConfigError("names the data file itself", where="OUT", remedy="name another file")
    done = Conversion(source, out, target)
    columns = FormatMapping.from_pairs(mapping) if mapping is not None else None
    format_name = "mapped" if columns else _format_of(source)
    _require_kind(source, format_name, target)
    _refuse_loss(source, _dry(done, format_name, columns), format_name, allow_loss=allow_loss)
    rows = _converted(Conversion(source, out, target), format_name, columns)
    if out.suffix.lower() == ".parquet":
        write_parquet(out, rows)
        return done
    with atomic_stream(out) as stream:
        for value in rows:
            stream.write(json.dumps(value, ensure_ascii=False, default=str).encode("utf-8") + b"\n")
    return done


def _dry(done: Conversion, format_name: str, columns: FormatMapping | None) -> Conversion:
    """Count what would be written and lost, in a pass of its own, so that a refusal leaves nothing behind."""
    for _ in _converted(done, format_name, columns):
        pass
    return done


def _format_of(source: str) -> str:
    """The one format of the rows, preferences included."""
    try:
        return detect_format(read_rows(source), preferences=True)
    except DataError as error:
        error.where = error.where or source
        raise


def _require_kind(source: str, format_name: str, target: str) -> None:
    """Refuse a target that can hold none of the rows, whatever they say."""
    what, remedy = "", ""
    if format_name not in PREFERENCE_FORMATS and target not in _OF_ONE_ANSWER:
        what = f"its rows have one answer each ({format_name}), and {target} is made from compared or judged answers"
        remedy = f"give one of --to {', '.join(_OF_ONE_ANSWER)}"
    elif format_name in PREFERENCE_FORMATS and target not in _OF_PREFERENCES:
        what = f"its rows compare or judge answers ({format_name}), and {target} holds one right answer"
        remedy = "first write the best answers: --to chosen --allow-loss (or --to chat); then convert that file"
    elif format_name == LABEL and target in PAIR_TARGETS:
        what = f"its rows judge one answer each ({format_name}), and {target} compares two"
        remedy = "`hone run` learns from judged answers as they are; for the liked ones alone: --to chosen --allow-loss"
    if what:
        raise DataError(what, where=source, remedy=remedy)


def _converted(done: Conversion, format_name: str, columns: FormatMapping | None) -> Iterator[JsonDict]:
    for row in read_rows(done.source):
        done.rows += 1
        value, reason = _one(done, row, format_name, columns)
        if value is None:
            done.refused.append((row.line, reason))
            continue
        done.written += 1
        yield value


def _one(done: Conversion, row: RawRow, format_name: str, columns: FormatMapping | None) -> tuple[JsonDict | None, str]:
    if row.value is None:
        return None, row.error or "not read"
    try:
        if format_name in PREFERENCE_FORMATS:
            value, lost = convert_preference(row.value, done.target, format_name)
        else:
            example, left_out = parse_row(row.value, format_name, columns)
            value, lost = convert_example(example, done.target)
            lost = (*lost, "turns behind the last answer") if left_out else lost
    except RowError as error:
        return None, error.reason
    if value is None:
        return None, lost[0]
    done.lost.update(lost)
    return value, ""


def _refuse_loss(source: str, done: Conversion, format_name: str, *, allow_loss: bool) -> None:
    if allow_loss or not (done.refused or done.lost):
        return
    details = [f"{what}: in {count} rows" for what, count in done.lost.most_common()]
    details += [f"{source}:{line}: {reason}" for line, reason in done.refused]
    whole = "preference" if format_name in (PREFERENCE, OPENAI_PREFERENCE) else "chat"
    as_whole = "" if done.target == whole else f"convert to {whole}, which holds more, or "
    if format_name in (RANKING, LABEL):
        as_whole = "keep the file, which `hone run` learns from as it is, or "
    raise DataError(
        f"{done.target} cannot hold all of it ({done.written} of {done.rows} rows can be written)",
        where=source,
        details=details,
        remedy=f"{as_whole}leave it out with --allow-loss",
    )
