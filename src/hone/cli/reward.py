"""``hone reward``: asking a reward model what answers are worth."""

from __future__ import annotations

from typing import Any

import typer

from hone.cli.options import ConfigFileOption, JsonOption, load_options, options_of
from hone.cli.output import print_json, result_stream, show
from hone.cli.progress import reported
from hone.config import REWARD_OPTIONS, RewardConfig
from hone.home import hone_home

__all__ = ["reward", "score"]

_SHOWN_CHARACTERS = 60

reward = typer.Typer(help="Ask a reward model what answers are worth.", no_args_is_help=True)


@reward.command("score", epilog="Example: hone reward score judge answers.jsonl")
@options_of(RewardConfig, arguments=("version", "data"), only=REWARD_OPTIONS)
def score(
    *, context: typer.Context, as_json: JsonOption = False, config_file: ConfigFileOption = None, **given: Any
) -> None:
    """Score every answer of a file: the higher, the better.

    Scores say something beside each other only, for answers to one prompt: the chance that one is preferred to
    another is the logistic function of the difference of their scores.
    """
    config = load_options(context, RewardConfig, given, file=config_file)
    from hone.recipe.reward import score_answers

    with result_stream(as_json), reported() as recorder:
        scored = score_answers(config, home=hone_home(), recorder=recorder)
    if as_json:
        print_json({"schema": 1, "version": scored.name, "data": scored.ledger.summary(), "answers": scored.rows})
        return
    for one in scored.rows:
        text = " ".join(one["text"].split())
        shown = text if len(text) <= _SHOWN_CHARACTERS else text[: _SHOWN_CHARACTERS - 3] + "..."
        show(f"{one['score']:+8.3f}  line {one['line']}, answer {one['answer'] + 1}: {shown}")
