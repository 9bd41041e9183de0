"""``hone generate``: one message, one answer."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import typer

from hone.cli.options import ConfigFileOption, JsonOption, load_options, options_of, require_model
from hone.cli.output import harmless, print_json, result_stream, say
from hone.config import GenerateConfig
from hone.errors import ConfigError
from hone.home import hone_home
from hone.types import ArmName, JsonDict

if TYPE_CHECKING:  # importing the recipe imports torch
    from hone.recipe.best_of import ScoredAnswer

__all__ = ["generate", "input_lines", "write_pieces"]


@options_of(GenerateConfig, arguments=("model", "prompt"))
def generate(
    *, context: typer.Context, as_json: JsonOption = False, config_file: ConfigFileOption = None, **given: Any
) -> None:
    """Answer one message.

    Nothing but the answer goes to standard output. With --best-of, several are written and the best one is given.
    """
    if given.get("prompt") == "-":
        given["prompt"] = _read_standard_input()
    config = load_options(context, GenerateConfig, given, file=config_file)
    _check_best_of(config)
    require_model(config.model)
    from hone.recipe.answer import open_conversation

    with result_stream(as_json):
        conversation = open_conversation(config, home=hone_home(), note=say)
    if conversation.system_is_from_training:
        say(f"system message, as in all training rows: {harmless(conversation.system or '')}")
    arm: ArmName = "tuned" if conversation.is_tuned and not config.base else "base"
    candidates: list[ScoredAnswer] = []
    if config.best_of > 1:
        from hone.recipe.best_of import best_answers

        with result_stream(as_json):
            candidates = best_answers(conversation, config, arm=arm, home=hone_home(), note=say)
        answer = candidates[0].answer
        text = answer.text
        if not as_json:
            write_pieces([text])
    else:
        pieces = conversation.ask(config.prompt, arm=arm)
        if not as_json:
            write_pieces(pieces)
        text = "".join(pieces)
        answer = conversation.last
    if not answer.stopped:
        say(f"(cut off after {answer.tokens} tokens; --max-new-tokens allows more)")
    if as_json:
        print_json(
            {
                "schema": 1,
                "model": conversation.name,
                "base": conversation.base_name,
                "arm": arm,
                "system": conversation.system,
                "prompt": config.prompt,
                "answer": text,
                **{name: value for name, value in asdict(answer).items() if name != "text"},
                **({"candidates": [_candidate_json(one) for one in candidates]} if candidates else {}),
            }
        )


def _check_best_of(config: GenerateConfig) -> None:
    """Refuse options that do not go together.

    Raises:
        ConfigError: there is nothing to choose by, or nothing to choose from.
    """
    if config.best_of > 1 and config.reward is None:
        raise ConfigError(
            "nothing says which answer is best", where="--best-of", remedy="name a reward model with --reward"
        )
    if config.reward is not None and config.best_of == 1:
        raise ConfigError("has no effect with one answer", where="--reward", remedy="give --best-of 8, or leave it out")
    if config.best_of > 1 and config.temperature == 0:
        raise ConfigError(
            "all answers would be the same with temperature = 0", where="--best-of", remedy="add --temperature 0.8"
        )


def _candidate_json(one: ScoredAnswer) -> JsonDict:
    return {"text": one.answer.text, "score": one.score, "stopped": one.answer.stopped, "tokens": one.answer.tokens}


def write_pieces(pieces: Iterable[str]) -> None:
    """Write an answer on standard output as it comes, and a line end; a terminal gets nothing that it would obey."""
    clean = harmless if sys.stdout.isatty() else str
    for piece in pieces:
        sys.stdout.write(clean(piece))
        sys.stdout.flush()
    sys.stdout.write("\n")
    sys.stdout.flush()


def input_lines() -> Iterator[bytes]:
    """Lines of standard input.

    Raises:
        ConfigError: it is closed.
    """
    if sys.stdin is None:  # how Python tells that the shell closed it
        raise ConfigError("is closed", where="standard input", remedy="run it from a terminal, or pipe the message in")
    yield from sys.stdin.buffer


def _read_standard_input() -> str:
    try:
        text = b"".join(input_lines()).decode("utf-8").strip()
    except UnicodeDecodeError as error:
        raise ConfigError(f"is not UTF-8 (byte {error.start + 1})", where="standard input") from error
    if not text:
        raise ConfigError(
            "is empty",
            where="standard input",
            remedy='pipe the message in, as `echo "..." | hone generate NAME -`, or give it in place of -',
        )
    return text
