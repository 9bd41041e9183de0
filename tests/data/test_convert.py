"""Rows in other formats: read back they say the same, and what cannot be held is named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from hone.data.convert import convert_example, convert_preference
from hone.data.formats import to_example
from hone.data.loader import load_examples
from hone.errors import ConfigError, DataError
from hone.recipe.convert import convert_file

CALL = {"id": "c1", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}
ROWS: dict[str, dict[str, Any]] = {
    "single": {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]},
    "system": {
        "messages": [
            {"role": "system", "content": "s"},
            {"role": "user", "content": "q"},
            {"role": "assistant", "content": "a"},
        ]
    },
    "several": {
        "messages": [
            {"role": "user", "content": "q"},
            {"role": "assistant", "content": "a", "weight": 0},
            {"role": "user", "content": "r"},
            {"role": "assistant", "content": "b", "reasoning_content": "hm"},
        ]
    },
    "calls": {
        "messages": [
            {"role": "user", "content": "q"},
            {"role": "assistant", "content": "", "tool_calls": [CALL]},
            {"role": "tool", "content": "3", "tool_call_id": "c1"},
            {"role": "assistant", "content": "a"},
        ],
        "tools": [{"type": "function", "function": {"name": "add"}}],
    },
}
FORMATS = {"chat": "openai-chat", "sharegpt": "sharegpt", "alpaca": "alpaca", "prompt-completion": "prompt-completion"}


@pytest.mark.parametrize("target", FORMATS)
@pytest.mark.parametrize("name", ROWS)
def test_what_is_written_reads_back_the_same_or_is_told_as_lost(name: str, target: str) -> None:
    example = to_example(ROWS[name], "openai-chat")
    value, lost = convert_example(example, target)
    if value is None:
        assert name in ("several", "calls")
        assert target in ("alpaca", "prompt-completion")
        assert lost
        return
    back = to_example(value, FORMATS[target])
    if (name, target) == ("calls", "sharegpt"):
        assert lost == ("the ids of tool calls",)
        assert [message.content for message in back.messages] == [message.content for message in example.messages]
        assert back.messages[1].tool_calls[0].arguments == {"a": 1}
        return
    assert lost == ()
    assert back == example


def test_preferences_of_every_shape_become_one() -> None:
    turns = [{"role": "user", "content": "q"}]
    yes, no = {"role": "assistant", "content": "yes"}, {"role": "assistant", "content": "no"}
    wanted = {"prompt": "q", "chosen": "yes", "rejected": "no"}
    assert convert_preference(wanted, "preference") == (wanted, ())
    transcript = {"chosen": "\n\nHuman: q\n\nAssistant: yes", "rejected": "\n\nHuman: q\n\nAssistant: no"}
    assert convert_preference(transcript, "preference") == (wanted, ())
    lists = {"chosen": [*turns, yes], "rejected": [*turns, no]}
    assert convert_preference(lists, "preference") == ({"prompt": turns, "chosen": [yes], "rejected": [no]}, ())
    longer = "\n\nHuman: q\n\nAssistant: a\n\nHuman: r"
    value, lost = convert_preference(
        {"chosen": f"{longer}\n\nAssistant: yes", "rejected": f"{longer}\n\nAssistant: no"}, "chat"
    )
    assert value is not None
    assert [turn["content"] for turn in value["messages"]] == ["q", "a", "r", "yes"]
    assert lost == ("the rejected answer",)


def test_parquet_there_and_back(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    source, out = tmp_path / "rows.jsonl", tmp_path / "rows.parquet"
    source.write_text(json.dumps(ROWS["several"]) + "\n" + json.dumps(ROWS["system"]) + "\n", encoding="utf-8")
    done = convert_file(str(source), out, target="chat")
    assert (done.rows, done.written) == (2, 2)
    before, after = (load_examples(str(path)).examples for path in (source, out))
    assert [example.messages for example in after] == [example.messages for example in before]


def test_a_file_that_would_lose_something_is_not_written(tmp_path: Path) -> None:
    source, out = tmp_path / "rows.jsonl", tmp_path / "out.jsonl"
    source.write_text(json.dumps(ROWS["calls"]) + "\n{oops\n", encoding="utf-8")
    with pytest.raises(DataError, match="cannot hold all of it") as caught:
        convert_file(str(source), out, target="sharegpt")
    assert any("the ids of tool calls: in 1 rows" in detail for detail in caught.value.details)
    assert any("rows.jsonl:2" in detail for detail in caught.value.details)
    assert not out.exists()
    done = convert_file(str(source), out, target="sharegpt", allow_loss=True)
    assert (done.rows, done.written, [line for line, _ in done.refused]) == (2, 1, [2])
    with pytest.raises(ConfigError, match="the data file itself"):
        convert_file(str(source), source, target="chat")
