"""One row -> one :class:`hone.types.Example`, and back.

Texts are taken as they stand: nothing is stripped, reflowed or templated here. A conversation is supervised on every
assistant turn whose weight is not 0, the other formats on their completion. The formats stand in ``detection.py``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from hone.data.detection import (
    COLUMN_FORMATS,
    CONVERSATION_KEYS,
    FORMATS,
    SYSTEM_COLUMNS,
    FormatMapping,
    detect_format,
)
from hone.data.ledger import RowError
from hone.data.messages import kind, message_to_openai, nearest, parse_messages, parse_tools, quoted
from hone.types import Example, JsonDict, Message

__all__ = [
    "FORMATS",
    "PROMPT_COLUMNS",
    "FormatMapping",
    "detect_format",
    "example_to_openai",
    "parse_row",
    "read_keys",
    "to_example",
]

# Columns that belong to what a model is asked; leaving one out in silence would make another task of the row.
PROMPT_COLUMNS = (
    *("prompt", "instruction", "input", "question", "context", "passage", "document", "documents"),
    *("history", "choices", "options"),
)
_TOOL_COLUMNS = ("tools", "functions")


def to_example(
    value: Mapping[str, Any],
    format_name: str,
    mapping: FormatMapping | None = None,
    *,
    row: int = 0,
    line: int = 0,
    source: str = "",
) -> Example:
    """Read one row; turns behind the last one of the assistant are left out.

    Args:
        value: the row as an object.
        format_name: one of :data:`FORMATS`.
        mapping: the columns, for the format ``mapped``.
        row: its ordinal, from 1.
        line: the line on which it begins, from 1.
        source: the file's name as the user gave it.

    Raises:
        RowError: the row cannot be used; the error carries a ledger code and the reason.
    """
    example, _ = parse_row(value, format_name, mapping)
    return replace(example, row=row, line=line, source=source)


def parse_row(
    value: Mapping[str, Any], format_name: str, mapping: FormatMapping | None = None
) -> tuple[Example, str | None]:
    """Read one row, as :func:`to_example` does, and say what was left out of it.

    Returns:
        The example, and the reason for the ledger if turns behind the assistant's last were left out, else None.

    Raises:
        RowError: the row cannot be used.
    """
    if format_name == "mapped":
        assert mapping is not None, "the format 'mapped' needs a mapping"
        messages = _mapped_messages(value, mapping)
    elif format_name in CONVERSATION_KEYS:
        messages = _conversation(value, CONVERSATION_KEYS[format_name])
    else:
        messages = _column_messages(value, format_name)
    tools_key = next((key for key in _TOOL_COLUMNS if value.get(key) is not None), "tools")
    return _finish(messages, parse_tools(value.get(tools_key), tools_key))


def read_keys(format_name: str, mapping: FormatMapping | None = None) -> frozenset[str]:
    """The top-level keys that :func:`to_example` may read from a row of a format; all others are left unread."""
    if mapping is not None:
        return frozenset(
            {mapping.prompt, mapping.completion, *_TOOL_COLUMNS, *((mapping.system,) if mapping.system else ())}
        )
    if format_name in CONVERSATION_KEYS:
        return frozenset({CONVERSATION_KEYS[format_name], *SYSTEM_COLUMNS, *_TOOL_COLUMNS})
    columns = COLUMN_FORMATS[format_name]
    return frozenset({columns.prompt, *columns.additions, *columns.completions, *SYSTEM_COLUMNS, *_TOOL_COLUMNS})


def example_to_openai(example: Example) -> JsonDict:
    """An example as a row of OpenAI chat JSONL, which reads back as the same example.

    Returns:
        ``messages``, and ``tools`` where there are any.
    """
    value: JsonDict = {"messages": [message_to_openai(message) for message in example.messages]}
    if example.tools:
        value["tools"] = [dict(tool) for tool in example.tools]
    return value


def _conversation(value: Mapping[str, Any], key: str) -> tuple[Message, ...]:
    if key not in value:
        raise _unknown_keys(value, [key])
    messages = parse_messages(value[key], key)
    system = _system_text(value, SYSTEM_COLUMNS)
    if system and messages[0].role != "system":
        return (Message("system", system), *messages)
    return messages


def _column_messages(value: Mapping[str, Any], format_name: str) -> tuple[Message, ...]:
    columns = COLUMN_FORMATS[format_name]
    completion = next((key for key in columns.completions if value.get(key) is not None), columns.completions[0])
    missing = [key for key in (columns.prompt, completion) if key not in value]
    if missing:
        raise _unknown_keys(value, missing)
    unread = [key for key in PROMPT_COLUMNS if value.get(key) and key not in (columns.prompt, *columns.additions)]
    if unread:
        raise RowError(
            "unread_context",
            f"{', '.join(quoted(key) for key in unread)} would not be read: the format {format_name} asks "
            f"{quoted(columns.prompt)} alone; put all of it into one column, or choose with --map",
        )
    prompt = value[columns.prompt]
    addition = next((value[key] for key in columns.additions if value.get(key)), None)
    if addition is not None:
        # A blank line keeps the task and its input apart, and invents no words.
        task, data = _text(prompt, columns.prompt), _text(addition, " or ".join(columns.additions))
        prompt = f"{task}\n\n{data}" if task.strip() else data
    return _question_and_answer(
        _system_text(value, SYSTEM_COLUMNS), prompt, columns.prompt, value[completion], completion
    )


def _mapped_messages(value: Mapping[str, Any], mapping: FormatMapping) -> tuple[Message, ...]:
    columns = [mapping.prompt, mapping.completion, *([mapping.system] if mapping.system else [])]
    missing = [name for name in columns if name not in value]
    if missing:
        raise _unknown_keys(value, missing)
    system = _system_text(value, (mapping.system,)) if mapping.system else None
    return _question_and_answer(
        system, value[mapping.prompt], mapping.prompt, value[mapping.completion], mapping.completion
    )


def _question_and_answer(
    system: str | None, prompt: object, prompt_key: str, completion: object, completion_key: str
) -> tuple[Message, ...]:
    asked: tuple[Message, ...]
    if isinstance(prompt, list):
        asked = parse_messages(prompt, prompt_key, supervise=False)
    else:
        text = _text(prompt, prompt_key)
        if not text.strip():
            raise RowError("empty_prompt", f"{prompt_key} is empty")
        asked = (Message("user", text),)
    if system and asked[0].role != "system":
        asked = (Message("system", system), *asked)
    if isinstance(completion, list):
        return (*asked, *parse_messages(completion, completion_key))
    answer = _text(completion, completion_key)
    if not answer.strip():
        raise RowError("empty_assistant", f"{completion_key} is empty")
    return (*asked, Message("assistant", answer, supervised=True))


def _system_text(value: Mapping[str, Any], keys: Iterable[str]) -> str | None:
    for key in keys:
        if value.get(key) is not None:
            return _text(value[key], key) or None
    return None


def _text(value: object, key: str) -> str:
    if not isinstance(value, str):
        raise RowError("bad_content", f"{key} is {kind(value)}, not text")
    return value


def _finish(messages: tuple[Message, ...], tools: tuple[Mapping[str, Any], ...]) -> tuple[Example, str | None]:
    last = max((index for index, message in enumerate(messages) if message.role == "assistant"), default=None)
    if last is None:
        raise RowError("no_assistant", "no turn of the assistant, so nothing to learn")
    kept, trailing = messages[: last + 1], messages[last + 1 :]
    if all(message.role == "assistant" for message in kept):
        raise RowError("no_prompt", "nothing stands before the assistant's turn")
    if not any(message.supervised for message in kept):
        raise RowError("all_weights_zero", "every turn of the assistant has weight 0, so nothing to learn")
    reason = None
    if trailing:
        roles = ", ".join(message.role for message in trailing)
        reason = f"{len(trailing)} turn(s) behind the assistant's last left out ({roles})"
    return Example(messages=kept, tools=tools), reason


def _unknown_keys(value: Mapping[str, Any], missing: Iterable[str]) -> RowError:
    wanted = list(missing)
    found = ", ".join(quoted(key) for key in list(value)[:8]) or "none"
    hints: list[str] = []
    for key in value:
        hints += [hint] if (hint := nearest(key, wanted)) and hint not in hints else []
    return RowError(
        "unknown_keys", f"no {' and no '.join(quoted(key) for key in wanted)} among its keys ({found}){''.join(hints)}"
    )
