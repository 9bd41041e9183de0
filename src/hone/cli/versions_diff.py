"""``hone models diff``: what differs between two versions."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from typing import Annotated, Any

import typer
from rich.text import Text

from hone.cli.options import JsonOption
from hone.cli.output import console, labelled, paragraph, print_json, result_stream, show, text_columns
from hone.cli.tables import figure, signed
from hone.home import hone_home
from hone.types import JsonDict

__all__ = ["diff_models"]

_SHOWN_ROWS = 5
_SHOWN_ANSWERS = 3
_LINES_OF_A_TEXT = 3


def diff_models(
    old: Annotated[str, typer.Argument(metavar="OLD", help="A version, as support@2, or an alias.")],
    new: Annotated[str, typer.Argument(metavar="NEW", help="Another version.")],
    *,
    as_json: JsonOption = False,
) -> None:
    """Compare two versions: data, options, figures, answers.

    Rows are told apart by the hash of their content. Nothing is computed by a model.
    """
    from hone.recipe.versions_diff import diff_versions

    with result_stream(as_json):
        found = diff_versions(old, new, home=hone_home())
    if as_json:
        print_json(found)
        return
    for line in _lines(found, text_columns(console(sys.stdout))):
        show(line)


def _lines(found: JsonDict, columns: int) -> Iterator[str | Text]:
    yield Text(f"{found['old']} -> {found['new']}", style="bold")
    for name, values in found["origin"].items():
        yield labelled("Origin", f"{name}: {_value(values['old'])} -> {_value(values['new'])}", columns=columns)
    yield from _data_lines(found["data"], columns)
    if found["config"] is None:
        yield labelled("Options", "the config of one of them is not there any more", columns=columns)
    else:
        text = "; ".join(
            f"{name} {_value(values['old'])} -> {_value(values['new'])}" for name, values in found["config"].items()
        )
        yield labelled("Options", text or "all the same", columns=columns)
    yield from _score_lines(found, columns)
    yield from _answer_lines(found["answers"], columns)


def _data_lines(data: JsonDict, columns: int) -> Iterator[Text]:
    changed = data["changed"]
    counts = [f"{len(data['added'])} added", f"{len(data['removed'])} removed"]
    counts.append("changed ones are not known, because prompts were not hashed" if changed is None else
                  f"{len(changed)} changed")  # fmt: skip
    counts.append(f"{data['rows']['same']} the same")
    if data["moved"]:
        counts.append(f"{len(data['moved'])} moved between training and held-out rows")
    yield labelled("Data", f"{data['rows']['old']} -> {data['rows']['new']} rows: {', '.join(counts)}", columns=columns)
    for word, rows in (("added", data["added"]), ("removed", data["removed"])):
        if rows:
            shown = [f"{row['part'].replace('_', '-')} row {row['row']} ({row['sha256'][:12]})" for row in rows]
            more = f", and {len(rows) - _SHOWN_ROWS} more" if len(rows) > _SHOWN_ROWS else ""
            yield labelled("", f"{word}: {', '.join(shown[:_SHOWN_ROWS])}{more}", columns=columns)


def _score_lines(found: JsonDict, columns: int) -> Iterator[Text]:
    parts = []
    for name, score in found["scores"].items():
        if score is None:
            parts.append(f"{name} was not compared")
            continue
        own = f"{name} {score['title']} {figure(score['score'], score['metric'])}"
        if score["interval"]:
            low, high = (figure(one, score["metric"]) for one in score["interval"])
            own += f" ({low} to {high})"
        parts.append(f"{own} on {score['rows']} rows of its own")
    yield labelled("Scores", "; ".join(parts), columns=columns)


def _answer_lines(answers: JsonDict, columns: int) -> Iterator[str | Text]:
    compared = answers["comparison"]
    if compared is None:
        yield labelled("Answers", answers["why_not"], columns=columns)
        return
    metric = compared["metric"]
    text = (
        f"on the {answers['rows']} held-out rows of both: {compared['title']} {figure(compared['old'], metric)} -> "
        f"{figure(compared['new'], metric)}, difference {signed(compared['difference'], metric)}"
    )
    if compared["interval"]:
        low, high = (signed(one, metric) for one in compared["interval"])
        text += f" (95% interval {low} to {high})"
    better = sum(row["better"] for row in compared["flipped"])
    text += (
        f"; {len(compared['flipped'])} answers flipped: {better} better, {len(compared['flipped']) - better} worse; "
        f"{compared['same_words']} word for word the same"
    )
    yield labelled("Answers", text, columns=columns)
    flipped = compared["flipped"]
    for row in [*flipped[:_SHOWN_ANSWERS], *flipped[max(_SHOWN_ANSWERS, len(flipped) - _SHOWN_ANSWERS) :]]:
        yield ""
        yield Text(f"{'Better' if row['better'] else 'Worse'}: {figure(row['old_score'], metric)} -> "
                   f"{figure(row['new_score'], metric)}", style="bold")  # fmt: skip
        yield from _row_lines(row, columns)


def _row_lines(row: Mapping[str, Any], columns: int) -> Iterator[str]:
    for label, key in (("prompt", "prompt"), ("expected", "reference"), ("old", "old"), ("new", "new")):
        text = row[key] if row[key].strip() else "(nothing)"
        yield paragraph(text, columns=columns, first=f"  {label:<10}", most_lines=_LINES_OF_A_TEXT)


def _value(value: object) -> str:
    text = "none" if value is None else str(value)
    return f"{text[:16]}" if len(text) == 64 and text.isalnum() else text
