"""Turns as they stand in files -> :class:`hone.types.Message`, and back.

OpenAI's form (``role``, ``content``) and ShareGPT's (``from``, ``value``) are read alike, with the names that each
uses for the four roles.

Source: OpenAI API reference, "Create chat completion" (messages, tools); OpenAI fine-tuning guide (``weight``).
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from hone.data.ledger import RowError
from hone.data.strict_json import decode_json
from hone.types import JsonDict, Message, Role, ToolCall

__all__ = [
    "CALLING_ROLE",
    "PLAIN_ROLES",
    "calls_in_text",
    "kind",
    "message_to_openai",
    "nearest",
    "optional_text",
    "parse_calls",
    "parse_content",
    "parse_messages",
    "parse_reasoning",
    "parse_role",
    "parse_tool",
    "parse_tools",
    "parse_weight",
    "quoted",
    "refuse_mistyped",
    "refuse_orphan",
    "role_named",
]

_ROLES: dict[str, Role] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "bot": "assistant",
    "model": "assistant",
    "chatgpt": "assistant",
    "function_call": "assistant",
    "tool": "tool",
    "function": "tool",
    "function_response": "tool",
    "tool_response": "tool",
    "observation": "tool",
}
CALLING_ROLE = "function_call"
PLAIN_ROLES = frozenset({"system", "developer", "user", "assistant", "tool"})
_REASONING_KEYS = ("reasoning_content", "thinking", "reasoning")
_TURN_KEYS = ("role", "content", "from", "value", "weight", "tool_calls", "tool_call_id", "name", *_REASONING_KEYS)
_LIKELY_MEANT = 0.75
# Above this likeness a key is taken for a mistyped one; a mistyped "weight" would train on what was to be left out.
_MISTYPED = 0.8


def parse_messages(turns: object, where: str = "messages", *, supervise: bool = True) -> tuple[Message, ...]:
    """Read the turns of a conversation.

    Args:
        turns: a list of objects, or the same as JSON text (as in a CSV cell).
        where: the name of the place, for messages.
        supervise: whether assistant turns carry loss unless their weight is 0.

    Returns:
        The turns, at least one.

    Raises:
        RowError: a turn cannot be read; the reason names it as ``messages[2]``.
    """
    if isinstance(turns, str):
        turns = _decode(turns, where, "empty_messages")
    if not isinstance(turns, list):
        raise RowError("empty_messages", f"{where} is {kind(turns)}, not a list of turns")
    if not turns:
        raise RowError("empty_messages", f"{where} is an empty list")
    messages: list[Message] = []
    for index, turn in enumerate(turns):
        message = _parse_turn(turn, f"{where}[{index}]", supervise=supervise)
        refuse_orphan(message, messages, f"{where}[{index}]")
        messages.append(message)
    return tuple(messages)


def parse_tools(tools: object, where: str = "tools") -> tuple[Mapping[str, Any], ...]:
    """Read the schemas of the functions that the assistant may call, into OpenAI's form.

    Args:
        tools: a list of ``{"type": "function", "function": {...}}`` or of bare ``{"name": ...}``, or the same as
            JSON text; null and empty text are no tools.
        where: the name of the place, for messages.

    Raises:
        RowError: it is no such list.
    """
    if isinstance(tools, str):
        tools = _decode(tools, where, "bad_tools") if tools.strip() else None
    if tools is None:
        return ()
    if not isinstance(tools, list):
        raise RowError("bad_tools", f"{where} is {kind(tools)}, not a list of functions")
    return tuple(parse_tool(tool, f"{where}[{index}]") for index, tool in enumerate(tools))


def message_to_openai(message: Message) -> JsonDict:
    """One turn in OpenAI's form, as :func:`parse_messages` reads it back.

    An assistant turn that carries no loss gets ``weight`` 0; call arguments are JSON text, as OpenAI has them.
    """
    turn: JsonDict = {"role": message.role, "content": message.content}
    if message.reasoning is not None:
        turn["reasoning_content"] = message.reasoning
    if message.tool_calls:
        turn["tool_calls"] = [_call_to_openai(call) for call in message.tool_calls]
    if message.tool_call_id is not None:
        turn["tool_call_id"] = message.tool_call_id
    if message.name is not None:
        turn["name"] = message.name
    if message.role == "assistant" and not message.supervised:
        turn["weight"] = 0
    return turn


def role_named(name: str) -> Role | None:
    """The role that a word stands for, in any of the words that are read; None for others."""
    return _ROLES.get(name.strip().lower())


def kind(value: object) -> str:
    """What a JSON value is, in words."""
    if value is None:
        return "null"
    kinds: tuple[tuple[type, str], ...] = (
        (bool, "true or false"),
        (int, "a number"),
        (float, "a number"),
        (str, "text"),
        (list, "a list"),
        (dict, "an object"),
    )
    return next((word for kind_of, word in kinds if isinstance(value, kind_of)), f"a {type(value).__name__}")


def quoted(name: object) -> str:
    """A name as it stands in JSON."""
    return json.dumps(name, ensure_ascii=False, default=str)


def nearest(name: str, known: Sequence[str]) -> str:
    """A hint at the known name that ``name`` may have been meant for, or nothing."""
    by_lower = {one.lower(): one for one in known}
    close = difflib.get_close_matches(name.lower(), by_lower, n=1, cutoff=_LIKELY_MEANT)
    return f"; did you mean {quoted(by_lower[close[0]])}?" if close else ""


def _parse_turn(turn: object, where: str, *, supervise: bool) -> Message:
    if not isinstance(turn, dict):
        raise RowError("bad_turn", f"{where} is {kind(turn)}, not an object with role and content")
    role_key = "from" if "role" not in turn and "from" in turn else "role"
    text_key = "value" if "content" not in turn and "value" in turn else "content"
    refuse_mistyped(turn, where)
    role = parse_role(turn, role_key, where)
    calls = parse_calls(turn, role, where)
    content = turn.get(text_key)
    if turn[role_key].strip().lower() == CALLING_ROLE:
        calls, content = calls_in_text(content, f"{where}.{text_key}"), None
    reasoning = parse_reasoning(turn, where)
    may_be_absent = role == "assistant" and bool(calls or reasoning)
    text = parse_content(content, f"{where}.{text_key}", text_key in turn, may_be_absent)
    if role == "assistant" and not text.strip() and not may_be_absent:
        raise RowError("empty_assistant", f"{where}: the assistant's turn is empty")
    return Message(
        role=role,
        content=text,
        supervised=parse_weight(turn, role, where) and supervise and role == "assistant",
        reasoning=reasoning,
        tool_calls=calls,
        tool_call_id=optional_text(turn, "tool_call_id", where),
        name=optional_text(turn, "name", where),
    )


def refuse_mistyped(turn: Mapping[str, Any], where: str) -> None:
    """Raise a RowError if a key of a turn looks like a mistyped one; ``where`` names the turn, as in all checks."""
    for key in turn:
        if key in _TURN_KEYS:
            continue
        close = difflib.get_close_matches(key.lower(), _TURN_KEYS, n=1, cutoff=_MISTYPED)
        if close and close[0] not in turn:
            raise RowError("unknown_keys", f"{where} has the key {quoted(key)}; did you mean {quoted(close[0])}?")


def parse_role(turn: Mapping[str, Any], key: str, where: str) -> Role:
    """The role under ``key``. Raises RowError."""
    name = turn.get(key)
    if name is None:
        raise RowError("bad_role", f"{where} has no role")
    if not isinstance(name, str):
        raise RowError("bad_role", f"{where}.{key} is {kind(name)}, not text")
    role = role_named(name)
    if role is None:
        raise RowError("bad_role", f"{where}.{key}: {quoted(name)} is no role{nearest(name, tuple(_ROLES))}")
    return role


def parse_content(content: object, where: str, present: bool, may_be_absent: bool) -> str:
    """The text of a content, parts joined. Raises RowError."""
    if content is None:
        if may_be_absent:
            return ""
        raise RowError("bad_content", f"{where} is {'null' if present else 'missing'}")
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise RowError("bad_content", f"{where} is {kind(content)}, not text")
    return "".join(_parse_part(part, f"{where}[{index}]") for index, part in enumerate(content))


def _parse_part(part: object, where: str) -> str:
    if isinstance(part, str):
        return part
    if isinstance(part, dict) and part.get("type", "text") == "text" and isinstance(part.get("text"), str):
        return str(part["text"])
    what = f"a part of type {quoted(part.get('type'))}" if isinstance(part, dict) else kind(part)
    raise RowError("bad_content", f"{where} is {what}; hone trains on text parts alone")


def parse_reasoning(turn: Mapping[str, Any], where: str) -> str | None:
    """The assistant's thinking, if there is any. Raises RowError."""
    for key in _REASONING_KEYS:
        reasoning = optional_text(turn, key, where)
        if reasoning:
            return reasoning
    return None


