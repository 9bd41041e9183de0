"""Rows in other formats: read back they say the same, and what cannot be held is named."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hone.data.convert import convert_example, convert_preference
from hone.data.formats import to_example
from hone.data.loader import load_examples
from hone.errors import ConfigError, DataError
from hone.recipe.convert import convert_file
from hone.types import Preference

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


YES, NO = [{"role": "assistant", "content": "yes"}], [{"role": "assistant", "content": "no"}]
PAIRS: dict[str, dict[str, Any]] = {
    "texts": {"prompt": "q", "chosen": "yes", "rejected": "no", "margin": 0.5, "system": "be brief"},
    "conversations": {"chosen": [{"role": "user", "content": "q"}, *YES], "rejected": [{"role": "user", "content": "q"},
                      *NO], "margin": 2},
    "openai-preference": {"input": {"messages": [{"role": "user", "content": "q"}]}, "preferred_output": YES,
                          "non_preferred_output": NO},
    "preference-ranking": {"prompt": "q", "answers": ["no", "yes"], "ranks": [2, 1]},
}  # fmt: skip


@pytest.mark.parametrize("target", ["preference", "openai-preference"])
@pytest.mark.parametrize("name", PAIRS)
def test_pairs_read_back_the_same_or_tell_their_margin_as_lost(tmp_path: Path, name: str, target: str) -> None:
    source, out = tmp_path / "rows.jsonl", tmp_path / "out.jsonl"
    source.write_text(json.dumps(PAIRS[name]) + "\n", encoding="utf-8")
    [before] = load_examples(str(source), preferences=True).examples
    assert isinstance(before, Preference)
    loses = bool(before.margin) and target == "openai-preference"
    if loses:
        with pytest.raises(DataError, match="cannot hold all of it") as caught:
            convert_file(str(source), out, target=target)
        assert caught.value.details == ("the margin: in 1 rows",)
        assert caught.value.remedy == "convert to preference, which holds more, or leave it out with --allow-loss"
    convert_file(str(source), out, target=target, allow_loss=loses)
    loaded = load_examples(str(out), preferences=True)
    [after] = loaded.examples
    assert loaded.format == target
    assert replace(after, source=before.source) == replace(before, margin=0.0 if loses else before.margin)


@pytest.mark.parametrize(
    ("row", "target", "what", "remedy"),
    [
        ({"prompt": "q", "completion": "a", "label": True}, "preference", "judge one answer each", "--to chosen"),
        ({"prompt": "q", "completion": "a"}, "preference", "one answer each", "--to chat, sharegpt"),
        ({"prompt": "q", "chosen": "a", "rejected": "b"}, "alpaca", "alpaca holds one right answer", "--to chosen"),
        ({"prompt": "q", "chosen": "a", "rejected": "b"}, "chat", "cannot hold all", "convert to preference"),
        ({"prompt": "q", "answers": ["a", "b", "c"]}, "preference", "cannot hold all", "keep the file"),
        ({"prompt": "q", "completion": "a", "label": False}, "chosen", "cannot hold all", "keep the file"),
        ({"messages": ROWS["several"]["messages"]}, "alpaca", "cannot hold all", "convert to chat"),
    ],
)
def test_a_refusal_says_what_this_file_can_become(
    tmp_path: Path, row: dict[str, Any], target: str, what: str, remedy: str
) -> None:
    source, out = tmp_path / "rows.jsonl", tmp_path / "out.jsonl"
    source.write_text(json.dumps(row) + "\n", encoding="utf-8")
    with pytest.raises(DataError) as caught:
        convert_file(str(source), out, target=target)
    assert what in caught.value.what
    assert remedy in (caught.value.remedy or "")
    assert caught.value.where == str(source)
    assert "--method" not in caught.value.render()
    assert not out.exists()


def test_the_liked_and_the_best_answers_of_preferences(tmp_path: Path) -> None:
    source, out = tmp_path / "rows.jsonl", tmp_path / "out.jsonl"
    rows = [{"prompt": "q", "completion": answer, "label": answer == "yes"} for answer in ("yes", "no")]
    source.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    done = convert_file(str(source), out, target="chosen", allow_loss=True)
    assert json.loads(out.read_text(encoding="utf-8")) == {"prompt": "q", "completion": "yes"}
    assert (done.refused, dict(done.lost)) == ([(2, "its answer is not liked")], {"the label": 1})
    source.write_text(json.dumps({"prompt": "q", "answers": ["a", "b", "c"], "ranks": [2, 1, 3]}), encoding="utf-8")
    done = convert_file(str(source), out, target="chat", allow_loss=True)
    assert [turn["content"] for turn in json.loads(out.read_text(encoding="utf-8"))["messages"]] == ["q", "b"]
    assert dict(done.lost) == {"the other answers": 1}


def test_a_margin_of_a_table_becomes_a_number(tmp_path: Path) -> None:
    source, out = tmp_path / "rows.csv", tmp_path / "out.jsonl"
    source.write_text("prompt,chosen,rejected,margin\nq,yes,no,0.5\n", encoding="utf-8")
    convert_file(str(source), out, target="preference")
    assert json.loads(out.read_text(encoding="utf-8"))["margin"] == 0.5
