"""Rows of one format -> rows of another; what the other cannot hold is told, never dropped in silence.

Every format is read into :class:`hone.types.Example` (or a preference), and written from there.

    chat                 {"messages": [...], "tools"?}
    sharegpt             {"conversations": [{"from", "value"}], "system"?, "tools"?}
    alpaca               {"instruction", "input", "output", "system"?}       one question, one answer
    prompt-completion    {"prompt", "completion", "system"?}                 one question, one answer
    preference           {"prompt", "chosen", "rejected", "margin"?}         from pairs, and rankings of two
    openai-preference    {"input", "preferred_output", "non_preferred_output"}    likewise
    chosen               {"prompt", "completion"}                            the best or liked answers of preferences
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from hone.data.detection import PREFERENCE, RANKING_KEYS
from hone.data.formats import example_to_openai
from hone.data.messages import message_to_openai
from hone.data.preferences import parse_preference, preference_keys
from hone.types import Example, JsonDict, Message, Preference

__all__ = ["PAIR_TARGETS", "TARGETS", "Converted", "convert_example", "convert_preference"]

Converted = tuple[JsonDict | None, tuple[str, ...]]
"""The row, None where the target cannot hold it at all, and what of it is lost."""

_SHAREGPT_ROLES = {"user": "human", "assistant": "gpt", "system": "system", "tool": "observation"}


def convert_example(example: Example, target: str) -> Converted:
    """Write an example in another format.

    Args:
        example: the row.
        target: ``chat``, ``sharegpt``, ``alpaca`` or ``prompt-completion``.
    """
    return _WRITERS[target](example)


def convert_preference(value: Mapping[str, Any], target: str, format_name: str = PREFERENCE) -> Converted:
    """Write a row in which answers are compared or judged in another format.

    Args:
        value: the row.
        target: ``preference`` or ``openai-preference``; of the best answer ``chosen``, or ``chat``.
        format_name: the row's, one of :data:`hone.data.detection.PREFERENCE_FORMATS`.

    Raises:
        RowError: the row cannot be used.
    """
    preference = parse_preference(value, format_name)
    if target in PAIR_TARGETS:
        return _to_pair(preference, value, target, format_name)
    if target not in ("chosen", "chat"):
        return None, ("a preference cannot be written so",)
    if preference.liked is False:
        return None, ("its answer is not liked",)
    lost = ["the label"] if preference.liked else []
    lost += ["the rejected answer" if len(preference.others) == 1 else "the other answers"] if preference.others else []
    lost += ["the margin"] if preference.margin else []
    prompt, answers = _turns(preference)
    tools: JsonDict = {"tools": [dict(tool) for tool in preference.tools]} if preference.tools else {}
    if target == "chat":
        return {"messages": [*prompt, *answers[0]], **tools}, tuple(lost)
    if _are_texts(preference, value):
        return {"prompt": prompt[0]["content"], "completion": answers[0][0]["content"], **tools}, tuple(lost)
    return {"prompt": prompt, "completion": answers[0], **tools}, tuple(lost)


def _to_pair(preference: Preference, value: Mapping[str, Any], target: str, format_name: str) -> Converted:
    if preference.liked is not None:
        return None, ("one judged answer is no pair",)
    if len(preference.answers) > 2:
        return None, (f"a ranking of {len(preference.answers)} answers is no pair",)
    prompt, (chosen, rejected) = _turns(preference)
    tools: JsonDict = {"tools": [dict(tool) for tool in preference.tools]} if preference.tools else {}
    if target == "openai-preference":
        row = {"input": {"messages": prompt, **tools}, "preferred_output": chosen, "non_preferred_output": rejected}
        return row, (("the margin",) if preference.margin else ())
    if format_name == PREFERENCE and "prompt" in value:
        row = {key: item for key, item in value.items() if key in preference_keys(PREFERENCE)}
        return (row | {"margin": preference.margin} if isinstance(row.get("margin"), str) else row), ()
    margin = {"margin": preference.margin} if preference.margin else {}
    if _are_texts(preference, value):
        texts = {"chosen": chosen[0]["content"], "rejected": rejected[0]["content"]}
        return {"prompt": prompt[0]["content"], **texts, **tools, **margin}, ()
    return {"prompt": prompt, "chosen": chosen, "rejected": rejected, **tools, **margin}, ()


def _turns(preference: Preference) -> tuple[list[JsonDict], list[list[JsonDict]]]:
    """The prompt and each answer as turns; no weights are written, for a preference has none."""

    def turn(message: Message) -> JsonDict:
        return message_to_openai(replace(message, supervised=True))

    return [turn(message) for message in preference.prompt], [[turn(answer)] for answer in preference.answers]


def _are_texts(preference: Preference, value: Mapping[str, Any]) -> bool:
    """Whether a row of texts stays one: it asks one question, and holds no list of turns."""
    sides = [value.get(key) for key in ("input", "prompt", "chosen", "rejected", "completion", "response")]
    sides += next((value[key] for key in RANKING_KEYS if isinstance(value.get(key), list)), [])
    return len(preference.prompt) == 1 and not any(isinstance(side, list | dict) for side in sides)


def _to_chat(example: Example) -> Converted:
    return example_to_openai(example), ()


def _to_sharegpt(example: Example) -> Converted:
    lost, turns = [], []
    for message in example.messages:
        turn: JsonDict = {"from": _SHAREGPT_ROLES[message.role], "value": message.content}
        if message.tool_calls:
            calls = [{"name": call.name, "arguments": dict(call.arguments)} for call in message.tool_calls]
            turn = {
                "from": "function_call",
                "value": json.dumps(calls if len(calls) > 1 else calls[0], ensure_ascii=False),
            }
            lost += ["the text beside a tool call"] if message.content.strip() else []
            lost += ["the ids of tool calls"] if any(call.id for call in message.tool_calls) else []
        if message.reasoning:
            turn["reasoning_content"] = message.reasoning
        if message.name and message.role != "tool":
            turn["name"] = message.name
        if message.role == "assistant" and not message.supervised:
            turn["weight"] = 0
        turns.append(turn)
    row: JsonDict = {"conversations": turns}
    if example.tools:
        row["tools"] = json.dumps([dict(tool) for tool in example.tools], ensure_ascii=False)
    return row, tuple(dict.fromkeys(lost))


def _to_alpaca(example: Example) -> Converted:
    single = _single(example)
    if single is None:
        return None, ("a conversation of several turns cannot be written so",)
    system, asked, answer, lost = single
    return {"instruction": asked, "input": "", "output": answer, **({"system": system} if system else {})}, lost


def _to_prompt_completion(example: Example) -> Converted:
    single = _single(example)
    if single is None:
        return None, ("a conversation of several turns cannot be written so",)
    system, asked, answer, lost = single
    return {"prompt": asked, "completion": answer, **({"system": system} if system else {})}, lost


def _single(example: Example) -> tuple[str | None, str, str, tuple[str, ...]] | None:
    """(system, question, answer, what is lost) of a conversation of one question; None of any other."""
    turns: list[Message] = list(example.messages)
    system = turns.pop(0).content if turns[0].role == "system" else None
    if [turn.role for turn in turns] != ["user", "assistant"] or turns[1].tool_calls:
        return None
    lost = ["the definitions of the tools"] if example.tools else []
    lost += ["the reasoning"] if turns[1].reasoning else []
    lost += ["a speaker's name"] if any(turn.name for turn in turns) else []
    return system, turns[0].content, turns[1].content, tuple(lost)


_WRITERS: dict[str, Callable[[Example], Converted]] = {
    "chat": _to_chat,
    "sharegpt": _to_sharegpt,
    "alpaca": _to_alpaca,
    "prompt-completion": _to_prompt_completion,
}
PAIR_TARGETS = ("preference", "openai-preference")
TARGETS = (*_WRITERS, *PAIR_TARGETS, "chosen")
