"""How a model of this machine is asked for a score: the one way of training and of the server."""

from __future__ import annotations

from collections.abc import Sequence

from hone.data.ledger import RowError
from hone.data.messages import parse_messages
from hone.data.render import Renderer
from hone.errors import TemplateError
from hone.evaluation.grading import JudgeError
from hone.model.sampling import SamplingSettings
from hone.types import JsonDict, Message

__all__ = ["judge_request", "judge_settings", "judge_turns"]

_JUDGE_TOKENS = 256
_SEEDS = 2**31


def judge_turns(messages: Sequence[JsonDict]) -> tuple[Message, ...]:
    """The messages of a grader as turns; roles are those of training rows (``developer`` is ``system``).

    Raises:
        JudgeError: one cannot be read, as an assistant's that an empty answer leaves empty.
    """
    try:
        return parse_messages(list(messages), supervise=False)
    except RowError as error:
        raise JudgeError(error.reason) from error


def judge_settings(sampling: JsonDict) -> SamplingSettings:
    """How a judge writes: greedily and at most 256 tokens, where its grader does not say otherwise.

    Args:
        sampling: ``sampling_params``, which :func:`hone.evaluation.grading.check_grader` has passed.
    """
    given = {name: value for name, value in sampling.items() if value is not None}
    return SamplingSettings(
        max_new_tokens=given.get("max_completions_tokens", _JUDGE_TOKENS),
        temperature=float(given.get("temperature", 0.0)),
        top_p=float(given.get("top_p", 1.0)),
        seed=given.get("seed", 0) % _SEEDS,
    )


def judge_request(
    messages: Sequence[JsonDict], sampling: JsonDict, *, renderer: Renderer, context_length: int
) -> tuple[tuple[int, ...], SamplingSettings]:
    """What a model of this machine is given, and how it answers.

    Args:
        messages: of a score_model grader, filled.
        sampling: as :func:`judge_settings` takes it.
        renderer: the judge's own.
        context_length: tokens that the judge can read and write together.

    Returns:
        (prompt, settings): token ids, and settings that leave the answer within the context.

    Raises:
        JudgeError: the judge cannot be shown this answer: its text spells a control token, the judge's template drops
            a part, or there is no room.
    """
    try:
        prompt = renderer.prompt(judge_turns(messages))
    except TemplateError as error:
        raise JudgeError(error.what) from error
    room = context_length - len(prompt)
    if room < 1:
        raise JudgeError(f"the judge's prompt has {len(prompt)} tokens, and it can see {context_length}")
    wanted = judge_settings(sampling)
    settings = SamplingSettings(min(wanted.max_new_tokens, room), wanted.temperature, wanted.top_p, wanted.seed)
    return prompt, settings
