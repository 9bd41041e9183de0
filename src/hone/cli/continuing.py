"""``hone models continue``: a version goes on with new rows, or anew without some of the old ones."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import typer
from rich.text import Text

from hone.cli.options import ConfigFileOption, JsonOption, load_options, options_of
from hone.cli.output import console, labelled, print_json, result_stream, show, text_columns
from hone.cli.progress import reported
from hone.cli.signals import stops_after_step
from hone.cli.summary import print_run
from hone.cli.tables import figure, signed
from hone.config import CONTINUE_OPTIONS, ContinueConfig
from hone.home import hone_home
from hone.types import JsonDict

__all__ = ["continue_model"]


@options_of(ContinueConfig, arguments=("version", "data"), only=CONTINUE_OPTIONS)
def continue_model(
    *, context: typer.Context, as_json: JsonOption = False, config_file: ConfigFileOption = None, **given: Any
) -> None:
    """Train the next version from a version.

    New rows are trained on together with a sample of the old ones, from the version's adapter on. The old version and
    the new one then answer the old and the new held-out rows, so that what the update broke is seen. With --without,
    the next version is trained anew from the base, without these rows.
    """
    config = load_options(context, ContinueConfig, given, file=config_file)
    from hone.engine.events import Tee
    from hone.recipe.continuing import continue_version

    with stops_after_step() as should_stop, result_stream(as_json), reported() as recorder:
        result = continue_version(
            config, home=hone_home(), recorder=Tee(should_stop, recorder), should_stop=should_stop
        )
    if as_json:
        print_json(result)
    else:
        print_run(result)
        for line in _lines(result["update"], result["version"], text_columns(console(sys.stdout))):
            show(line)
    if result["verdict"]["exit_code"]:
        raise typer.Exit(result["verdict"]["exit_code"])


def _lines(update: JsonDict, successor: str, columns: int) -> Iterator[str | Text]:
    lineage = update["lineage"]
    yield ""
    yield Text(f"{lineage['parent']} -> {successor}", style="bold")
    rows = lineage["rows"]
    if lineage["relation"] == "retrained":
        text = f"anew from {lineage['starts_from']}, {len(lineage['forgotten'])} rows forgotten"
    else:
        text = f"{rows['replayed']} of {rows['old']} old rows replayed ({lineage['replay_share']:.0%})"
    yield labelled("Trained on", f"{rows['new']} new rows; {text}", columns=columns)
    for part in ("old", "new"):
        label = f"{part.capitalize()} rows"
        found = update[part] and update[part]["comparison"]
        if not found:
            yield labelled(label, "not measured: there is no held-out row", columns=columns)
            continue
        metric = found["metric"]
        finding = ("worse" if found["worse"] else "better") if found["different"] else "no sure difference"
        text = (
            f"{finding}: {found['title']} {figure(found['old'], metric)} -> {figure(found['new'], metric)} on "
            f"{found['rows']} held-out rows, difference {signed(found['difference'], metric)}"
        )
        if found["interval"]:
            low, high = (signed(one, metric) for one in found["interval"])
            text += f" (95% interval {low} to {high})"
        broke = sum(not row["better"] for row in found["flipped"])
        text += f"; {broke} answers got worse, {len(found['flipped']) - broke} better"
        yield labelled(label, text, columns=columns)
