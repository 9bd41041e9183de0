"""Rows in which people compare or judge answers, in the shapes that public sets and tools have.

preference            chosen, rejected (texts or turns), and prompt (text or turns); without a prompt both sides are
                      conversations that share all but their last turn, as turns or as Anthropic's text; margin?
openai-preference     input: {messages, tools?}, preferred_output: [turns], non_preferred_output: [turns]
preference-ranking    prompt, answers (or completions, responses): a list, best first; ranks?: as many numbers, 1 best
preference-label      prompt, completion (or response), label: true or false, or 1 or 0

Tables hold text alone, so a label, a margin or a rank may be text.

Source: TRL's dataset formats; OpenAI's "Direct preference optimization" guide; Anthropic's hh-rlhf.
"""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from hone.data.detection import (
    LABEL,
    OPENAI_PREFERENCE,
    PREFERENCE,
    RANKING,
    RANKING_KEYS,
    SYSTEM_COLUMNS,
    has_label,
    row_format,
    truth_of,
)
from hone.data.ledger import RowError
from hone.data.messages import kind, message_to_openai, parse_messages, parse_tools
from hone.types import JsonDict, Message, Preference

__all__ = ["PLAIN_PAIR", "parse_preference", "preference_keys", "preference_to_json"]

PLAIN_PAIR = (1.0, 2.0)
"""Ranks of one answer that is better than one other."""
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
_TURN = re.compile(r"\n\n(Human|Assistant):")
_SPEAKERS = {"Human": "user", "Assistant": "assistant"}
_Side = tuple[tuple[Message, ...], Message]


def parse_preference(value: Mapping[str, Any], format_name: str) -> Preference:
    """Read one row.

    Args:
        value: the row as an object.
        format_name: one of :data:`hone.data.detection.PREFERENCE_FORMATS`.

    Raises:
        RowError: the row cannot be used.
    """
    if row_format(value) != format_name and not (format_name == LABEL and has_label(value)):
        raise RowError("unknown_keys", f"its keys are not those of the file's format, {format_name}")
    if format_name == OPENAI_PREFERENCE:
        return _openai(value)
    prompt = _prompt(value)
    tools = parse_tools(value.get("tools"))
    if format_name == LABEL:
        return _labelled(value, prompt, tools)
    if format_name == RANKING:
        return _ranked(value, prompt, tools)
    chosen, rejected = (_side(value[key], key, prompt) for key in ("chosen", "rejected"))
    if chosen[0] != rejected[0]:
        raise RowError("prompts_differ", "chosen and rejected answer different prompts")
    return _compared(chosen[0], [chosen[1], rejected[1]], [1, 2], tools, margin=_margin(value))


def preference_keys(format_name: str) -> frozenset[str]:
    """The top-level keys that are read from a row of a format; all others are left unread."""
    if format_name == OPENAI_PREFERENCE:
        return frozenset({"input", "preferred_output", "non_preferred_output"})
    own = {
        PREFERENCE: ("chosen", "rejected", "margin"),
        RANKING: (*RANKING_KEYS, "ranks"),
        LABEL: ("completion", "response", "label"),
    }[format_name]
    return frozenset({"prompt", "tools", *SYSTEM_COLUMNS, *own})


def preference_to_json(preference: Preference, *, as_ranking: bool = False) -> JsonDict:
    """A preference as a row, with turns for texts; it reads back as the same preference.

    Args:
        preference: any.
        as_ranking: whether a pair is written as a ranking of two, as a file of rankings needs it; its margin is lost.
    """
    value: JsonDict = {"prompt": [message_to_openai(replace(m, supervised=True)) for m in preference.prompt]}
    answers = [[message_to_openai(replace(answer, supervised=True))] for answer in preference.answers]
    if preference.tools:
        value["tools"] = [dict(tool) for tool in preference.tools]
    if preference.liked is not None:
        return value | {"completion": answers[0], "label": preference.liked}
    if preference.ranks == PLAIN_PAIR and not as_ranking:
        margin = {"margin": preference.margin} if preference.margin else {}
        return value | {"chosen": answers[0], "rejected": answers[1], **margin}
    return value | {"answers": answers, "ranks": list(preference.ranks)}


def _openai(value: Mapping[str, Any]) -> Preference:
    asked = value["input"]
    if not isinstance(asked, Mapping):
        raise RowError("bad_content", f"input is {kind(asked)}, not an object with messages")
    prompt = _unsupervised(parse_messages(asked.get("messages"), "input.messages", supervise=False))
    sides = [_side(value[key], key, prompt)[1] for key in ("preferred_output", "non_preferred_output")]
    return _compared(prompt, sides, [1, 2], parse_tools(asked.get("tools"), "input.tools"))


def _labelled(
    value: Mapping[str, Any], prompt: tuple[Message, ...] | None, tools: tuple[Mapping[str, Any], ...]
) -> Preference:
    key = "completion" if value.get("completion") is not None else "response"
    before, answer = _side(value[key], key, prompt)
    liked = truth_of(value["label"])
    if liked is None:
        raise RowError("bad_ranks", f"label is {_shown(value['label'])}, not true or false, 1 or 0")
    _require_prompt(before)
    return Preference((*before, replace(answer, supervised=True)), tools, liked=liked)


