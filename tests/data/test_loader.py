"""Loading a file: every row accounted for, whatever is in it."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hone.data.ledger import DROP_CODES
from hone.data.loader import LoadedData, load_examples
from hone.errors import ConfigError, DataError

GOOD = {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}
TRAILING = {"messages": [*GOOD["messages"], {"role": "user", "content": "thanks"}]}
# One row for each fault that a line can have, with its code.
BAD = {
    "{oops": "not_json",
    "[]": "not_object",
    '{"messages": [], "x": NaN}': "not_finite",
    '{"messages": 1, "messages": 2}': "duplicate_keys",
    '{"messages": "\\ud800"}': "lone_surrogate",
    '{"mesages": []}': "unknown_keys",
    '{"messages": []}': "empty_messages",
    '{"messages": ["q"]}': "bad_turn",
    '{"messages": [{"role": "usr", "content": "q"}]}': "bad_role",
    '{"messages": [{"role": "user", "content": 1}]}': "bad_content",
    '{"messages": [{"role": "user", "content": "q"}]}': "no_assistant",
    '{"messages": [{"role": "assistant", "content": "a"}]}': "no_prompt",
    '{"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": ""}]}': "empty_assistant",
    '{"messages": [{"role": "assistant", "content": "a", "weight": 3}]}': "bad_weight",
    '{"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a", "weight": 0}]}': (
        "all_weights_zero"
    ),
    '{"messages": [{"role": "assistant", "tool_calls": [{"name": "f", "arguments": "x"}]}]}': "bad_tool_call",
    '{"messages": [{"role": "tool", "content": "r"}]}': "orphan_tool_result",
    '{"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}], "tools": 1}': "bad_tools",
}


def _write(folder: Path, content: str | bytes, name: str = "rows.jsonl") -> str:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return str(path)


def _accounted(data: LoadedData) -> None:
    ledger = data.ledger
    assert ledger.rows == ledger.kept + ledger.cut_rows + ledger.dropped
    assert len(data.examples) == ledger.kept + ledger.cut_rows
    used = [entry for entry in ledger.entries() if entry.status != "dropped"]
    assert [(e.row, e.line) for e in data.examples] == [(entry.row, entry.line) for entry in used]
    for entry in ledger.entries():
        assert (entry.reason is None) == (entry.status == "kept")
        assert (entry.code in DROP_CODES) == (entry.status == "dropped")
    for example in data.examples:
        assert example.source == data.source
        assert example.messages[-1].role == "assistant"
        assert any(message.supervised for message in example.messages)
        assert all(message.role == "assistant" for message in example.messages if message.supervised)


def test_every_fault_costs_one_row_and_has_its_code(tmp_path: Path) -> None:
    good = json.dumps(GOOD)
    path = _write(tmp_path, "\n".join([good, *BAD, json.dumps(TRAILING), good]))
    data = load_examples(path)
    _accounted(data)
    assert [(entry.line, entry.code) for entry in data.ledger.dropped_entries()] == [
        (line, code) for line, code in enumerate(BAD.values(), start=2)
    ]
    assert (data.ledger.kept, data.ledger.cut_rows, data.ledger.dropped) == (2, 1, len(BAD))
    assert data.format == "openai-chat"
    assert data.source == path
    cut = next(entry for entry in data.ledger.entries() if entry.status == "cut")
    assert cut.cut_tokens == 0
    assert "user" in str(cut.reason)


lines = st.lists(
    st.sampled_from([json.dumps(GOOD), json.dumps(TRAILING), *BAD, "", "  "])
    | st.text(max_size=20).filter(lambda text: not set(text) & set("\n\r\x00")),
    max_size=25,
)


@given(lines, st.sampled_from(["\n", "\r\n"]))
def test_rows_in_are_rows_out(tmp_path_factory: Any, chosen: list[str], ending: str) -> None:
    path = _write(tmp_path_factory.mktemp("ledger"), ending.join([json.dumps(GOOD), *chosen]))
    data = load_examples(path)
    _accounted(data)
    assert data.ledger.rows == 1 + sum(bool(line.removeprefix("\ufeff").strip()) for line in chosen)
    assert len(data.examples) == 1 + sum(line in (json.dumps(GOOD), json.dumps(TRAILING)) for line in chosen)


@given(
    st.binary(max_size=60), st.integers(0, 200), st.integers(0, 40), st.sampled_from(["jsonl", "json", "csv", "tsv"])
)
def test_a_damaged_file_loses_nothing_in_silence(
    tmp_path_factory: Any, noise: bytes, place: int, removed: int, extension: str
) -> None:
    content = "\n".join(json.dumps(GOOD) for _ in range(4)).encode()
    if extension in ("csv", "tsv"):
        content = b'prompt,completion\nq,a\n"q\nr",b\nq,c\n'.replace(b",", b"\t" if extension == "tsv" else b",")
    place %= len(content)
    damaged = content[:place] + noise + content[place + removed :]
    path = _write(tmp_path_factory.mktemp("noise"), damaged, f"rows.{extension}")
    try:
        data = load_examples(path)
    except DataError as error:
        refused_at = error.where
    else:
        refused_at = data.source
        _accounted(data)
    assert str(refused_at).startswith(path)


def test_a_limit_reads_the_first_rows_only(tmp_path: Path) -> None:
    path = _write(tmp_path, "\n".join([json.dumps(GOOD), "{oops", *[json.dumps(GOOD)] * 5]))
    data = load_examples(path, limit=3)
    assert (data.ledger.rows, data.ledger.kept, data.ledger.dropped) == (3, 2, 1)


def test_named_columns_of_a_table(tmp_path: Path) -> None:
    path = _write(tmp_path, "mr,ref,note\nq,a,x\nq,,y\n", "rows.csv")
    data = load_examples(path, mapping={"prompt": "mr", "completion": "ref"})
    assert data.format == "mapped"
    assert [example.answer for example in data.examples] == ["a"]
    assert data.unused_keys == ("note",)
    assert Counter(entry.code for entry in data.ledger.dropped_entries()) == {"empty_assistant": 1}


def test_named_columns_that_are_not_there(tmp_path: Path) -> None:
    path = _write(tmp_path, "mr,ref\nq,a\n", "rows.csv")
    with pytest.raises(DataError) as caught:
        load_examples(path, mapping={"prompt": "MR", "completion": "refs", "system": "mr"})
    assert caught.value.details == ('no row has "MR"; did you mean "mr"?', 'no row has "refs"; did you mean "ref"?')
    with pytest.raises(ConfigError):
        load_examples(path, mapping={"prompt": "mr"})


@pytest.mark.parametrize(
    ("content", "name", "what"),
    [
        ("", "a.jsonl", "is empty"),
        ("[]", "a.json", "has no rows"),
        ("prompt,completion\n", "a.csv", "has no rows"),
        ('{"x": 1}\n', "a.jsonl", "no known format"),
        (json.dumps(GOOD) + '\n{"prompt": "q", "completion": "a"}\n', "a.jsonl", "mixes formats"),
    ],
)
def test_files_that_are_refused_are_named(tmp_path: Path, content: str, name: str, what: str) -> None:
    path = _write(tmp_path, content, name)
    with pytest.raises(DataError, match=what) as caught:
        load_examples(path)
    assert caught.value.where == path
    assert caught.value.remedy


def test_a_file_without_a_usable_row_lists_the_first_faults(tmp_path: Path) -> None:
    path = _write(tmp_path, "\n".join(['{"messages": []}'] * 30 + ["{oops"] * 5))
    with pytest.raises(DataError) as caught:
        load_examples(path)
    assert caught.value.what == "none of its 35 rows can be used (empty_messages 30, not_json 5)"
    text = caught.value.render()
    assert f"{path}:1: messages is an empty list" in text
    assert f"{path}:20:" in text
    assert f"{path}:21:" not in text
    assert "15 more" in text


def test_a_file_that_is_nowhere_json_lists_its_lines(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="not_json 2"):
        load_examples(_write(tmp_path, "{oops\n{oops\n"))