def parse_weight(turn: Mapping[str, Any], role: Role, where: str) -> bool:
    """Whether a turn carries loss, as far as its weight says. Raises RowError."""
    weight = turn.get("weight")
    if weight is None:
        return True
    if isinstance(weight, bool) or weight not in (0, 1):
        raise RowError("bad_weight", f"{where}.weight is {quoted(weight)}; it must be 0 or 1")
    if role != "assistant":
        raise RowError("bad_weight", f"{where}.weight stands on a turn of role {role}; only the assistant's have one")
    return bool(weight)


def optional_text(turn: Mapping[str, Any], key: str, where: str) -> str | None:
    """A text that may be left out. Raises RowError."""
    value = turn.get(key)
    if value is not None and not isinstance(value, str):
        raise RowError("bad_content", f"{where}.{key} is {kind(value)}, not text")
    return value


def parse_calls(turn: Mapping[str, Any], role: Role, where: str) -> tuple[ToolCall, ...]:
    """The calls of a turn. Raises RowError."""
    calls = turn.get("tool_calls")
    single = turn.get("function_call")  # OpenAI's older form, one call a turn
    if calls is None and single is not None:
        calls = [single]
    if not calls and (calls is None or isinstance(calls, list)):
        return ()
    if role != "assistant":
        raise RowError("bad_tool_call", f"{where}: a turn of role {role} cannot call tools")
    if not isinstance(calls, list):
        raise RowError("bad_tool_call", f"{where}.tool_calls is {kind(calls)}, not a list")
    return tuple(_parse_call(call, f"{where}.tool_calls[{index}]") for index, call in enumerate(calls))


