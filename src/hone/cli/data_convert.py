"""``hone data convert``: the same rows in another format."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from hone.cli.options import JsonOption, load_options, options_of
from hone.cli.output import console, labelled, print_json, result_stream, show, text_columns
from hone.config import TrainConfig

__all__ = ["convert_data"]

_MOST_REFUSED = 5


@options_of(TrainConfig, arguments=("data",), only=("data", "map"))
def convert_data(
    *,
    context: typer.Context,
    out: Annotated[Path, typer.Option("--out", metavar="OUT", help="The file to write; .parquet for Parquet.")],
    target: Annotated[
        str,
        typer.Option(
            "--to",
            metavar="FORMAT",
            help="chat, sharegpt, alpaca, prompt-completion; of preferences preference, openai-preference, chosen.",
        ),
    ] = "chat",
    allow_loss: Annotated[
        bool, typer.Option("--allow-loss", help="Leave out what FORMAT cannot hold, and rows that cannot be read.")
    ] = False,
    as_json: JsonOption = False,
    **given: Any,
) -> None:
    """Write the rows in another format.

    Where the other format cannot hold all of them, that is said and nothing is written.
    """
    config = load_options(context, TrainConfig, given)
    from hone.recipe.convert import convert_file

    with result_stream(as_json):
        done = convert_file(config.data, out, target=target, mapping=config.mapping, allow_loss=allow_loss)
    if as_json:
        print_json(done.to_json())
        return
    columns = text_columns(console(sys.stdout))
    show(labelled("Written", f"{done.out}: {done.written} of {done.rows} rows, as {done.target}", columns=columns))
    for what, count in done.lost.most_common():
        show(labelled("Lost", f"{what}: in {count} rows", columns=columns))
    for line, reason in done.refused[:_MOST_REFUSED]:
        show(labelled("Left out", f"{done.source}:{line}: {reason}", columns=columns, hang=2))
    if len(done.refused) > _MOST_REFUSED:
        show(labelled("", f"... and {len(done.refused) - _MOST_REFUSED} more (--json lists them)", columns=columns))
