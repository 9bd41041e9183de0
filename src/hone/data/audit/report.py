"""The report of an audit: exact totals, the faults that are shown, and what to do first."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace

from hone.data.audit.secrets import hidden
from hone.data.faults import FAULTS, Fault, Severity
from hone.types import JsonDict

__all__ = ["MOST_SHOWN", "AuditReport", "FaultLog", "with_faults"]

MOST_SHOWN = 1000
_ORDER: tuple[Severity, ...] = ("refused", "error", "warning", "fixed")
# Warnings that spoil more than the rows they stand in come before those that may be meant.
_GRAVEST = (
    *("secret", "conflicting_answers", "probe_copy", "mojibake", "control_token", "personal_data"),
    *("class_imbalance", "refusal", "duplicate", "near_duplicate", "ansi", "html", "mismatched_pair", "label_error"),
)


class FaultLog:
    """Counts faults, and keeps the first of each severity, so that memory does not grow with their number.

    Attributes:
        totals: rows, lines or files under each code.
    """

    def __init__(self) -> None:
        self.totals: Counter[str] = Counter()
        self._kept: dict[Severity, list[Fault]] = {severity: [] for severity in _ORDER}

    def add(self, fault: Fault) -> None:
        """Count a fault, and keep it while there is room."""
        first = fault.code not in self.totals
        self.totals[fault.code] += 1
        kept = self._kept[fault.severity]
        if len(kept) < MOST_SHOWN and (first or not FAULTS[fault.code].once):
            kept.append(replace(fault, message=hidden(fault.message)))

    def count(self, code: str, more: int) -> None:
        """Count further places of a fault that is listed once."""
        self.totals[code] += more

    def shown(self) -> list[Fault]:
        """The gravest :data:`MOST_SHOWN` faults, in the order of the file."""
        gravest = [fault for severity in _ORDER for fault in self._kept[severity]][:MOST_SHOWN]
        return sorted(gravest, key=lambda fault: (fault.line, fault.row))


@dataclass(frozen=True, slots=True)
class AuditReport:
    """What is known of a source after the audit; ``rows`` = ``kept`` + ``cut`` + ``dropped``.

    Args:
        source: the file, as the user gave it.
        format: of its rows; None where there is none.
        rows: input rows.
        kept: rows used whole.
        cut: rows of which a part is left out.
        dropped: rows that cannot be used.
        refused: whether the file as a whole cannot be used.
        faults: those that are shown, in the order of the file.
        totals: rows, lines or files under each code, exactly.
        unread_keys: keys that nothing is read from.
        coverage: as :meth:`hone.data.audit.balance.Balance.to_json` gives it; None where no row is usable.
        notes: sentences about what was not looked at, and why.
        late_drops: rows that other rows or files rule out, with code and reason.
        learned: what the model told, where one was given.
        prompts_only: whether no row has an answer, and the rows were judged as prompts.
    """

    source: str
    format: str | None
    rows: int
    kept: int
    cut: int
    dropped: int
    refused: bool
    faults: list[Fault]
    totals: dict[str, int]
    unread_keys: tuple[str, ...] = ()
    coverage: JsonDict | None = None
    notes: tuple[str, ...] = ()
    late_drops: dict[int, tuple[str, str]] = field(default_factory=dict)
    learned: JsonDict | None = None
    prompts_only: bool = False

    def count(self, severity: Severity) -> int:
        """Faults of one severity, over all codes."""
        return sum(count for code, count in self.totals.items() if FAULTS[code].severity == severity)

    def exit_code(self, *, strict: bool = False) -> int:
        """0, or 2 where the file is refused or a row is rejected; with ``strict``, also where there is a warning."""
        bad = self.refused or self.count("error") > 0 or (strict and self.count("warning") > 0)
        return 2 if bad else 0

    def first_steps(self, most: int = 3) -> list[tuple[str, int, str]]:
        """What to do first: (code, how often, remedy), the gravest first."""

        def gravity(code: str) -> tuple[int, int, int, str]:
            place = _GRAVEST.index(code) if code in _GRAVEST else len(_GRAVEST)
            return _ORDER.index(FAULTS[code].severity), place, -self.totals[code], code

        wanted = sorted((code for code in self.totals if FAULTS[code].severity != "fixed"), key=gravity)
        remedies = {fault.code: fault.remedy for fault in reversed(self.faults)}
        return [(code, self.totals[code], remedies.get(code, FAULTS[code].remedy)) for code in wanted[:most]]

    def to_json(self) -> JsonDict:
        """The object that ``hone data check --json`` prints."""
        ordered = sorted(self.totals.items(), key=lambda one: (_ORDER.index(FAULTS[one[0]].severity), -one[1], one[0]))
        return {
            "schema": 1,
            "source": self.source,
            "format": self.format,
            "rows": self.rows,
            "kept": self.kept,
            "cut": self.cut,
            "dropped": self.dropped,
            "refused": self.refused,
            "faults": [fault.to_json() for fault in self.faults],
            "totals": dict(ordered),
            "unread_keys": list(self.unread_keys),
            "coverage": self.coverage,
            "notes": list(self.notes),
            "first": [{"code": code, "count": count, "remedy": remedy} for code, count, remedy in self.first_steps()],
            "learned": self.learned,
            "prompts_only": self.prompts_only,
        }


def with_faults(
    report: AuditReport, faults: list[Fault], *, cut_rows: set[int], learned: JsonDict | None = None
) -> AuditReport:
    """A report with what a model found in its usable rows.

    Args:
        report: of a source that was not refused.
        faults: further ones, of rows that were kept or cut; those with severity error drop their row.
        cut_rows: rows of which a part is left out because of the maximum length.
        learned: what the model told besides.
    """
    totals = Counter(report.totals)
    totals.update(fault.code for fault in faults)
    drops = {fault.row: (fault.code, fault.message) for fault in faults if fault.severity == "error"}
    # a row that already lost turns behind its last answer stays cut
    newly_cut = len(cut_rows - {fault.row for fault in report.faults if fault.code == "trailing_turns"})
    every = sorted([*report.faults, *faults], key=lambda fault: (_ORDER.index(fault.severity), fault.line, fault.row))
    return replace(
        report,
        kept=report.kept - len(drops) - newly_cut,
        cut=report.cut + newly_cut,
        dropped=report.dropped + len(drops),
        faults=sorted(every[:MOST_SHOWN], key=lambda fault: (fault.line, fault.row)),
        totals=dict(totals),
        late_drops={**drops, **report.late_drops},
        learned=learned,
    )
