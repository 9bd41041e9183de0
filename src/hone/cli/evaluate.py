"""``hone evaluate``: all arms answer the same held-out rows."""

from __future__ import annotations

from typing import Any

import typer

from hone.cli.options import ConfigFileOption, JsonOption, load_options, options_of, require_model
from hone.cli.output import print_json, result_stream
from hone.cli.progress import reported
from hone.cli.summary import print_evaluation
from hone.config import EvaluateConfig
from hone.home import hone_home

__all__ = ["evaluate"]


@options_of(EvaluateConfig, arguments=("version", "data"))
def evaluate(
    *, context: typer.Context, as_json: JsonOption = False, config_file: ConfigFileOption = None, **given: Any
) -> None:
    """Compare a version with its base on held-out rows.

    The base answers as it is, with an instruction, with examples and, where they are given, with documents. Prints
    metrics with intervals, the rows that gained and lost most, and the verdict. Ends with code 3 where the verdict is
    "do not ship".
    """
    config = load_options(context, EvaluateConfig, given, file=config_file)
    require_model(config.version)
    from hone.recipe.evaluate import evaluate as evaluate_arms

    with result_stream(as_json), reported() as recorder:
        result = evaluate_arms(config, home=hone_home(), recorder=recorder)
    whole = {
        "schema": 1,
        "version": result.settings["model"],
        "data": result.data,
        "evaluation": result.evaluation,
        "answers": result.answers,
        "retention": result.retention,
        "verdict": result.verdict.to_json() if result.verdict else None,
        "proof": [invariant.to_json() for invariant in result.proof],
        "generation": result.settings,
    }
    if as_json:
        print_json(whole)
    else:
        print_evaluation(whole)
    if result.verdict is not None and result.verdict.exit_code:
        raise typer.Exit(result.verdict.exit_code)
