"""Real files: each is read with every row accounted for, or refused with an error that says what to do."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hone.data.loader import load_examples
from hone.errors import DataError

# Files whose format is found: rows, format, keys that are not read.
FOUND = {
    "dolly_hhrlhf_small/train_small.jsonl": (1000, "prompt-completion", ()),
    "glaive_toolcall_demo/glaive_toolcall_en_demo-first200.json": (200, "sharegpt", ()),
    "gsm8k_train_1500/train-first1500.jsonl": (1500, "question-answer", ()),
    "medquad_ninds/medquad-ninds-first200docs.jsonl": (
        782,
        "question-answer",
        ("doc_id", "focus", "qid", "qtype", "source", "url"),
    ),
}
# Files whose columns are named: prompt, completion, rows.
NAMED = {
    "banking77/train.csv": ("text", "category", 10003),
    "bitext_customer_support/train.csv": ("utterance", "intent", 6480),
    "e2e_nlg/testset_w_refs.csv": ("mr", "ref", 4693),
    "hate_offensive_6000/labeled_data-first6000.csv": ("tweet", "class", 6000),
    "mbpp/mbpp.jsonl": ("text", "code", 974),
    "mts_dialog/train.csv": ("dialogue", "section_text", 1201),
    "simple_arithmetic/simple_arithmetic_nospaces.jsonl": ("context", "continuation", 1000),
    "tldrlegal/tldrlegal_v1.json": None,
    "bbh_visible/navigate.json": None,
    "hh_rlhf_harmless_600/harmless-base-test-first600.jsonl": None,
    "oasst_trees_100/en_100_text.jsonl": None,
    "sms_spam/SMSSpamCollection.tsv": None,
    "tinyshakespeare/input-first15000.txt": None,
}


@pytest.mark.parametrize("part", ["train", "eval"])
def test_ready_tasks_are_read_whole(shared_folder: Path, part: str) -> None:
    files = sorted((shared_folder / "tasks").glob(f"*/{part}.jsonl"))
    assert len(files) == 10
    for file in files:
        data = load_examples(str(file))
        lines = file.read_text(encoding="utf-8").splitlines()
        assert data.format == "openai-chat"
        assert (data.ledger.rows, data.ledger.kept) == (len(lines), len(lines))
        assert data.unused_keys == ()
        for example, line in zip(data.examples, lines, strict=True):
            turns = json.loads(line)["messages"]
            assert [(m.role, m.content) for m in example.messages] == [(t["role"], t["content"]) for t in turns]
            assert [m.supervised for m in example.messages] == [t["role"] == "assistant" for t in turns]


@pytest.mark.parametrize("name", FOUND)
def test_formats_are_found(shared_folder: Path, name: str) -> None:
    rows, format_name, unused = FOUND[name]
    data = load_examples(str(shared_folder / "data" / name))
    assert (data.ledger.rows, data.ledger.kept) == (rows, rows)
    assert (data.format, data.unused_keys) == (format_name, unused)


@pytest.mark.parametrize("name", NAMED)
def test_other_files_take_column_names_or_are_refused(shared_folder: Path, name: str) -> None:
    path = str(shared_folder / "data" / name)
    with pytest.raises(DataError) as caught:
        load_examples(path)
    assert str(caught.value.where).startswith(path)
    assert caught.value.remedy
    named = NAMED[name]
    if named is not None:
        data = load_examples(path, mapping={"prompt": named[0], "completion": named[1]})
        assert data.ledger.rows == named[2]
        assert data.ledger.kept == named[2], data.ledger.summary()


def test_tool_calls_of_glaive_are_parsed(shared_folder: Path) -> None:
    file = shared_folder / "data" / "glaive_toolcall_demo" / "glaive_toolcall_en_demo-first200.json"
    source = json.loads(file.read_text(encoding="utf-8"))
    data = load_examples(str(file))
    calls = [call for example in data.examples for message in example.messages for call in message.tool_calls]
    assert len(calls) == 137
    assert calls[0].name == "search_recipes"
    assert calls[0].arguments == {"ingredients": ["chicken", "bell peppers", "rice"]}
    assert [len(example.tools) for example in data.examples] == [len(json.loads(row["tools"])) for row in source]
    text = file.read_text(encoding="utf-8").split("\n")
    assert all(text[example.line - 1].startswith('{"conversations"') for example in data.examples)
