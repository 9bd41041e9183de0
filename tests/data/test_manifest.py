"""The manifest: content hashes that follow content alone, and counts that are the ledger's."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

from hypothesis import given

from hone.data.loader import load_examples
from hone.data.manifest import build_manifest, example_hash
from hone.data.split import split_examples
from hone.types import Example
from tests.data.examples import chat, examples


def test_the_hash_is_that_of_canonical_json() -> None:
    canonical = '{"messages":[{"content":"ü","role":"user"},{"content":"a","role":"assistant"}]}'
    assert example_hash(chat("ü")) == hashlib.sha256(canonical.encode()).hexdigest()


@given(examples())
def test_place_does_not_matter_and_content_does(example: Example) -> None:
    moved = replace(example, row=9, line=99, source="other")
    assert example_hash(moved) == example_hash(example)
    last = example.messages[-1]
    changed = replace(example, messages=(*example.messages[:-1], replace(last, content=last.content + "x")))
    unweighted = replace(example, messages=(*example.messages[:-1], replace(last, supervised=False)))
    tooled = replace(example, tools=(*example.tools, {"type": "function", "function": {"name": "g"}}))
    assert len({example_hash(one) for one in (example, changed, unweighted, tooled)}) == 4


def test_the_format_of_the_file_does_not_matter(tmp_path: Path) -> None:
    chat_row = {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}
    (tmp_path / "a.jsonl").write_text(json.dumps(chat_row), encoding="utf-8")
    (tmp_path / "b.csv").write_text("question,answer\nq,a\n", encoding="utf-8")
    one, other = (load_examples(str(tmp_path / name)).examples[0] for name in ("a.jsonl", "b.csv"))
    assert example_hash(one) == example_hash(other)


def test_a_manifest_names_every_row_and_its_source(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    rows = [{"prompt": f"Question number {n} of {n * n}", "completion": f"answer {n}"} for n in range(10)]
    path.write_text("\n".join([*(json.dumps(row) for row in rows), "{oops"]), encoding="utf-8")
    data = load_examples(str(path))
    split = split_examples(data.examples, held_out=3, seed=5)
    manifest = build_manifest(data, train=split.train[1:], validation=split.train[:1], held_out=split.held_out, seed=5)
    assert json.loads(json.dumps(manifest)) == manifest
    assert manifest["source"] == {
        "name": "rows.jsonl",
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "format": "prompt-completion",
        "rows": 11,
        "kept": 10,
        "cut": 0,
        "dropped": 1,
        "cut_tokens": 0,
        "codes": {"not_json": 1},
    }
    assert manifest["split_seed"] == 5
    assert "held_out_source" not in manifest
    named = {entry["row"]: entry["sha256"] for part in ("train", "validation", "held_out") for entry in manifest[part]}
    assert named == {example.row: example_hash(example) for example in data.examples}
    assert [len(manifest[part]) for part in ("train", "validation", "held_out")] == [6, 1, 3]
    assert str(tmp_path) not in json.dumps(manifest)


def test_a_file_of_its_own_for_held_out_rows_is_named(tmp_path: Path) -> None:
    for name in ("train.csv", "eval.csv"):
        (tmp_path / name).write_text(f"question,answer\n{name},a\n", encoding="utf-8")
    train, held_out = (load_examples(str(tmp_path / name)) for name in ("train.csv", "eval.csv"))
    manifest = build_manifest(train, train=train.examples, held_out=held_out.examples, held_out_data=held_out)
    assert (manifest["source"]["name"], manifest["held_out_source"]["name"]) == ("train.csv", "eval.csv")
