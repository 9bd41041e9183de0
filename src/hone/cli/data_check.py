"""``hone data check``: every fault of a file, with its place and what to do."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from hone.cli.options import JsonOption, load_options, options_of
from hone.cli.output import console, harmless, labelled, print_json, result_stream, say, show, text_columns
from hone.config import RunConfig
from hone.data.detection import PREFERENCE_FORMATS
from hone.data.faults import FAULTS, Fault
from hone.errors import ConfigError
from hone.home import hone_home

if TYPE_CHECKING:
    from hone.data.audit.repair import Repair
    from hone.data.audit.report import AuditReport

__all__ = ["check_data"]

_PLACES_A_CODE = 3
# Of fewer rows a share says nothing.
_ROWS_TO_SPEAK_OF = 20
_DOMINANT_SHARE = 0.5
_HEADINGS = {"refused": "Refused", "error": "Error", "warning": "Warning", "fixed": "Fixed"}
_STYLES = {"refused": "bold red", "error": "bold red", "warning": "bold yellow", "fixed": "bold"}

_Lines = Iterator[str | Text]


@options_of(RunConfig, arguments=("data",), only=("data", "eval", "map", "max_length", "allow_few_rows"))
def check_data(
    *,
    context: typer.Context,
    benchmark: Annotated[
        list[str] | None,
        typer.Option(metavar="FILE", help="Warn of rows whose prompt stands in FILE; may be repeated."),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(metavar="TEXT", help="A base to look with as well: its template, and how likely answers are."),
    ] = None,
    learning_curve: Annotated[
        bool,
        typer.Option("--learning-curve", help="With --model: train on parts of the rows, to see if more would help."),
    ] = False,
    presidio: Annotated[
        bool, typer.Option("--presidio", help="Look for personal data with Presidio as well, an optional package.")
    ] = False,
    fix: Annotated[
        Path | None,
        typer.Option(
            metavar="OUT", help="Write the usable rows to OUT, and beside it the rejected ones and the ledger."
        ),
    ] = None,
    redact: Annotated[
        bool, typer.Option("--redact", help="With --fix: replace secrets and personal data by placeholders.")
    ] = False,
    strict: Annotated[bool, typer.Option("--strict", help="End with code 2 where there is a warning, too.")] = False,
    as_json: JsonOption = False,
    **given: Any,
) -> None:
    """Find every fault of a file before a model learns it.

    Each has a code, line, byte, place in the row and remedy. Ends with code 2 where a row is rejected or the file is.
    """
    config = load_options(context, RunConfig, given)
    if redact and fix is None:
        raise ConfigError("changes what --fix writes", where="--redact", remedy="give --fix OUT as well")
    if learning_curve and model is None:
        raise ConfigError("trains a base", where="--learning-curve", remedy="give --model as well")
    from hone.recipe.audit import audit_file, repair

    with result_stream(as_json):
        report = audit_file(
            config.data,
            mapping=config.mapping,
            evaluation_data=config.evaluation_data,
            benchmarks=benchmark or (),
            allow_few_rows=config.allow_few_rows,
            presidio=presidio,
            tasks=None,
        )
        if model is not None:
            report = _with_model(report, config, model, learning_curve=learning_curve)
        written = repair(report, fix, mapping=config.mapping, redact=redact) if fix is not None else None
    _print(report, written, as_json=as_json)
    if code := report.exit_code(strict=strict):
        raise typer.Exit(code)


def _print(report: AuditReport, written: Repair | None, *, as_json: bool) -> None:
    if as_json:
        print_json({**report.to_json(), "fix": written.to_json() if written else None})
        return
    columns = text_columns(console(sys.stdout))
    for line in (*_lines(report, columns), *(_repair_lines(written, columns) if written else ())):
        show(line)


def _with_model(report: AuditReport, config: RunConfig, model: str, *, learning_curve: bool) -> AuditReport:
    if report.prompts_only:
        raise ConfigError("looks at answers, and no row has one", where="--model", remedy="leave it out")
    if learning_curve and report.format in PREFERENCE_FORMATS:
        raise ConfigError(
            f"trains on rows with one right answer, and these compare or judge answers ({report.format})",
            where="--learning-curve",
            remedy="leave it out",
        )
    from hone.recipe.audit_model import add_model_faults

    options: dict[str, Any] = {
        "model": model,
        "home": hone_home(),
        "mapping": config.mapping,
        "max_length": config.max_length,
    }
    report = add_model_faults(report, **options, note=say)
    if not learning_curve:
        return report
    from hone.recipe.learning_curve import add_learning_curve

    return add_learning_curve(report, **options, note=say)


def _repair_lines(written: Repair, columns: int) -> _Lines:
    again = f", {written.changed} of them written anew" if written.changed else ""
    yield labelled("Written", f"{written.data}: {written.written} rows{again}", columns=columns, hang=2)
    if written.redacted:
        kinds = ", ".join(f"{name} {count}" for name, count in written.redacted.items())
        yield labelled("", f"redacted, each value by its own placeholder: {kinds}", columns=columns, hang=2)
    yield labelled(
        "", f"{written.quarantine}: {written.quarantined} rejected rows as they stood", columns=columns, hang=2
    )
    yield labelled("", f"{written.ledger}: what became of each row", columns=columns, hang=2)


def _lines(report: AuditReport, columns: int) -> _Lines:
    by_code: dict[str, list[Fault]] = {code: [] for code in report.to_json()["totals"]}
    for fault in report.faults:
        by_code[fault.code].append(fault)
    for code, faults in by_code.items():
        yield from _code_lines(code, faults, report, columns)
    if by_code:
        yield ""
    yield from _summary_lines(report, columns)


def _code_lines(code: str, faults: list[Fault], report: AuditReport, columns: int) -> _Lines:
    kind, total = FAULTS[code], report.totals[code]
    times = "" if kind.severity == "refused" else f", {total} time{'s' if total > 1 else ''}"
    style = _STYLES[kind.severity]
    yield labelled(_HEADINGS[kind.severity], f"{code}{times}: {kind.means}", columns=columns, hang=2, style=style)
    if kind.severity == "fixed":
        return
    name = Path(report.source).name
    for fault in faults[:_PLACES_A_CODE]:
        place = f"{name}:{fault.line}" if fault.line else name
        if fault.row and "json_document" in report.totals:  # its rows often share one line
            place += f" row {fault.row}"
        place += f" {fault.pointer}" if fault.pointer else ""
        yield labelled("", f"{harmless(place)}: {fault.message}", columns=columns, hang=2)
    if total > _PLACES_A_CODE and not kind.once:
        yield labelled("", f"... and {total - _PLACES_A_CODE} more (--json lists them)", columns=columns)


def _summary_lines(report: AuditReport, columns: int) -> _Lines:
    counts = f"{report.kept} kept, {report.cut} cut, {report.dropped} dropped"
    yield labelled("Rows", f"{report.rows} read: {counts}", columns=columns)
    if report.format:
        unread = f"; nothing is read from {', '.join(report.unread_keys)}" if report.unread_keys else ""
        yield labelled("Format", f"{report.format}{unread}", columns=columns)
    if report.coverage:
        yield from _coverage_lines(report.coverage, columns)
    if report.learned and "learning_curve" in report.learned:
        yield from _curve_lines(report.learned["learning_curve"], columns)
    for note in report.notes:
        yield labelled("Note", note, columns=columns)
    steps = report.first_steps()
    for number, (code, count, remedy) in enumerate(steps, start=1):
        times = f" ({count} times)" if count > 1 else ""
        yield labelled("Do first" if number == 1 else "", f"{number}. {code}{times}: {remedy}", columns=columns, hang=3)
    if not steps:
        yield labelled("Verdict", "nothing to mend", columns=columns)
    elif report.refused:
        yield labelled("Verdict", "the file cannot be used as it is", columns=columns, style="bold red")
    elif report.dropped:
        yield labelled("Verdict", f"usable without {report.dropped} of its rows", columns=columns)
    else:
        yield labelled("Verdict", "every row is usable; look at the warnings", columns=columns)


def _coverage_lines(coverage: dict[str, Any], columns: int) -> _Lines:
    prompts, answers = coverage["prompt_characters"], coverage["answer_characters"]
    lengths = f"half the prompts have at most {prompts['median']} characters"
    longest = f"{prompts['most']}"
    if answers is not None:
        lengths, longest = f"{lengths}, half the answers {answers['median']}", f"{longest} and {answers['most']}"
    yield labelled("Covers", f"{lengths} (longest {longest})", columns=columns)
    labels = coverage["labels"]
    if labels:
        shown = ", ".join(f"{label} {count}" for label, count in list(labels.items())[:10])
        more = f" and {len(labels) - 10} more" if len(labels) > 10 else ""
        yield labelled("", f"answers are {len(labels)} labels: {shown}{more}", columns=columns)
    languages = ", ".join(f"{name} {share:.0%}" for name, share in coverage["languages"].items() if share >= 0.01)
    yield labelled("", f"languages: {languages}", columns=columns)
    opening, share = next(iter(coverage["openings"].items()))
    if share >= 0.2 and coverage["sampled"] >= _ROWS_TO_SPEAK_OF:
        yield labelled("", f"{share:.0%} of the prompts begin with {opening!r}", columns=columns)
    if coverage["sampled"] >= _ROWS_TO_SPEAK_OF:
        for group in coverage["groups"]:
            words = ", ".join(group["words"])
            text = f"{group['share']:.0%} of the prompts are of the kind of line {group['line']}: {words}"
            yield labelled("", harmless(text), columns=columns, hang=2)
        if coverage["groups"] and coverage["groups"][0]["share"] >= _DOMINANT_SHARE:
            yield labelled(
                "", "most of what is learned is that kind: add others that will be asked", columns=columns, hang=2
            )
    if coverage["refusals"]:
        yield labelled("", f"{coverage['refusals']} answers refuse", columns=columns)
    votes = coverage.get("preferences")
    if votes and votes["pairs"]:
        longer = votes["longer_preferred"]
        told = "" if longer is None else f"; the longer answer is preferred in {longer:.0%} of those of unequal length"
        yield labelled("", f"{votes['pairs']} pairs of answers{told}", columns=columns, hang=2)
    elif votes:
        yield labelled("", f"{votes['liked']} answers liked, {votes['not_liked']} not", columns=columns)


def _curve_lines(curve: dict[str, Any], columns: int) -> _Lines:
    losses = ", ".join(f"{point['loss']:.3f} with {point['rows']}" for point in curve["measured"])
    text = f"validation loss {curve['base_loss']:.3f} bits a token without training, {losses} rows"
    yield labelled("Rows enough?", text, columns=columns, hang=2)
    double = curve["predicted"][0]
    gain = f"{double['rows']} rows: at best {double['loss']:.3f}, {curve['doubling_gain']:.0%} less"
    if curve["says"] == "unclear":
        text = "cannot be told: the smaller trainings do not foretell the last"
        text += f" (off by {curve['error']:.0%})" if curve["error"] < 1 else ""
    elif curve["says"] == "more":
        text = f"more rows would help ({gain})"
    else:
        text = (
            f"more rows like these would hardly lower it ({gain})"
            if curve["doubling_gain"] > 0
            else ("more rows like these did not lower it")
        )
    yield labelled("", text, columns=columns, hang=2)
