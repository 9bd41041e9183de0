"""Turns in OpenAI's and ShareGPT's form: what each part becomes, and each fault by its code."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hone.data.ledger import RowError
from hone.data.messages import message_to_openai, parse_messages, parse_tools
from hone.types import Message, ToolCall

USER = {"role": "user", "content": "hi"}
CALL = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"x": 1}'}}
CALLING = {"role": "assistant", "content": None, "tool_calls": [CALL]}


def _one(turn: dict[str, Any], *before: dict[str, Any]) -> Message:
    return parse_messages([*before, turn])[-1]


def _code(turns: Any) -> tuple[str, str]:
    with pytest.raises(RowError) as caught:
        parse_messages(turns)
    return caught.value.code, caught.value.reason


@pytest.mark.parametrize(
    ("name", "role"),
    [
        *(("system", "system"), ("developer", "system"), ("user", "user"), ("human", "user"), ("Human", "user")),
        *(("assistant", "assistant"), ("gpt", "assistant"), ("bot", "assistant"), ("model", "assistant")),
    ],
)
@pytest.mark.parametrize(("role_key", "text_key"), [("role", "content"), ("from", "value")])
def test_roles_of_both_forms(name: str, role: str, role_key: str, text_key: str) -> None:
    message = _one({role_key: name, text_key: "text"})
    assert (message.role, message.content, message.supervised) == (role, "text", role == "assistant")


@pytest.mark.parametrize("name", ["tool", "function", "observation", "function_response", "tool_response"])
def test_roles_of_tool_results(name: str) -> None:
    message = _one({"from": name, "value": "42"}, USER, CALLING)
    assert message == Message("tool", "42")


def test_text_is_taken_as_it_stands() -> None:
    assert _one({"role": "user", "content": "  a\n\n b \t"}).content == "  a\n\n b \t"


def test_parts_are_joined() -> None:
    parts = [{"type": "text", "text": "a "}, "b", {"text": " c"}]
    assert _one({"role": "user", "content": parts}).content == "a b c"


@pytest.mark.parametrize(("weight", "supervised"), [(None, True), (1, True), (0, False), (1.0, True), (0.0, False)])
def test_weights(weight: float | None, supervised: bool) -> None:
    message = _one({"role": "assistant", "content": "a", "weight": weight})
    assert message.supervised is supervised
    unsupervised = parse_messages([{"role": "assistant", "content": "a", "weight": weight}], supervise=False)
    assert not unsupervised[0].supervised


@pytest.mark.parametrize("key", ["reasoning_content", "thinking", "reasoning"])
def test_reasoning_stands_apart(key: str) -> None:
    assert _one({"role": "assistant", "content": "a", key: "because"}).reasoning == "because"
    assert _one({"role": "assistant", "content": None, key: "because"}).content == ""
    assert _one({"role": "assistant", "content": "a", key: None}).reasoning is None


def test_calls_are_parsed_from_text_and_objects() -> None:
    flat = {"name": "g", "arguments": {"y": [None, "ü"]}}
    message = _one({"role": "assistant", "content": "", "tool_calls": [CALL, flat]}, USER)
    assert message.tool_calls == (ToolCall("f", {"x": 1}, "c1"), ToolCall("g", {"y": [None, "ü"]}))
    older = _one({"role": "assistant", "content": None, "function_call": {"name": "f", "arguments": "{}"}}, USER)
    assert older.tool_calls == (ToolCall("f", {}),)


def test_calls_of_sharegpt_stand_in_the_text() -> None:
    value = json.dumps([{"name": "f", "arguments": {"x": 1}}, {"name": "g", "arguments": "{}"}])
    message = _one({"from": "function_call", "value": value})
    assert message == Message("assistant", "", supervised=True, tool_calls=(ToolCall("f", {"x": 1}), ToolCall("g", {})))


def test_tool_results_know_their_call() -> None:
    turns = [USER, CALLING, {"role": "tool", "content": "1", "tool_call_id": "c1", "name": "f"}]
    assert parse_messages(turns)[-1] == Message("tool", "1", tool_call_id="c1", name="f")
    twice = [USER, CALLING, *[{"role": "tool", "content": "1"}] * 2]
    assert [message.role for message in parse_messages(twice)] == ["user", "assistant", "tool", "tool"]


@pytest.mark.parametrize(
    ("turns", "code", "hint"),
    [
        (None, "empty_messages", "null"),
        ([], "empty_messages", "empty"),
        ({}, "empty_messages", "an object"),
        ("[oops", "empty_messages", "not JSON"),
        (["hi"], "bad_turn", "messages[0] is text"),
        ([USER, {"content": "x"}], "bad_role", "messages[1] has no role"),
        ([{"role": 3, "content": "x"}], "bad_role", "a number"),
        ([{"role": "asistant", "content": "x"}], "bad_role", 'did you mean "assistant"'),
        ([{"role": "user", "content": None}], "bad_content", "null"),
        ([{"role": "user"}], "bad_content", "missing"),
        ([{"role": "user", "content": 5}], "bad_content", "a number"),
        ([{"role": "user", "content": {"text": "x"}}], "bad_content", "an object"),
        ([{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}], "bad_content", '"image_url"'),
        ([{"role": "user", "content": [{"type": "text", "text": 1}]}], "bad_content", "content[0]"),
        ([{"role": "user", "content": "x", "name": 1}], "bad_content", "name"),
        ([USER, {"role": "assistant", "content": ""}], "empty_assistant", "messages[1]"),
        ([USER, {"role": "assistant", "content": " \n"}], "empty_assistant", "messages[1]"),
        ([USER, {"role": "assistant", "content": "", "tool_calls": []}], "empty_assistant", "messages[1]"),
        ([{"role": "assistant", "content": "x", "weight": 2}], "bad_weight", "0 or 1"),
        ([{"role": "assistant", "content": "x", "weight": True}], "bad_weight", "true"),
        ([{"role": "assistant", "content": "x", "weight": "0"}], "bad_weight", '"0"'),
        ([{"role": "user", "content": "x", "weight": 0}], "bad_weight", "role user"),
        ([{"role": "assistant", "content": "x", "wieght": 0}], "unknown_keys", 'did you mean "weight"'),
        ([{"role": "user", "contents": "x"}], "unknown_keys", 'did you mean "content"'),
        ([{"role": "user", "content": "x", "tool_calls": [CALL]}], "bad_tool_call", "role user"),
        ([{"role": "assistant", "tool_calls": {}}], "bad_tool_call", "an object"),
        ([{"role": "assistant", "tool_calls": ["f"]}], "bad_tool_call", "tool_calls[0]"),
        (
            [{"role": "assistant", "tool_calls": [{"function": {"arguments": "{}"}}]}],
            "bad_tool_call",
            "no function name",
        ),
        ([{"role": "assistant", "tool_calls": [{"name": "f", "arguments": "{x}"}]}], "bad_tool_call", "not JSON"),
        ([{"role": "assistant", "tool_calls": [{"name": "f", "arguments": "[1]"}]}], "bad_tool_call", "a list"),
        (
            [{"role": "assistant", "tool_calls": [{"name": "f", "arguments": '{"a":1,"a":2}'}]}],
            "bad_tool_call",
            "twice",
        ),
        ([{"role": "assistant", "tool_calls": [{"name": "f"}]}], "bad_tool_call", "null"),
        ([{"from": "function_call", "value": "call f"}], "bad_tool_call", "not JSON"),
        ([{"from": "function_call", "value": "[]"}], "bad_tool_call", "nothing"),
        ([{"role": "tool", "content": "1"}], "orphan_tool_result", "no turn of the assistant"),
        ([USER, {"role": "tool", "content": "1"}], "orphan_tool_result", "messages[1]"),
        ([USER, CALLING, {"role": "tool", "content": "1", "tool_call_id": "c2"}], "orphan_tool_result", '"c2"'),
    ],
)
def test_faults_are_named_with_their_place(turns: Any, code: str, hint: str) -> None:
    found, reason = _code(turns)
    assert found == code
    assert hint in reason


def test_further_keys_of_a_turn_do_no_harm() -> None:
    assert _one({"role": "assistant", "content": "x", "refusal": None, "id": 7, "timestamp": "now"}).content == "x"


def test_tools_are_read_into_one_form() -> None:
    bare = {"name": "f", "parameters": {"type": "object", "properties": {}}}
    full = {"type": "function", "function": bare}
    for tools in ([bare], [full], json.dumps([bare]), json.dumps([full])):
        assert parse_tools(tools) == (full,)
    for none in (None, "", " ", [], "[]", "null"):
        assert parse_tools(none) == ()


@pytest.mark.parametrize("tools", [{}, 3, "{", "3", ["f"], [{}], [{"function": {}}], [{"type": "web_search"}]])
def test_bad_tools_are_named(tools: Any) -> None:
    with pytest.raises(RowError) as caught:
        parse_tools(tools)
    assert caught.value.code == "bad_tools"


texts = st.text(max_size=8)
names = st.text(min_size=1, max_size=8)
arguments = st.dictionaries(texts, st.none() | st.booleans() | st.integers() | texts | st.lists(texts), max_size=3)
calls = st.builds(ToolCall, names, arguments, st.none() | texts)
assistants = st.builds(
    Message,
    role=st.just("assistant"),
    content=texts,
    supervised=st.booleans(),
    reasoning=st.none() | names,
    tool_calls=st.lists(calls, max_size=2).map(tuple),
    name=st.none() | texts,
).filter(lambda message: bool(message.content.strip() or message.tool_calls or message.reasoning))
others = st.builds(Message, role=st.sampled_from(["system", "user"]), content=texts, name=st.none() | texts)


@given(st.lists(assistants | others, min_size=1, max_size=5))
def test_what_is_written_reads_back_the_same(messages: list[Message]) -> None:
    turns = json.loads(json.dumps([message_to_openai(message) for message in messages], ensure_ascii=False))
    assert parse_messages(turns) == tuple(messages)
