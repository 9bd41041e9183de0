"""Passages in training prompts: which rows get them, that they are what the arm would see, and what resuming reads."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hone.config import RunConfig
from hone.data.loader import load_examples
from hone.data.render import Renderer
from hone.engine.parallel import ALONE
from hone.errors import StorageError
from hone.model.load import load_base
from hone.recipe.contest import PASSAGES
from hone.recipe.inference import make_renderer
from hone.recipe.rows import PreparedRows, prepare_rows
from hone.recipe.run import run
from hone.recipe.training_passages import passages_file, rows_with_passages, store_passages
from hone.registry import RunFolder
from hone.registry.runs import create_run
from hone.retrieval import PassageIndex, index_texts, search_text, with_passages
from tests.recipe.conftest import THINGS, Listener, read_jsonl, row, write_jsonl

RunOptions = Callable[..., RunConfig]


@pytest.fixture
def index() -> PassageIndex:
    return index_texts([f"The {thing} stands in the yard and is painted every year." for thing in THINGS])


@pytest.fixture
def renderer(tiny_base: Path) -> Renderer:
    base = load_base(str(tiny_base), device="cpu", dtype="float32", home=tiny_base, note=lambda _text: None)
    return make_renderer(base, (), max_length=None, note=lambda _text: None)


@pytest.fixture
def rows(tmp_path: Path, renderer: Renderer) -> PreparedRows:
    path = write_jsonl(tmp_path / "rows.jsonl", [row(number) for number in range(24)])
    loaded = load_examples(str(path))
    return prepare_rows(loaded, renderer, held_out_data=None, held_out=0, validation=4, seed=0, note=lambda _text: None)


def folder_at(path: Path) -> RunFolder:
    return create_run(path / "home", kind="train", name="x")


def test_half_of_the_rows_are_asked_as_the_arm_is(
    rows: PreparedRows, index: PassageIndex, renderer: Renderer, tmp_path: Path
) -> None:
    changed, used = rows_with_passages(
        rows, lambda: index, renderer, folder=folder_at(tmp_path), seed=0, parallel=ALONE
    )
    assert used is not None
    assert (used.facts["rows"], used.facts["distracting"], used.facts["passages"]) == (10, 2, PASSAGES)
    assert len(changed.asked_otherwise) == 10
    helped = {pick.row for pick in used.picks if not pick.distracting}
    for example in rows.train:
        plain = renderer.render(example).sequences
        asked = changed.asked_otherwise.get(example.row)
        if asked is None:
            assert changed.sequences[example.row] == plain
            continue
        assert changed.sequences[example.row] == renderer.render(asked).sequences
        assert asked.messages[-1] == example.messages[-1]
        assert asked.messages[0].content.endswith(example.messages[0].content)
        found = with_passages(example.prompt, index.search(search_text(example.prompt), PASSAGES))
        assert (asked.prompt == found) is (example.row in helped)
    assert [changed.sequences[one.row] for one in rows.validation] == [
        rows.sequences[one.row] for one in rows.validation
    ]


def test_a_distracting_passage_is_none_that_search_would_give(
    rows: PreparedRows, index: PassageIndex, renderer: Renderer, tmp_path: Path
) -> None:
    _, used = rows_with_passages(rows, lambda: index, renderer, folder=folder_at(tmp_path), seed=0, parallel=ALONE)
    assert used is not None
    by_row = {example.row: example for example in rows.train}
    for pick in used.picks:
        own = index.search(search_text(by_row[pick.row].prompt), PASSAGES)
        if pick.distracting:
            assert not set(pick.passages) & set(own)


def test_a_row_without_room_gets_fewer(
    rows: PreparedRows, index: PassageIndex, tiny_base: Path, tmp_path: Path
) -> None:
    base = load_base(str(tiny_base), device="cpu", dtype="float32", home=tiny_base, note=lambda _text: None)
    wide = make_renderer(base, (), max_length=None, note=lambda _text: None)
    longest = max(len(one.ids) for sequences in rows.sequences.values() for one in sequences)
    one_passage = [len(wide.render(_with(example, index, 1)).sequences[0].ids) + 30 for example in rows.train]
    tight = make_renderer(base, (), max_length=max(longest, *one_passage), note=lambda _text: None)
    changed, used = rows_with_passages(rows, lambda: index, tight, folder=folder_at(tmp_path), seed=0, parallel=ALONE)
    assert used is not None
    assert used.facts["rows"] > 0
    counts = {one.messages[0].content.count("stands in the yard") for one in changed.asked_otherwise.values()}
    assert max(counts) < PASSAGES
    assert min(counts) >= 1


def _with(example: Any, index: PassageIndex, count: int) -> Any:
    found = index.search(search_text(example.prompt), count)
    return replace(example, messages=(*with_passages(example.prompt, found), example.messages[-1]))


def test_what_was_stored_is_asked_again(
    rows: PreparedRows, index: PassageIndex, renderer: Renderer, tmp_path: Path
) -> None:
    folder = folder_at(tmp_path)
    first, used = rows_with_passages(rows, lambda: index, renderer, folder=folder, seed=0, parallel=ALONE)
    assert used is not None
    store_passages(folder, used)
    other = index_texts(["something else altogether"])
    again, _ = rows_with_passages(rows, lambda: other, renderer, folder=folder, seed=9, parallel=ALONE)
    assert again.sequences == first.sequences
    passages_file(folder).write_text('{"row": 1}\n', encoding="utf-8")
    with pytest.raises(StorageError, match="passages of the training rows cannot be read"):
        rows_with_passages(rows, lambda: index, renderer, folder=folder, seed=0, parallel=ALONE)


def test_without_documents_nothing_changes(rows: PreparedRows, renderer: Renderer, tmp_path: Path) -> None:
    same, used = rows_with_passages(rows, lambda: None, renderer, folder=folder_at(tmp_path), seed=0, parallel=ALONE)
    assert same is rows
    assert used is None


def test_a_run_with_documents_trains_on_passages(
    run_options: RunOptions, hone_home: Path, tmp_path: Path, evaluated_here: None
) -> None:
    documents = tmp_path / "documents"
    documents.mkdir()
    (documents / "things.md").write_text(
        "\n\n".join(f"# The {thing}\n\nThe {thing} is lit at night." for thing in THINGS), encoding="utf-8"
    )
    result = run(run_options(documents=str(documents)), home=hone_home, recorder=Listener())
    facts = result["training"]["passages"]
    assert facts["rows"] > 0
    kept = read_jsonl(Path(result["run_dir"]) / "passages.jsonl")
    assert len(kept) == facts["rows"]
    assert {one["source"] for pick in kept for one in pick["passages"]} == {"things.md"}
    assert result["documents"]["used"]
    assert f"{facts['rows']} training rows" in result["documents"]["reason"]
    assert json.dumps(result)