def _ranked(
    value: Mapping[str, Any], prompt: tuple[Message, ...] | None, tools: tuple[Mapping[str, Any], ...]
) -> Preference:
    key = next(key for key in RANKING_KEYS if key in value)
    answers = value[key]
    if not isinstance(answers, list) or len(answers) < 2:
        raise RowError("bad_ranks", f"{key} is no list of two answers or more")
    ranks = value.get("ranks")
    if ranks is None:
        ranks = list(range(1, len(answers) + 1))
    else:
        ranks = [_number(rank) for rank in ranks] if isinstance(ranks, list) else []
        if len(ranks) != len(answers) or None in ranks:
            raise RowError("bad_ranks", f"ranks is no list of {len(answers)} numbers, one for each of {key}")
    sides = [_side(answer, f"{key}[{index}]", prompt) for index, answer in enumerate(answers)]
    if any(side[0] != sides[0][0] for side in sides):
        raise RowError("prompts_differ", f"the {key} answer different prompts")
    return _compared(sides[0][0], [side[1] for side in sides], ranks, tools)


def _compared(
    prompt: tuple[Message, ...],
    answers: Sequence[Message],
    ranks: Sequence[float],
    tools: tuple[Mapping[str, Any], ...],
    *,
    margin: float = 0.0,
) -> Preference:
    """A preference with its best answer first."""
    _require_prompt(prompt)
    order = sorted(range(len(answers)), key=lambda index: ranks[index])
    best, *others = (replace(answers[index], supervised=True) for index in order)
    preference = Preference(
        (*prompt, best), tools, others=tuple(others), ranks=tuple(ranks[index] for index in order), margin=margin
    )
    if not preference.pairs:
        raise RowError("equal_sides", "all answers have the same rank, so nothing is preferred")
    if any(preference.answers[better] == preference.answers[worse] for better, worse in preference.pairs):
        raise RowError("equal_sides", "a better and a worse answer are the same")
    return preference


def _require_prompt(prompt: tuple[Message, ...]) -> None:
    if not any(message.role != "system" for message in prompt):
        raise RowError("no_prompt", "nothing stands before the answers")


def _prompt(value: Mapping[str, Any]) -> tuple[Message, ...] | None:
    if value.get("prompt") is None:
        return None
    given = value["prompt"]
    if isinstance(given, list):
        prompt = _unsupervised(parse_messages(given, "prompt", supervise=False))
    elif not isinstance(given, str):
        raise RowError("bad_content", f"prompt is {kind(given)}, not text")
    elif not given.strip():
        raise RowError("empty_prompt", "prompt is empty")
    else:
        prompt = _transcript(given) or (Message("user", given),)
    system = next((value[key] for key in SYSTEM_COLUMNS if value.get(key)), None)
    if isinstance(system, str) and prompt[0].role != "system":
        return (Message("system", system), *prompt)
    return prompt


def _side(given: object, key: str, prompt: tuple[Message, ...] | None) -> _Side:
    """The prompt and the answer of one side, which may be an answer alone or the whole conversation."""
    if isinstance(given, str):
        turns = _transcript(given)
        if turns is None:
            turns = (Message("assistant", given.strip() if prompt is None else given),)
    elif isinstance(given, list):
        turns = _unsupervised(parse_messages(given, key, supervise=False))
    else:
        raise RowError("bad_content", f"{key} is {kind(given)}, not text")
    if turns[-1].role != "assistant":
        raise RowError("no_assistant", f"{key} does not end with a turn of the assistant")
    answer = turns[-1]
    if not answer.content.strip() and not answer.tool_calls:
        raise RowError("empty_assistant", f"{key} is empty")
    before = turns[:-1]
    if prompt is None:
        return before, answer
    if before and before not in (prompt, tuple(m for m in prompt if m.role != "system")):
        raise RowError("prompts_differ", f"{key} begins with other turns than prompt")
    return prompt, answer


def _transcript(text: str) -> tuple[Message, ...] | None:
    """The turns of Anthropic's text; None where it is none. Spaces around a turn are of the form, not of the turn."""
    if not text.startswith(("\n\nHuman:", "\n\nAssistant:")):
        return None
    _, *parts = _TURN.split(text)
    turns = [Message(_SPEAKERS[name], said.strip()) for name, said in zip(parts[::2], parts[1::2], strict=True)]  # type: ignore[arg-type]
    joined: list[Message] = []
    for turn in turns:
        # some speak twice in a row, which chat templates refuse
        if joined and joined[-1].role == turn.role:
            joined[-1] = replace(turn, content=f"{joined[-1].content}\n\n{turn.content}")
        else:
            joined.append(turn)
    return tuple(joined)


def _unsupervised(messages: tuple[Message, ...]) -> tuple[Message, ...]:
    return tuple(replace(message, supervised=False) for message in messages)


def _margin(value: Mapping[str, Any]) -> float:
    given = value.get("margin")
    if given is None or (isinstance(given, str) and not given.strip()):
        return 0.0
    margin = _number(given)
    if margin is None or margin < 0:
        raise RowError("bad_ranks", f"margin = {_shown(given)} is no number from 0 up")
    return float(margin)


def _number(value: object) -> float | None:
    """A finite number, also as tables write it: in text; None for anything else."""
    if isinstance(value, str) and _NUMBER.fullmatch(value.strip()):
        value = float(value)
    if not isinstance(value, int | float) or isinstance(value, bool) or abs(value) > sys.float_info.max:
        return None
    return None if math.isnan(value) else value


def _shown(value: object) -> str:
    return "empty" if value in (None, "") else repr(value)[:60]