def calls_in_text(content: object, where: str) -> tuple[ToolCall, ...]:
    """The calls of a ShareGPT turn, whose text is the call as JSON, or a list of them. Raises RowError."""
    value = _decode(content, where, "bad_tool_call") if isinstance(content, str) else content
    calls = value if isinstance(value, list) else [value]
    if not calls:
        raise RowError("bad_tool_call", f"{where} calls nothing")
    return tuple(_parse_call(call, where) for call in calls)


def _parse_call(call: object, where: str) -> ToolCall:
    if not isinstance(call, dict):
        raise RowError("bad_tool_call", f"{where} is {kind(call)}, not an object")
    function = call.get("function", call)
    if not isinstance(function, dict) or not isinstance(function.get("name"), str) or not function["name"]:
        raise RowError("bad_tool_call", f"{where} has no function name")
    arguments = function.get("arguments")
    if isinstance(arguments, str):
        arguments = _decode(arguments, f"{where}.arguments", "bad_tool_call")
    if not isinstance(arguments, dict):
        raise RowError("bad_tool_call", f"{where}.arguments is {kind(arguments)}, not a JSON object")
    identifier = call.get("id")
    if identifier is not None and not isinstance(identifier, str):
        raise RowError("bad_tool_call", f"{where}.id is {kind(identifier)}, not text")
    return ToolCall(function["name"], arguments, identifier)


def refuse_orphan(message: Message, before: Sequence[Message], where: str) -> None:
    """Raise a RowError if a tool's result follows no call that it could answer."""
    if message.role != "tool":
        return
    known = {call.id for earlier in before for call in earlier.tool_calls if call.id is not None}
    if message.tool_call_id is not None and known and message.tool_call_id not in known:
        raise RowError(
            "orphan_tool_result", f"{where} answers the call {quoted(message.tool_call_id)}, which nobody made"
        )
    # Without ids (ShareGPT, calls written in the text) a result must at least follow the assistant or another result.
    if not before or before[-1].role not in ("assistant", "tool"):
        raise RowError(
            "orphan_tool_result", f"{where} is a tool's result, but no turn of the assistant stands before it"
        )


def parse_tool(tool: object, where: str) -> Mapping[str, Any]:
    """One function's schema in OpenAI's form. Raises RowError."""
    if not isinstance(tool, dict):
        raise RowError("bad_tools", f"{where} is {kind(tool)}, not a function's schema")
    function = tool.get("function", tool)
    if not isinstance(function, dict) or not isinstance(function.get("name"), str) or not function["name"]:
        raise RowError("bad_tools", f"{where} has no function name")
    return tool if "function" in tool else {"type": "function", "function": tool}


def _call_to_openai(call: ToolCall) -> JsonDict:
    function = {"name": call.name, "arguments": json.dumps(dict(call.arguments), ensure_ascii=False)}
    identifier = {} if call.id is None else {"id": call.id}
    return {**identifier, "type": "function", "function": function}


def _decode(text: str, where: str, code: str) -> Any:
    try:
        return decode_json(text)
    except RowError as error:
        raise RowError(code, f"{where}: {error.reason}") from error
