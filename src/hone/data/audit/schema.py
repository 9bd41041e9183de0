"""The schema family: every fault of one row's turns or columns, each with its pointer.

What a row must be stands in ``data/messages.py`` and ``data/formats.py``, which read it for training; their checks are
called here one by one, so that the second fault of a row is told as well as the first. Whether the row is used is
their verdict, not this module's (see ``judge.py``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from hone.data.detection import COLUMN_FORMATS, SYSTEM_COLUMNS, FormatMapping
from hone.data.faults import Finding, pointer_to
from hone.data.ledger import RowError
from hone.data.messages import (
    CALLING_ROLE,
    PLAIN_ROLES,
    calls_in_text,
    kind,
    optional_text,
    parse_calls,
    parse_content,
    parse_reasoning,
    parse_role,
    parse_tool,
    parse_weight,
    refuse_mistyped,
)
from hone.data.strict_json import decode_json
from hone.types import Role, ToolCall

__all__ = ["RowReading", "read_columns", "read_conversation", "read_turns"]

Step = str | int


class RowReading:
    """What was found in one row while reading it.

    Attributes:
        findings: faults so far, with pointers.
        texts: (pointer, role, text) of every text of the row that was readable.
        roles: of its turns, in order, where they could be told.
    """

    def __init__(self) -> None:
        self.findings: list[Finding] = []
        self.texts: list[tuple[str, Role, str]] = []
        self.roles: list[Role] = []

    def add(self, code: str, message: str, *steps: Step) -> None:
        """Note a fault at the pointer made of ``steps``."""
        self.findings.append((code, pointer_to(*steps), message))

    def attempt(self, check: Callable[[], Any], *steps: Step) -> Any:
        """What ``check`` returns, or None with its error noted at ``steps``."""
        try:
            return check()
        except RowError as error:
            self.add(error.code, error.reason, *steps)
            return None


def read_conversation(reading: RowReading, value: Mapping[str, Any], key: str) -> None:
    """Check the turns under ``key``, the system prompt and the tools beside them."""
    _system(reading, value, SYSTEM_COLUMNS)
    read_turns(reading, value.get(key), key)
    _read_tools(reading, value)
    _check_order(reading, key)


def read_columns(
    reading: RowReading, value: Mapping[str, Any], format_name: str, mapping: FormatMapping | None
) -> None:
    """Check the columns of a row that is one question and one answer."""
    if mapping is not None:
        prompt_key, completion_key = mapping.prompt, mapping.completion
        additions: tuple[str, ...] = ()
        _system(reading, value, (mapping.system,) if mapping.system else ())
    else:
        columns = COLUMN_FORMATS[format_name]
        prompt_key, additions = columns.prompt, columns.additions
        present = [key for key in columns.completions if value.get(key) is not None]
        completion_key = next(iter(present), columns.completions[0])
        _system(reading, value, SYSTEM_COLUMNS)
    addition = next((key for key in additions if value.get(key)), None)
    _read_column(reading, value, prompt_key, "user", may_be_empty=addition is not None)
    if addition is not None:
        _read_text(reading, value[addition], addition, "user")
    _read_column(reading, value, completion_key, "assistant", may_be_empty=False)
    _read_tools(reading, value)


def read_turns(reading: RowReading, turns: object, *steps: Step) -> None:
    """Check a list of turns, which may stand as JSON text."""
    where = _where(steps)
    if isinstance(turns, str):
        try:
            turns = decode_json(turns)
        except RowError as error:
            reading.add("empty_messages", f"{where}: {error.reason}", *steps)
            return
    if not isinstance(turns, list):
        reading.add("empty_messages", f"{where} is {kind(turns)}, not a list of turns", *steps)
        return
    if not turns:
        reading.add("empty_messages", f"{where} is an empty list", *steps)
    for index, turn in enumerate(turns):
        _read_turn(reading, turn, (*steps, index))


def _read_turn(reading: RowReading, turn: object, steps: tuple[Step, ...]) -> None:
    where = _where(steps)
    if not isinstance(turn, dict):
        reading.add("bad_turn", f"{where} is {kind(turn)}, not an object with role and content", *steps)
        return
    role_key = "from" if "role" not in turn and "from" in turn else "role"
    text_key = "value" if "content" not in turn and "value" in turn else "content"
    reading.attempt(lambda: refuse_mistyped(turn, where), *steps)
    role: Role | None = reading.attempt(lambda: parse_role(turn, role_key, where), *steps, role_key)
    content: object = turn.get(text_key)
    calls: tuple[ToolCall, ...] | None = ()
    if role is not None:
        reading.roles.append(role)
        name = turn[role_key].strip().lower()
        if role_key == "role" and name not in PLAIN_ROLES:
            reading.add("role_alias", f"{where}.role: {name!r} is read as {role}", *steps, role_key)
        calls = reading.attempt(lambda: parse_calls(turn, role, where), *steps, "tool_calls") or ()
        if name == CALLING_ROLE:
            place = f"{where}.{text_key}"
            calls = reading.attempt(lambda: calls_in_text(content, place), *steps, text_key)
            content = None
            if calls is None:
                return
        reading.attempt(lambda: parse_weight(turn, role, where), *steps, "weight")
    for key in ("tool_call_id", "name"):
        reading.attempt(partial(optional_text, turn, key, where), *steps, key)
    reasoning = reading.attempt(lambda: parse_reasoning(turn, where), *steps)
    may_be_absent = role == "assistant" and bool(calls or reasoning)
    text = reading.attempt(
        lambda: parse_content(content, f"{where}.{text_key}", text_key in turn, may_be_absent), *steps, text_key
    )
    if reasoning:
        reading.texts.append((pointer_to(*steps), "assistant", reasoning))
    if text is None or role is None:
        return
    if role == "assistant" and not text.strip() and not may_be_absent:
        reading.add("empty_assistant", f"{where}: the assistant's turn is empty", *steps, text_key)
    reading.texts.append((pointer_to(*steps, text_key), role, text))


def _check_order(reading: RowReading, key: str) -> None:
    """What only templates refuse: a late system turn, two turns in a row of one role."""
    roles = reading.roles
    for index, role in enumerate(roles):
        if role == "system" and index > 0:
            reading.add("late_system", f"{key}[{index}] is a system turn, but not the first", key, index)
        elif index > 0 and role == roles[index - 1] and role in ("user", "assistant"):
            reading.add("role_twice", f"{key}[{index}] is the second {role} turn in a row", key, index)


def _read_column(reading: RowReading, value: Mapping[str, Any], key: str, role: Role, *, may_be_empty: bool) -> None:
    if key not in value:
        return  # which keys are missing is told once, by the reader of the format
    cell = value[key]
    if isinstance(cell, list):
        read_turns(reading, cell, key)
        return
    _read_text(reading, cell, key, role)
    if isinstance(cell, str) and not cell.strip() and not may_be_empty:
        reading.add("empty_prompt" if role == "user" else "empty_assistant", f"{key} is empty", key)


def _read_text(reading: RowReading, text: object, key: str, role: Role) -> None:
    if isinstance(text, str):
        reading.texts.append((pointer_to(key), role, text))
    else:
        reading.add("bad_content", f"{key} is {kind(text)}, not text", key)


def _system(reading: RowReading, value: Mapping[str, Any], keys: tuple[str | None, ...]) -> None:
    key = next((key for key in keys if key is not None and value.get(key) is not None), None)
    if key is not None:
        _read_text(reading, value[key], key, "system")


def _read_tools(reading: RowReading, value: Mapping[str, Any]) -> None:
    key = next((key for key in ("tools", "functions") if value.get(key) is not None), None)
    if key is None:
        return
    tools = value[key]
    if isinstance(tools, str):
        if not tools.strip():
            return
        try:
            tools = decode_json(tools)
        except RowError as error:
            reading.add("bad_tools", f"{key}: {error.reason}", key)
            return
    if not isinstance(tools, list):
        reading.add("bad_tools", f"{key} is {kind(tools)}, not a list of functions", key)
        return
    for index, tool in enumerate(tools):
        reading.attempt(partial(parse_tool, tool, f"{key}[{index}]"), key, index)


def _where(steps: tuple[Step, ...]) -> str:
    """A place as people write it: ``messages[2].content``."""
    return "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in steps).removeprefix(".")
