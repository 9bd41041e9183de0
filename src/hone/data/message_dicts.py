"""Messages as the plain dictionaries that chat templates read.

Templates agree on ``role`` and ``content`` and on little else: some want a tool call's arguments as a mapping and some
as JSON text, some want content as a list of parts, some know no system role. :class:`MessageForm` names these choices;
``template_probe`` finds the ones a template needs.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from hone.types import JsonDict, Message, ToolCall

__all__ = ["MessageForm", "message_dicts", "reasoning_apart", "tool_dicts"]

_INLINE_REASONING = re.compile(r"\s*<think>(.*?)</think>\s*(.*)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class MessageForm:
    """How messages are written for one template.

    Args:
        content: ``text`` gives strings; ``parts`` gives ``[{"type": "text", "text": ...}]`` (vision-language models).
        arguments: a tool call's arguments as a ``mapping`` or as ``json`` text.
        empty_content: for turns of tool calls alone, ``empty`` gives ``""``, ``absent`` leaves the key out.
        reasoning: ``keys`` gives ``reasoning_content`` and ``thinking``; ``inline`` writes ``<think>`` into content;
            ``dropped`` gives the keys to a template that leaves them out.
        system: ``own`` keeps a first system message; ``folded`` puts it at the head of the first user message.
        call_ids: ``own`` keeps the data's ids of tool calls; ``ordinal`` gives nine characters, as Mistral wants.
    """

    content: Literal["text", "parts"] = "text"
    arguments: Literal["mapping", "json"] = "mapping"
    empty_content: Literal["empty", "absent"] = "empty"
    reasoning: Literal["keys", "inline", "dropped"] = "keys"
    system: Literal["own", "folded"] = "own"
    call_ids: Literal["own", "ordinal"] = "own"


def message_dicts(messages: Sequence[Message], form: MessageForm) -> list[JsonDict]:
    """Write messages as dictionaries in the form that a template takes.

    Tool calls without an id get one, and tool results without an id or a function's name get those of the call that
    they answer (by id, else in order), because several templates print or demand them.

    Args:
        messages: the turns, in order.
        form: the choices for this template.

    Returns:
        One fresh dictionary a message (one fewer where the system message is folded).
    """
    turns = _folded(messages) if form.system == "folded" else messages
    return [_message_dict(message, form) for message in _linked(turns, form)]


def reasoning_apart(message: Message) -> Message:
    """Take an assistant's reasoning out of its content, where it stands there in ``<think>`` tags before the answer.

    Args:
        message: any turn.

    Returns:
        The turn with its reasoning in its own field; the same where there is none to take out.
    """
    if message.role != "assistant" or message.reasoning is not None:
        return message
    found = _INLINE_REASONING.fullmatch(message.content)
    if found is None:
        return message
    return replace(message, reasoning=found.group(1).strip() or None, content=found.group(2))


def tool_dicts(tools: Sequence[Mapping[str, Any]]) -> list[JsonDict] | None:
    """Tool schemas as plain dictionaries; None where there are none, which is what templates test for."""
    return [dict(tool) for tool in tools] or None


def _folded(messages: Sequence[Message]) -> Sequence[Message]:
    """Put a first system message at the head of the user message after it; leave any other shape to the template."""
    if len(messages) < 2 or messages[0].role != "system" or messages[1].role != "user":
        return messages
    first = replace(messages[1], content=f"{messages[0].content}\n\n{messages[1].content}")
    return [first, *messages[2:]]


def _linked(messages: Sequence[Message], form: MessageForm) -> Iterator[Message]:
    """Give every tool call an id, and every tool result its call's id and name."""
    numbered = 0
    by_id: dict[str, ToolCall] = {}
    waiting: list[ToolCall] = []
    for message in messages:
        if message.role == "assistant" and message.tool_calls:
            waiting = []
            for call in message.tool_calls:
                numbered += 1
                own = call.id if form.call_ids == "own" else None
                named = replace(call, id=own or f"call{numbered:05d}")
                waiting.append(named)
                if call.id:
                    by_id[call.id] = named
            yield replace(message, tool_calls=tuple(waiting))
        elif message.role == "tool":
            answered = by_id.get(message.tool_call_id or "")
            if answered is None and message.tool_call_id is None and waiting:
                answered = waiting[0]
            if answered in waiting:
                waiting.remove(answered)
            if answered is not None:
                message = replace(message, tool_call_id=answered.id, name=message.name or answered.name)
            yield message
        else:
            yield message


def _message_dict(message: Message, form: MessageForm) -> JsonDict:
    text = message.content
    reasoning = message.reasoning
    if reasoning is not None and form.reasoning == "inline":
        text = f"<think>\n{reasoning.strip()}\n</think>\n\n{text}"
    plain: JsonDict = {"role": message.role}
    if text or not message.tool_calls or form.empty_content == "empty":
        plain["content"] = text if form.content == "text" else [{"type": "text", "text": text}]
    if reasoning is not None and form.reasoning != "inline":
        # gpt-oss reads "thinking"; most others read "reasoning_content".
        plain["reasoning_content"] = plain["thinking"] = reasoning
    if message.tool_calls:
        plain["tool_calls"] = [_call_dict(call, form) for call in message.tool_calls]
    if message.tool_call_id is not None:
        plain["tool_call_id"] = message.tool_call_id
    if message.name is not None:
        plain["name"] = message.name
    return plain


def _call_dict(call: ToolCall, form: MessageForm) -> JsonDict:
    arguments: Any = dict(call.arguments)
    if form.arguments == "json":
        arguments = json.dumps(arguments, ensure_ascii=False)
    return {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": arguments}}
