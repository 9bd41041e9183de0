"""``hone run``: the whole job."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from hone.cli.options import ConfigFileOption, JsonOption, options_of
from hone.cli.train import do_job
from hone.config import RunConfig

__all__ = ["run"]


@options_of(RunConfig, arguments=("data",))
def run(
    *,
    context: typer.Context,
    resume: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Go on with the interrupted run in this folder; without DATA.")
    ] = None,
    as_json: JsonOption = False,
    config_file: ConfigFileOption = None,
    **given: Any,
) -> None:
    """From examples to a proven version, in one command.

    Checks the data, trains, compares with the base on held-out rows, registers a version, prints the verdict.
    Nothing but DATA is needed: every number is chosen from the model and the data, and printed with its reason.
    Ends with code 3 where the verdict is "do not ship".
    """
    do_job(context, RunConfig, given, config_file=config_file, resume=resume, as_json=as_json)
