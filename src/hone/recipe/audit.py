"""The audit of a file: the recipe behind ``hone data check``, and the check that ``hone run`` begins with.

Nothing heavy is imported here; what needs a model stands in ``audit_model.py``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from hone.config.check import POLICY_METHODS
from hone.config.schema import TrainConfig
from hone.data.audit.audit import audit_source, held_out_prompts
from hone.data.audit.presidio import PresidioSearch
from hone.data.audit.repair import Repair, repair_file
from hone.data.audit.report import AuditReport
from hone.data.faults import FAULTS, RefusedSource
from hone.errors import ConfigError

__all__ = ["audit_file", "audited_rows", "describe_warnings", "repair", "require_usable"]

_MOST_NAMED = 4
_PROMPTS_ONLY = "prompts only: usable with a --reward or a --teacher (docs/preferences.md); other methods need answers"


def audit_file(
    source: str,
    *,
    mapping: Mapping[str, str] | None = None,
    evaluation_data: str | None = None,
    benchmarks: Sequence[str] = (),
    allow_few_rows: bool = False,
    presidio: bool = False,
    tasks: bool | None = False,
) -> AuditReport:
    """Check a file without a model.

    Args:
        source: the file or hub data set.
        mapping: columns, where the format is not to be found by itself.
        evaluation_data: a file of held-out rows; training rows that repeat one are rejected.
        benchmarks: further files whose prompts no row should repeat; rows that do are warned of.
        allow_few_rows: whether fewer than 10 usable rows are accepted.
        presidio: whether Presidio looks for personal data as well.
        tasks: whether answers will be graded, so that rows may lack one; with None, where all rows lack one, and a
            note says which methods train on them.

    Raises:
        DataError: a file is missing or cannot be read, or no row of ``evaluation_data`` can be used.
        MissingDependencyError: Presidio is asked for, and not installed.
    """
    if tasks is None:
        report = audit_file(source, mapping=mapping, evaluation_data=evaluation_data, benchmarks=benchmarks,
                            allow_few_rows=allow_few_rows, presidio=presidio, tasks=False)  # fmt: skip
        if report.kept or report.cut or not report.rows:
            return report
        prompts = audit_file(source, mapping=mapping, evaluation_data=evaluation_data, benchmarks=benchmarks,
                             allow_few_rows=allow_few_rows, presidio=presidio, tasks=True)  # fmt: skip
        if not prompts.kept and not prompts.cut:
            return report
        coverage = prompts.coverage and {**prompts.coverage, "answer_characters": None}
        return replace(prompts, prompts_only=True, coverage=coverage, notes=(*prompts.notes, _PROMPTS_ONLY))
    search = PresidioSearch() if presidio else None
    held_out = [held_out_prompts(evaluation_data, mapping=mapping, tasks=tasks)] if evaluation_data else []
    held_out += [held_out_prompts(name, code="probe_copy") for name in benchmarks]
    report = audit_source(
        source, mapping=mapping, held_out=held_out, allow_few_rows=allow_few_rows, search=search, tasks=tasks
    )
    return replace(report, notes=(*report.notes, search.describe())) if search else report


def repair(report: AuditReport, out: Path, *, mapping: Mapping[str, str] | None = None, redact: bool = False) -> Repair:
    """Write the repaired copy of an audited file (see :func:`hone.data.audit.repair.repair_file`).

    Raises:
        RefusedSource: the file cannot be used at all, for another reason than that too few rows are left.
        ConfigError: ``out`` is the file itself, or the rows are prompts only.
        StorageError: it cannot be written.
    """
    if report.prompts_only:
        raise ConfigError("repairs rows with answers, and none of these has one", where="--fix", remedy="leave it out")
    if any(fault.severity == "refused" and fault.code != "too_few_rows" for fault in report.faults):
        require_usable(report)
    return repair_file(report.source, out, report, mapping=mapping, redact=redact)


def require_usable(report: AuditReport) -> None:
    """Stop where the audit refused the file.

    Raises:
        RefusedSource: with the reason, and the rows that cannot be used.
    """
    if not report.refused:
        return
    refusal = next(fault for fault in report.faults if fault.severity == "refused")
    errors = [fault for fault in report.faults if fault.severity == "error"]
    raise RefusedSource(
        refusal.code,
        refusal.message,
        where=f"{report.source}:{refusal.line}" if refusal.line else report.source,
        line=refusal.line,
        details=[f"{report.source}:{fault.line}: {fault.message} ({fault.code})" for fault in errors],
        remedy=refusal.remedy,
    )


def describe_warnings(report: AuditReport) -> str | None:
    """The warnings of a report in one sentence; None where there are none."""
    counts = {code: count for code, count in report.totals.items() if FAULTS[code].severity == "warning"}
    if not counts:
        return None
    ordered = sorted(counts.items(), key=lambda one: (-one[1], one[0]))
    named = ", ".join(f"{code} {count}" for code, count in ordered[:_MOST_NAMED])
    more = f" and {len(ordered) - _MOST_NAMED} more kinds" if len(ordered) > _MOST_NAMED else ""
    return f"the data check warns of {named}{more}; `hone data check {report.source}` shows where"


def audited_rows(config: TrainConfig, *, evaluation_data: str | None = None) -> AuditReport:
    """The audit of the rows of a run; stops where the file as a whole cannot be used.

    Args:
        config: the options, with the method.
        evaluation_data: file of held-out rows.

    Raises:
        RefusedSource: it is refused.
    """
    report = audit_file(
        config.data,
        mapping=config.mapping,
        evaluation_data=evaluation_data,
        allow_few_rows=config.allow_few_rows,
        tasks=config.method in POLICY_METHODS,
    )
    require_usable(report)
    return report
