"""Rows of one format -> rows of another; what the other cannot hold is told, never dropped in silence.

Every format is read into :class:`hone.types.Example` (or a preference), and written from there.

    chat                 {"messages": [...], "tools"?}
    sharegpt             {"conversations": [{"from", "value"}], "system"?, "tools"?}
    alpaca               {"instruction", "input", "output", "system"?}       one question, one answer
    prompt-completion    {"prompt", "completion", "system"?}                 one question, one answer
    preference           {"prompt", "chosen", "rejected"}                    from preferences alone
    chosen               {"prompt", "completion"}                            the chosen answers of preferences
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from hone.data.audit.preferences import ASSISTANT_MARK, split_transcript
from hone.data.formats import example_to_openai
from hone.types import Example, JsonDict, Message

__all__ = ["TARGETS", "Converted", "convert_example", "convert_preference"]

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


def convert_preference(value: Mapping[str, Any], target: str) -> Converted:
    """Write a preference row in another shape.

    Args:
        value: a row with chosen and rejected, and perhaps a prompt.
        target: ``preference``, ``chosen``, or ``chat`` for the chosen conversation.
    """
    prompt, chosen, rejected = _sides(value)
    if target == "preference":
        return {"prompt": prompt, "chosen": chosen, "rejected": rejected}, ()
    lost = ("the rejected answer",)
    if target == "chosen":
        return {"prompt": prompt, "completion": chosen}, lost
    if target == "chat":
        asked = prompt if isinstance(prompt, list) else [{"role": "user", "content": prompt}]
        answered = chosen if isinstance(chosen, list) else [{"role": "assistant", "content": chosen}]
        return {"messages": [*asked, *answered]}, lost
    return None, ("a preference cannot be written so",)


def _sides(value: Mapping[str, Any]) -> tuple[Any, Any, Any]:
    """Prompt, chosen and rejected, the prompt taken out of the sides where it stands in both."""
    if "prompt" in value:
        return value["prompt"], value["chosen"], value["rejected"]
    if isinstance(value["chosen"], list):
        return value["chosen"][:-1], value["chosen"][-1:], value["rejected"][-1:]
    prompt, chosen = split_transcript(value["chosen"])
    turns = _transcript_turns(prompt)
    rejected = split_transcript(value["rejected"])[1]
    if len(turns) == 1:
        return turns[0]["content"], chosen, rejected
    return turns, [{"role": "assistant", "content": chosen}], [{"role": "assistant", "content": rejected}]


def _transcript_turns(text: str) -> list[JsonDict]:
    """The turns of Anthropic's transcript, without the empty last one."""
    turns: list[JsonDict] = []
    for piece in text.removesuffix(ASSISTANT_MARK).replace(ASSISTANT_MARK, "\n\nHuman:\x00").split("\n\nHuman:"):
        role = "assistant" if piece.startswith("\x00") else "user"
        if piece.strip("\x00 \n"):
            turns.append({"role": role, "content": piece.removeprefix("\x00").strip()})
    return turns


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
TARGETS = (*_WRITERS, "preference", "chosen")
