"""The audit of one source: a pass over its rows, then what only all of them together can show."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import chain

from hone.data.audit.balance import Balance
from hone.data.audit.copies import MOST_COMPARED, CopyFinder, HeldOut
from hone.data.audit.judge import Judge, TextSearch
from hone.data.audit.reading import JudgedRow, judged_rows
from hone.data.audit.report import AuditReport, FaultLog
from hone.data.audit.votes import Votes
from hone.data.detection import LABEL, PREFERENCE_FORMATS, FormatMapping, detect_format, mixed_formats
from hone.data.faults import FAULTS, Fault, RefusedSource
from hone.data.ledger import RowStatus
from hone.data.rows import RawRow
from hone.errors import DataError
from hone.types import JsonDict

__all__ = ["LEAST_ROWS", "audit_source", "held_out_prompts"]

LEAST_ROWS = 10
_KEPT_UNKNOWN = 20
_MOST_KEYS = 100


def audit_source(
    source: str,
    *,
    mapping: Mapping[str, str] | None = None,
    held_out: Sequence[HeldOut] = (),
    content: bool = True,
    compare: bool = True,
    allow_few_rows: bool = False,
    search: TextSearch | None = None,
    tasks: bool = False,
) -> AuditReport:
    """Check a source for every fault of the catalogue that needs no model.

    Args:
        source: a file, or a hub data set as ``org/name[:split]``.
        mapping: columns that the user named, as for :func:`hone.data.loader.load_examples`.
        held_out: prompts that no row may repeat.
        content: whether texts are looked through (debris, secrets, refusals); without, only the form is checked.
        compare: whether rows are compared with one another, and what they cover is counted.
        allow_few_rows: whether fewer than 10 usable rows are accepted.
        search: looks through each text besides.
        tasks: whether answers will be graded, so that rows may lack one.

    Raises:
        DataError: the source is missing, a folder, or cannot be read. What is wrong inside it stands in the report.
        ConfigError: ``mapping`` is not what it must be.
        MissingDependencyError: an optional package is needed for this kind of source.
    """
    columns = FormatMapping.from_pairs(mapping) if mapping is not None else None
    tally = _Tally(Judge(columns, content=content, search=search, tasks=tasks), compare=compare)
    try:
        try:
            tally.read(source)
            if tally.judge.labels.judge and tally.judge.labels.odd:
                # only all labels together show that those that judge nothing are slips: the rows are judged anew
                tally.copies.close()
                judge = Judge(columns, content=content, search=search, tasks=tasks, judged_answers=True)
                tally = _Tally(judge, compare=compare)
                tally.read(source)
            tally.refuse_mixture(columns)
        except RefusedSource as refused:
            tally.refuse(refused.fault())
        tally.finish(held_out, allow_few_rows=allow_few_rows)
        return tally.report(source)
    finally:
        tally.copies.close()


def held_out_prompts(
    source: str, *, code: str = "held_out_copy", mapping: Mapping[str, str] | None = None, tasks: bool = False
) -> HeldOut:
    """The prompts of a file that training rows must not repeat.

    Args:
        source: a file of any format that is read for training.
        code: the fault of a row that repeats one.
        mapping: columns that the user named.
        tasks: whether answers will be graded.

    Raises:
        DataError: no row of it can be used.
    """
    judge = Judge(FormatMapping.from_pairs(mapping) if mapping is not None else None, content=False, tasks=tasks)
    rows = [row for row in judged_rows(source, judge, lambda fault: None) if row.judged.status != "dropped"]
    if not rows:
        raise DataError(
            "no row of it can be used",
            where=source,
            remedy=f"see what is wrong with it: hone data check {source}",
        )
    prompts = [row.judged.asked or row.judged.context for row in rows]
    return HeldOut(source, code, prompts, [row.place[1] for row in rows])


class _Tally:
    """What is counted over the rows of one source."""

    def __init__(self, judge: Judge, *, compare: bool) -> None:
        self.judge = judge
        self.log = FaultLog()
        self.copies = CopyFinder()
        self._balance = Balance()
        self._votes = Votes()
        self._compare = compare
        self._statuses: Counter[RowStatus] = Counter()
        self._formats: dict[str, tuple[int, int]] = {}
        self._unknown: list[RawRow] = []
        self._unread: dict[str, int] = {}
        self._refused = False
        self._late: dict[int, tuple[str, str]] = {}
        self._cut_rows: set[int] = set()

    def read(self, source: str) -> None:
        """Judge and count all rows."""
        for row in judged_rows(source, self.judge, self.log.add):
            self.add(row)

    def add(self, row: JudgedRow) -> None:
        judged, (number, line, offset) = row.judged, row.place
        self._statuses[judged.status] += 1
        for code, pointer, message in judged.findings:
            self.log.add(Fault.of(code, message, row=number, line=line, offset=offset, pointer=pointer))
        if judged.format is not None:
            count, first = self._formats.get(judged.format, (0, line))
            self._formats[judged.format] = (count + 1, first)
        elif len(self._unknown) < _KEPT_UNKNOWN:
            self._unknown.append(RawRow(number, line, row.value or _object(row, self.judge)))
        if judged.status == "cut":
            self._cut_rows.add(number)
        if judged.unread and judged.status != "dropped":
            self._note_unread(judged.unread, row)
        if judged.status != "dropped" and self._compare:
            self._balance.add(judged, row.place)
            if judged.format in PREFERENCE_FORMATS:
                self._votes.add(judged, row.place)
                # rows are copies where all their answers are
                everything = "\x1f".join(text for vote in judged.votes for text in vote) or f"{judged.liked}"
                judged = replace(judged, answer=f"{judged.answer}\x1f{everything}")
            self.copies.add(judged, row.place)

    def _note_unread(self, keys: Sequence[str], row: JudgedRow) -> None:
        _, line, offset = row.place
        message = f"nothing is read from {', '.join(keys[:8])}"
        self.log.add(Fault.of("unread_keys", message, row=row.place[0], line=line, offset=offset))
        for key in keys:
            if key in self._unread or len(self._unread) < _MOST_KEYS:
                self._unread[key] = self._unread.get(key, 0) + 1

    def refuse(self, fault: Fault) -> None:
        self._refused = True
        self.log.add(fault)

    def refuse_mixture(self, columns: FormatMapping | None) -> None:
        """Refuse a file of several formats, of none, or of labels that may judge."""
        if self._formats.keys() <= {LABEL, "prompt-completion"}:
            self.judge.labels.require_clear()
        if len(self._formats) > 1:
            raise mixed_formats(self._formats)
        readable = [row for row in self._unknown if row.value is not None]
        if not self._formats and readable and columns is None:
            detect_format(readable, preferences=True)

    def finish(self, held_out: Sequence[HeldOut], *, allow_few_rows: bool) -> None:
        """What all rows together show, and whether enough of them are left."""
        compares = bool(self._votes.pairs or sum(self._votes.judged.values()))
        for fault in chain(self.copies.faults(held_out), self._balance.faults(), self._votes.faults()):
            if compares and fault.code == "conflicting_answers":
                continue  # several answers to one prompt are what preferences are about
            self.log.add(fault)
            if FAULTS[fault.code].severity == "error":
                self._late.setdefault(fault.row, (fault.code, fault.message))
        if self._refused:
            return
        rows, usable = sum(self._statuses.values()), self._usable()
        if not rows:
            self.refuse(Fault.of("empty_file", "has no rows"))
        elif not usable:
            self.refuse(Fault.of("no_usable_row", f"none of its {rows} rows can be used"))
        elif usable < LEAST_ROWS and not allow_few_rows:
            message = f"{usable} usable row{'s' if usable > 1 else ''}, at least {LEAST_ROWS} are needed"
            self.refuse(Fault.of("too_few_rows", message))

    def _coverage(self) -> JsonDict | None:
        if not self._balance.rows:
            return None
        compares = self._votes.pairs or sum(self._votes.judged.values())
        return self._balance.to_json() | ({"preferences": self._votes.to_json()} if compares else {})

    def _usable(self) -> int:
        return self._statuses["kept"] + self._statuses["cut"] - len(self._late)

    def report(self, source: str) -> AuditReport:
        notes = []
        if self.copies.searched:
            notes.append(
                f"more than {MOST_COMPARED:,} rows or 8 MB of prompts: nearly equal ones were searched by MinHash, "
                "which misses about 1 pair of 5,000"
            )
        formats = list(self._formats)
        late_cut = sum(row in self._cut_rows for row in self._late)
        return AuditReport(
            source=source,
            format=formats[0] if len(formats) == 1 else None,
            rows=sum(self._statuses.values()),
            kept=self._statuses["kept"] - len(self._late) + late_cut,
            cut=self._statuses["cut"] - late_cut,
            dropped=self._statuses["dropped"] + len(self._late),
            refused=self._refused,
            faults=self.log.shown(),
            totals=dict(self.log.totals),
            unread_keys=tuple(sorted(self._unread)),
            coverage=self._coverage(),
            notes=tuple(notes),
            late_drops=self._late,
        )


def _object(row: JudgedRow, judge: Judge) -> JsonDict | None:
    """The object of a row that has no format, for telling what its keys are; None where it could not be read."""
    if row.raw is None or any(
        FAULTS[code].severity == "error" and code != "unknown_keys" for code, _, _ in row.judged.findings
    ):
        return None
    return judge.object_of(row.raw)
