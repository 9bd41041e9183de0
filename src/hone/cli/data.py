"""``hone data show``: the rows as the model sees them, and what becomes of every row of a file."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from hone.cli.data_check import check_data
from hone.cli.data_convert import convert_data
from hone.cli.data_page import PageRow, data_page
from hone.cli.options import JsonOption, load_options, options_of
from hone.cli.output import console, harmless, labelled, print_json, result_stream, say, show, text_columns
from hone.config import TrainConfig
from hone.files import write_atomically
from hone.home import hone_home
from hone.types import JsonDict

if TYPE_CHECKING:  # importing the recipe imports torch
    from hone.recipe.show import ShownData, ShownRow

__all__ = ["data", "show_data"]

data = typer.Typer(help="Check, look at and convert training data.", no_args_is_help=True, rich_markup_mode=None)

_OPEN, _CLOSE = "⟦", "⟧"
_MOST_BAD_ROWS = 20


@data.callback()
def _group() -> None:
    """Check, look at and convert training data."""


@data.command("show", epilog="Example: hone data show examples.jsonl --rows 2")
@options_of(TrainConfig, arguments=("data",), only=("data", "model", "map", "max_length"))
def show_data(
    *,
    context: typer.Context,
    rows: Annotated[int, typer.Option(min=0, metavar="N", help="How many of the first rows to show.")] = 3,
    row: Annotated[int | None, typer.Option(min=1, metavar="K", help="Show the K-th row of the file instead.")] = None,
    ids: Annotated[bool, typer.Option("--ids", help="Show token ids as well.")] = False,
    page: Annotated[
        Path | None, typer.Option("--html", metavar="FILE", help="Write the rows as a page to FILE instead.")
    ] = None,
    as_json: JsonOption = False,
    **given: Any,
) -> None:
    """Show rows as the model sees them.

    The rendered text of the first rows, and every row that cannot be used, with its reason. What the model is
    trained to write stands between ⟦ and ⟧.
    """
    config = load_options(context, TrainConfig, given)
    from hone.recipe.show import show_rows

    with result_stream(as_json):
        shown = show_rows(
            config.data,
            model=config.model,
            home=hone_home(),
            mapping=config.mapping,
            max_length=config.max_length,
            count=rows,
            row=row,
            note=say,
        )
    if as_json:
        print_json(_as_json(shown, with_ids=ids))
        return
    columns = text_columns(console(sys.stdout))
    if page is not None:
        rows_of_page = [_page_row(one, config.data, with_ids=ids) for one in shown.rows]
        summary = [" ".join(str(line).split()) for line in _summary_lines(shown, columns)]
        write_atomically(page, data_page(Path(config.data).name, rows_of_page, summary[1:]))
        show(labelled("Page", f"{page}: {len(shown.rows)} rows", columns=columns))
        return
    for one in shown.rows:
        for line in _row_lines(one, config.data, with_ids=ids):
            show(line)
        show()
    for line in _summary_lines(shown, columns):
        show(line)


data.command("check", epilog="Example: hone data check examples.jsonl --eval held_out.jsonl")(check_data)


data.command("convert", epilog="Example: hone data convert alpaca.json --out chat.jsonl")(convert_data)


def _as_json(shown: ShownData, *, with_ids: bool) -> JsonDict:
    summary = shown.ledger.summary()
    bad = [entry for entry in shown.ledger.entries() if entry.status != "kept"]
    return {
        "schema": 1,
        "source": summary["source"],
        "format": shown.format,
        "model": shown.model,
        "template": shown.template,
        "data": summary,
        "tokens": shown.tokens,
        "supervised_tokens": shown.supervised_tokens,
        "longest": shown.longest,
        "unused_keys": list(shown.unused_keys),
        "rows": [_row_as_json(one, with_ids=with_ids) for one in shown.rows],
        "bad_rows": [
            {
                "row": entry.row,
                "line": entry.line,
                "status": entry.status,
                "code": entry.code,
                "reason": entry.reason,
                "cut_tokens": entry.cut_tokens,
            }
            for entry in bad
        ],
    }


def _row_as_json(one: ShownRow, *, with_ids: bool) -> JsonDict:
    value: JsonDict = {
        "row": one.row,
        "line": one.line,
        "tokens": one.tokens,
        "supervised_tokens": one.supervised_tokens,
        "cut": one.cut,
        "segments": [{"text": text, "supervised": supervised} for text, supervised in one.segments],
    }
    if with_ids:
        value["sequences"] = [
            {"ids": list(sequence.ids), "supervised": list(sequence.supervised)} for sequence in one.sequences
        ]
    return value


def _page_row(one: ShownRow, source: str, *, with_ids: bool) -> PageRow:
    ids = [_marked_ids(sequence.ids, sequence.supervised) for sequence in one.sequences] if with_ids else []
    return PageRow(_row_title(one, source), one.segments, one.cut, ids)


def _row_title(one: ShownRow, source: str) -> str:
    counts = f"{one.tokens} tokens, {one.supervised_tokens} supervised"
    return f"row {one.row} ({harmless(Path(source).name)}:{one.line}), {counts}"


def _row_lines(one: ShownRow, source: str, *, with_ids: bool) -> Iterator[str | Text]:
    yield Text(_row_title(one, source), style="bold")
    text = Text()
    for piece, supervised in one.segments:
        marked = f"{_OPEN}{harmless(piece)}{_CLOSE}" if supervised else harmless(piece)
        text.append(marked, style="green" if supervised else "")
    yield text
    if one.cut:
        yield Text(f"-- {harmless(one.cut)} --", style="red")
    if with_ids:
        for sequence in one.sequences:
            yield _marked_ids(sequence.ids, sequence.supervised)


def _marked_ids(ids: tuple[int, ...], supervised: tuple[bool, ...]) -> str:
    words = []
    before = False
    for token, inside in zip(ids, supervised, strict=True):
        if inside != before:
            words.append(_OPEN if inside else _CLOSE)
        words.append(str(token))
        before = inside
    return " ".join([*words, _CLOSE] if before else words)


def _summary_lines(shown: ShownData, columns: int) -> Iterator[str | Text]:
    ledger = shown.ledger
    yield labelled("Marked", f"{_OPEN}text{_CLOSE} is what the model is trained to write", columns=columns)
    yield labelled("Format", f"{shown.format}, rendered with the chat template of {shown.model}", columns=columns)
    for note in shown.template["notes"]:
        yield labelled("", note, columns=columns, hang=2)
    counts = f"{ledger.kept} kept, {ledger.cut_rows} cut, {ledger.dropped} dropped"
    yield labelled("Rows", f"{ledger.rows} read: {counts}", columns=columns)
    share = shown.supervised_tokens / shown.tokens if shown.tokens else 0.0
    supervised = f"{shown.supervised_tokens} of them ({share:.0%}) supervised"
    yield labelled("Tokens", f"{shown.tokens}, {supervised}; the longest row has {shown.longest}", columns=columns)
    if shown.unused_keys:
        yield labelled("Not read", f"keys {', '.join(shown.unused_keys)}", columns=columns)
    bad = [entry for entry in ledger.entries() if entry.status != "kept"]
    for entry in bad[:_MOST_BAD_ROWS]:
        code = f" ({entry.code})" if entry.code else ""
        cut = f", {entry.cut_tokens} tokens" if entry.cut_tokens else ""
        text = f"{ledger.source}:{entry.line}: {entry.reason}{code}{cut}"
        yield labelled(entry.status.capitalize(), text, columns=columns, hang=2)
    if len(bad) > _MOST_BAD_ROWS:
        yield labelled("", f"... and {len(bad) - _MOST_BAD_ROWS} more (--json lists all)", columns=columns)
