"""Formats: found by their keys, read into examples, and written back."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hone.data.formats import (
    FORMATS,
    FormatMapping,
    detect_format,
    example_to_openai,
    parse_row,
    read_keys,
    to_example,
)
from hone.data.ledger import RowError
from hone.data.rows import RawRow
from hone.errors import ConfigError, DataError
from hone.types import Example, Message, ToolCall
from tests.data.examples import examples

USER = {"role": "user", "content": "q"}
ASSISTANT = {"role": "assistant", "content": "a"}
ASKED, ANSWERED = Message("user", "q"), Message("assistant", "a", supervised=True)

ROWS: dict[str, list[dict[str, Any]]] = {
    "openai-chat": [
        {"messages": [USER, ASSISTANT]},
        {"messages": [{"role": "human", "content": "q"}, ASSISTANT], "prompt": "metadata", "completion": "too"},
        {"messages": json.dumps([USER, ASSISTANT])},
    ],
    "sharegpt": [
        {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]},
        {"conversations": [USER, ASSISTANT], "tools": "[]", "system": ""},
    ],
    "prompt-completion": [
        {"prompt": "q", "completion": "a"},
        {"prompt": "q", "response": "a", "id": 3},
        {"prompt": [USER], "completion": [ASSISTANT]},
        {"prompt": "q", "completion": [ASSISTANT], "response": None},
    ],
    "alpaca": [
        {"instruction": "q", "input": "", "output": "a"},
        {"instruction": "q", "response": "a"},
        {"instruction": "", "input": "q", "output": "a", "history": []},
    ],
    "question-answer": [{"question": "q", "answer": "a"}, {"question": "q", "answer": "a", "context": ""}],
    "input-output": [{"input": "q", "output": "a"}],
    "text-label": [{"text": "q", "label": "a"}, {"text": "q", "label": "a", "idx": 1}],
}


def _raw(*values: dict[str, Any] | None) -> list[RawRow]:
    return [RawRow(n, 10 * n, value, None if value else "broken") for n, value in enumerate(values, start=1)]


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in ROWS.items() for value in values])
def test_each_format_is_found_and_read(name: str, value: dict[str, Any]) -> None:
    assert detect_format(_raw(value)) == name
    example = to_example(value, name, row=3, line=7, source="rows.jsonl")
    assert example == Example((ASKED, ANSWERED), row=3, line=7, source="rows.jsonl")


def test_every_format_is_tested() -> None:
    assert {*ROWS, "mapped"} == set(FORMATS)


# In "text-label", further columns would make the names ambiguous.
@pytest.mark.parametrize("name", [name for name in ROWS if name != "text-label"])
@pytest.mark.parametrize("key", ["system", "system_prompt"])
def test_a_system_column_comes_first(name: str, key: str) -> None:
    value = {**ROWS[name][0], key: "s"}
    assert detect_format(_raw(value)) == name
    assert to_example(value, name).messages == (Message("system", "s"), ASKED, ANSWERED)


def test_a_system_turn_is_not_doubled() -> None:
    value = {"conversations": [{"from": "system", "value": "own"}, USER, ASSISTANT], "system": "column"}
    assert [m.content for m in to_example(value, "sharegpt").messages] == ["own", "q", "a"]


def test_alpaca_joins_task_and_input_with_a_blank_line() -> None:
    for key in ("input", "context"):
        example = to_example({"instruction": " Do\n", key: "this ", "output": "a"}, "alpaca")
        assert example.prompt == (Message("user", " Do\n\n\nthis "),)


def test_only_the_completion_of_a_prompt_carries_loss() -> None:
    value = {"prompt": [USER, ASSISTANT, USER], "completion": [ASSISTANT, USER, {**ASSISTANT, "weight": 0}]}
    example = to_example(value, "prompt-completion")
    assert [m.supervised for m in example.messages] == [False, False, False, True, False, False]


def test_sharegpt_with_tools() -> None:
    schema = {"name": "f", "description": "d", "parameters": {"type": "object", "properties": {}}}
    value = {
        "conversations": [
            {"from": "human", "value": "q"},
            {"from": "function_call", "value": '{"name": "f", "arguments": {"x": 1}}'},
            {"from": "observation", "value": '{"r": 2}'},
            {"from": "gpt", "value": "a"},
        ],
        "tools": json.dumps([schema]),
    }
    example = to_example(value, "sharegpt")
    assert example.tools == ({"type": "function", "function": schema},)
    assert example.messages[1] == Message("assistant", "", supervised=True, tool_calls=(ToolCall("f", {"x": 1}),))
    assert example.messages[2] == Message("tool", '{"r": 2}')


def test_older_functions_are_tools() -> None:
    value = {"messages": [USER, ASSISTANT], "functions": [{"name": "f"}]}
    assert to_example(value, "openai-chat").tools == ({"type": "function", "function": {"name": "f"}},)


def test_turns_behind_the_last_answer_are_left_out_and_told() -> None:
    value = {"messages": [USER, ASSISTANT, USER, {"role": "system", "content": "s"}]}
    example, reason = parse_row(value, "openai-chat")
    assert example.messages == (ASKED, ANSWERED)
    assert reason is not None
    assert "user, system" in reason
    assert parse_row({"messages": [USER, ASSISTANT]}, "openai-chat")[1] is None


@pytest.mark.parametrize(
    ("value", "name", "code", "hint"),
    [
        ({"mesages": []}, "openai-chat", "unknown_keys", 'did you mean "messages"'),
        ({"Prompt": "q", "completion": "a"}, "prompt-completion", "unknown_keys", 'did you mean "prompt"'),
        ({}, "alpaca", "unknown_keys", "none"),
        ({"prompt": "q"}, "prompt-completion", "unknown_keys", '"completion"'),
        ({"messages": [USER]}, "openai-chat", "no_assistant", ""),
        ({"messages": [ASSISTANT]}, "openai-chat", "no_prompt", ""),
        ({"messages": [ASSISTANT, USER]}, "openai-chat", "no_prompt", ""),
        ({"messages": [USER, {**ASSISTANT, "weight": 0}]}, "openai-chat", "all_weights_zero", ""),
        ({"messages": [USER, ASSISTANT], "tools": 3}, "openai-chat", "bad_tools", "tools"),
        ({"prompt": " ", "completion": "a"}, "prompt-completion", "empty_prompt", "prompt"),
        ({"prompt": "q", "completion": "\n"}, "prompt-completion", "empty_assistant", "completion"),
        ({"prompt": "q", "completion": None}, "prompt-completion", "bad_content", "null"),
        ({"question": "q", "answer": 5}, "question-answer", "bad_content", "a number"),
        ({"text": "q", "label": 1}, "text-label", "bad_content", "a number"),
        ({"prompt": "q", "completion": "a", "system": 1}, "prompt-completion", "bad_content", "system"),
        ({"question": "q", "answer": "a", "context": "c"}, "question-answer", "unread_context", '"context"'),
        ({"instruction": "q", "output": "a", "history": [["x", "y"]]}, "alpaca", "unread_context", "--map"),
    ],
)
def test_rows_that_cannot_be_used(value: dict[str, Any], name: str, code: str, hint: str) -> None:
    with pytest.raises(RowError) as caught:
        to_example(value, name)
    assert caught.value.code == code
    assert hint in caught.value.reason


def test_named_columns() -> None:
    mapping = FormatMapping.from_pairs({"prompt": "mr", "completion": "ref", "system": "sys"})
    value = {"mr": "q", "ref": "a", "sys": "s", "context": "not asked for"}
    assert to_example(value, "mapped", mapping).messages == (Message("system", "s"), ASKED, ANSWERED)
    assert to_example({**value, "sys": ""}, "mapped", mapping).messages == (ASKED, ANSWERED)
    with pytest.raises(RowError, match='did you mean "ref"') as caught:
        to_example({"mr": "q", "reff": "a", "sys": "s"}, "mapped", mapping)
    assert caught.value.code == "unknown_keys"


def test_a_wrong_mapping_is_told_whole() -> None:
    with pytest.raises(ConfigError) as caught:
        FormatMapping.from_pairs({"promt": "a", "system": ""})
    text = caught.value.render()
    for part in ('did you mean "prompt"', "prompt is missing", "completion is missing", "system names no column"):
        assert part in text


def test_read_keys_are_those_that_matter() -> None:
    assert "messages" in read_keys("openai-chat")
    assert "context" in read_keys("alpaca")
    assert "context" not in read_keys("question-answer")
    assert read_keys("mapped", FormatMapping("a", "b")) == {"a", "b", "tools", "functions"}


def test_mixed_formats_are_refused_with_lines_of_both() -> None:
    good, other = ROWS["openai-chat"][0], ROWS["alpaca"][0]
    with pytest.raises(DataError, match="openai-chat and alpaca") as caught:
        detect_format(_raw(good, None, good, other, other, good))
    assert caught.value.details == (
        "openai-chat: 3 rows, the first on line 10",
        "alpaca: 2 rows, the first on line 40",
    )


def test_rows_of_no_format_have_no_say() -> None:
    assert detect_format(_raw({"mesages": []}, None, {"x": 1}, ROWS["alpaca"][0])) == "alpaca"


@pytest.mark.parametrize(
    ("values", "hint"),
    [
        ([{"mesages": []}], '"mesages"; did you mean "messages"'),
        ([{"mr": "a", "ref": "b"}], "--map prompt=mr,completion=ref"),
        ([{"a": "", "b": "", "c": ""}], "--map prompt=COLUMN"),
        ([{"canary": "x", "examples": [{"input": "q"}, {"input": "r"}]}], 'under "examples"'),
        ([{"1": {"q": 1}, "2": {"q": 2}}], "one object"),
        ([{"text": "q", "label": "a", "source": "web"}], "--map"),
        ([{"Is it far?": "How long?", "Ten minutes on foot": "An hour."}], "looks like a row"),
    ],
)
def test_unknown_formats_come_with_the_way_out(values: list[dict[str, Any]], hint: str) -> None:
    with pytest.raises(DataError, match="no known format") as caught:
        detect_format(_raw(*values))
    assert hint in caught.value.render()


def test_preferences_are_told_apart() -> None:
    with pytest.raises(DataError, match="preferences"):
        detect_format(_raw({"prompt": "q", "chosen": "a", "rejected": "b"}))


_words = st.sampled_from(
    [*("user", "gpt", "tool", "function_call", "", "q", "[]", '{"name": "f", "arguments": {}}', "text"), "[1]"]
)
_keys = st.sampled_from(
    [
        *("messages", "conversations", "prompt", "completion", "instruction", "input", "output", "question", "answer"),
        *("text", "label", "system", "tools", "functions", "context", "role", "from", "content", "value", "weight"),
        *("tool_calls", "function_call", "function", "name", "arguments", "id", "tool_call_id", "thinking", "type"),
    ]
)
_anything = st.recursive(
    st.none() | st.booleans() | st.integers(-1, 2) | st.floats() | _words,
    lambda children: st.lists(children, max_size=3) | st.dictionaries(_keys, children, max_size=5),
    max_leaves=20,
)


@settings(max_examples=300)
@given(st.dictionaries(_keys, _anything, max_size=6), st.sampled_from(list(ROWS)))
def test_whatever_a_row_holds_it_is_an_example_or_a_row_error(value: dict[str, Any], name: str) -> None:
    try:
        example = to_example(value, name)
    except RowError:
        return  # any other error fails the test
    assert example.messages[-1].role == "assistant"
    assert example_to_openai(example)
    assert kept_as_it_was(value, example)


def kept_as_it_was(value: dict[str, Any], example: Example) -> bool:
    """No text of an example is made up: each stands in its row."""
    row = json.dumps(value, ensure_ascii=False)
    return all(json.dumps(part)[1:-1] in row for message in example.messages for part in message.content.split("\n\n"))


@given(examples())
def test_examples_read_back_as_written(example: Example) -> None:
    value = json.loads(json.dumps(example_to_openai(example), ensure_ascii=False))
    back, left_out = parse_row(value, "openai-chat")
    assert left_out is None
    assert (back.messages, back.tools) == (example.messages, example.tools)
