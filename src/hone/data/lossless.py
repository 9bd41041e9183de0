"""Whether all of a conversation stands in the rendered text: templates drop what they do not know without a word."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from json.encoder import encode_basestring_ascii
from typing import Any, Literal

from hone.types import Message, ToolCall

__all__ = ["MARKED_TOOL", "LostPart", "Shape", "lost_parts", "marked_conversation", "shape_of"]

Shape = tuple[Any, ...]
"""What of a conversation decides which parts a template renders, as a key."""

MARKED_TOOL: Mapping[str, Any] = {
    "type": "function",
    "function": {
        "name": "qztoolname",
        "description": "qztooldescription",
        "parameters": {
            "type": "object",
            "properties": {"qztoolkey": {"type": "string", "description": "qztoolkeydescription"}},
            "required": ["qztoolkey"],
        },
    },
}


@dataclass(frozen=True, slots=True)
class LostPart:
    """A part of a conversation that the rendered text lacks.

    Args:
        kind: what is lost.
        index: the message's index, from 0; for ``definition``, the tool's.
    """

    kind: Literal["message", "reasoning", "call", "definition"]
    index: int

    def describe(self, messages: Sequence[Message]) -> str:
        """Name the part, as "the system message (message 1)"."""
        if self.kind == "definition":
            return "the definitions of the tools"
        role = messages[self.index].role
        contents = {"assistant": "the assistant's content", "tool": "the tool result"}
        what = {
            "message": contents.get(role, f"the {role} message"),
            "reasoning": "the assistant's reasoning",
            "call": "the assistant's tool call",
        }[self.kind]
        return f"{what} (message {self.index + 1})"


def lost_parts(
    messages: Sequence[Message],
    tools: Sequence[Mapping[str, Any]],
    text: str,
    completions: Mapping[int, str],
) -> list[LostPart]:
    """Find the parts of a conversation that the rendered text lacks.

    White space at the ends, line breaks, and the escapes of JSON text do not count. A supervised turn must stand whole
    in its own completion, reasoning included. Reasoning of other turns may be left out: templates strip it by design.

    Args:
        messages: the turns, in order.
        tools: schemas of the functions that the assistant may call.
        text: the last text rendered, which holds every message.
        completions: rendered text of each supervised turn, by the message's index.

    Returns:
        The parts, each once; empty where nothing is lost.
    """
    whole = _Haystack(text)
    own = {index: _Haystack(completion) for index, completion in completions.items()}
    lost: list[LostPart] = []
    for index, message in enumerate(messages):
        place = own.get(index, whole)
        # Of turns that are not trained on, only what follows the reasoning must stay.
        content = message.content if index in own else message.content.rsplit("</think>", 1)[-1]
        if not place.holds(content):
            lost.append(LostPart("message", index))
        if index in own and not place.holds(message.reasoning or ""):
            lost.append(LostPart("reasoning", index))
        if not all(place.holds_call(call) for call in message.tool_calls):
            lost.append(LostPart("call", index))
    lost += [LostPart("definition", number) for number, tool in enumerate(tools) if not whole.holds(_tool_name(tool))]
    return lost


def shape_of(messages: Sequence[Message], tools: Sequence[Mapping[str, Any]]) -> Shape:
    """What of a conversation decides which parts a template renders: roles, kinds of parts, supervised turns."""
    turns = tuple(
        (m.role, bool(m.content), m.reasoning is not None, len(m.tool_calls), m.supervised, m.tool_call_id is not None)
        for m in messages
    )
    return (bool(tools), turns)


def marked_conversation(
    messages: Sequence[Message], tools: Sequence[Mapping[str, Any]]
) -> tuple[tuple[Message, ...], tuple[Mapping[str, Any], ...]]:
    """A conversation of the same shape whose every part is a word that occurs nowhere else.

    A short answer such as "a" occurs in any text by chance; its mark does not, so that a dropped part is always seen.
    """
    marked = []
    for index, message in enumerate(messages):
        calls = tuple(
            ToolCall(f"qz{index}call{number}", {f"qz{index}key{number}": f"qz{index}value{number}"}, call.id)
            for number, call in enumerate(message.tool_calls)
        )
        marked.append(
            replace(
                message,
                content=f"qz{index}content" if message.content else "",
                reasoning=None if message.reasoning is None else f"qz{index}reasoning",
                tool_calls=calls,
                name=None,
            )
        )
    return tuple(marked), ((MARKED_TOOL,) if tools else ())


class _Haystack:
    """A text that can be searched as it is and, where that fails, without regard to white space.

    Args:
        text: the text to search.
    """

    def __init__(self, text: str) -> None:
        self._text = text
        self._squeezed: str | None = None

    def holds_call(self, call: ToolCall) -> bool:
        """Whether a call's name, keys and values all occur, and none of its mappings is written as Python's."""
        if not (self.holds(call.name) and all(self.holds(leaf) for leaf in _leaves(call.arguments))):
            return False
        return not any(f"'{key}':" in self._text for key in _keys(call.arguments))

    def holds(self, part: str) -> bool:
        """Whether a part occurs, as it is or escaped as in JSON text."""
        part = part.strip()
        if not part or part in self._text:
            return True
        if self._squeezed is None:
            self._squeezed = _squeeze(self._text)
        return any(form in self._text or _squeeze(form) in self._squeezed for form in _written_forms(part))


def _written_forms(part: str) -> Iterator[str]:
    yield part
    yield json.dumps(part, ensure_ascii=False)[1:-1]
    yield encode_basestring_ascii(part)[1:-1]
    # A string in single quotes, as in Python-style calls.
    yield part.replace("\\", "\\\\").replace("'", "\\'").replace("\n", "\\n").replace("\r", "\\r")


def _squeeze(text: str) -> str:
    return "".join(text.split())


def _tool_name(tool: Mapping[str, Any]) -> str:
    function = tool.get("function", tool)
    return str(function.get("name", "")) if isinstance(function, Mapping) else ""


def _keys(value: Any) -> Iterator[str]:
    """Keys of a mapping and of all mappings within."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield str(key)
            yield from _keys(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _keys(item)


def _leaves(value: Any) -> Iterator[str]:
    """Keys, strings and numbers of arguments. Booleans and null are too common in any text to tell anything."""
    if isinstance(value, Mapping):
        yield from map(str, value)
        for item in value.values():
            yield from _leaves(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _leaves(item)
    elif isinstance(value, str):
        yield value
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield json.dumps(value, ensure_ascii=False)
