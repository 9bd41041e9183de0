"""Rows whose answers are graded: what is asked, a reference answer where there is one, and the row's own columns.

They come in the formats of supervised rows. A row may lack its answer, or a conversation end with the user's turn; a
stand-in then closes it, which nobody is asked for. Graders see the row as it stands, with ``reference_answer`` beside
its columns.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from hone.data.detection import COLUMN_FORMATS, CONVERSATION_KEYS, LABEL, FormatMapping, row_format
from hone.data.formats import example_to_openai
from hone.types import Example, JsonDict, Task

__all__ = ["as_task", "task_to_json", "with_answer"]

# What stands for an answer that a row lacks, until the row has been read; any text that is not empty would do.
_STAND_IN = "This row has no answer of its own."
_TURNS: Mapping[str, tuple[str, str, str]] = {
    "messages": ("role", "content", "assistant"),
    "conversations": ("from", "value", "gpt"),
}
_ANSWERING = frozenset({"assistant", "gpt", "model", "bot", "chatgpt"})
# Formats whose keys say by themselves what is asked; a text alone may be anything.
_ASKING = ("prompt-completion", "alpaca", "question-answer", "input-output")


def with_answer(value: Mapping[str, Any], mapping: FormatMapping | None = None) -> tuple[JsonDict, bool]:
    """A row as supervised training reads it: with a stand-in where it has no answer.

    Args:
        value: the row.
        mapping: the columns, where the user named them.

    Returns:
        The row, and whether its answer is a stand-in.
    """
    row = dict(value)
    if mapping is not None:
        return _with_column(row, mapping.prompt, (mapping.completion,))
    for key in CONVERSATION_KEYS.values():
        if key in row:
            return _with_turn(row, key)
    if row_format(row) not in (None, *COLUMN_FORMATS, LABEL):
        return row, False  # answers that are compared: another kind of row, which the reader refuses
    for name in _ASKING:
        columns = COLUMN_FORMATS[name]
        if columns.prompt in row:
            return _with_column(row, columns.prompt, columns.completions)
    return row, False


def as_task(example: Example, value: Mapping[str, Any], *, is_stand_in: bool) -> Task:
    """The task of a row that was read as an example.

    Args:
        example: as read; only its last turn is asked for.
        value: the row as it stood in the file.
        is_stand_in: whether its answer was put in.
    """
    *before, answer = example.messages
    earlier = [replace(message, supervised=False) for message in before]
    return Task(
        (*earlier, replace(answer, supervised=True)), example.tools, example.row, example.line, example.source,
        dict(value), is_stand_in,
    )  # fmt: skip


def task_to_json(task: Task) -> JsonDict:
    """A task as a row that reads back as the same one: its columns, and the conversation in OpenAI's form."""
    row = example_to_openai(task)
    if task.is_open:
        row = {**row, "messages": row["messages"][:-1]}
    kept = {key: value for key, value in task.columns.items() if key not in CONVERSATION_KEYS.values()}
    return {**kept, **row}


def _with_column(row: JsonDict, prompt: str, completions: tuple[str, ...]) -> tuple[JsonDict, bool]:
    if prompt not in row or any(row.get(key) not in (None, "", []) for key in completions):
        return row, False
    key = next((key for key in completions if key in row), completions[0])
    return {**row, key: _STAND_IN}, True


def _with_turn(row: JsonDict, key: str) -> tuple[JsonDict, bool]:
    turns = row[key]
    role, text, name = _TURNS[key]
    if not isinstance(turns, list) or not turns or not isinstance(turns[-1], dict):
        return row, False
    if turns[-1].get(role) in _ANSWERING:
        return row, False
    return {**row, key: [*turns, {role: name, text: _STAND_IN}]}, True
