"""Splits: nothing equal or nearly equal on both sides, the size asked for, and the same again in any order."""

from __future__ import annotations

import random
from collections import Counter
from itertools import combinations
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hone.data.loader import load_examples
from hone.data.near import comparison_texts, near_graph
from hone.data.split import Split, near_copies, prompt_key, split_examples
from hone.errors import DataError
from hone.types import Example, Message
from tests.data.examples import chat

SUBJECTS = ["boats", "chess", "tomatoes", "the moon", "winter tyres", "old maps", "violins", "bread", "glaciers", "tea"]
QUESTIONS = [f"Please tell me {what} {subject}" for what in ("all about", "the price of") for subject in SUBJECTS]


def _variants(text: str, count: int) -> list[str]:
    made = [
        text,
        text.upper(),
        f"{text}!",
        f" {text.replace(' ', '  ')}\n",
        text.replace("Please", "Plaese"),
        f"({text})",
    ]
    return made[:count]


def _ids(examples: list[Example]) -> list[int]:
    return sorted(example.row for example in examples)


sized_prompts = st.lists(st.integers(1, 6), min_size=2, max_size=len(QUESTIONS))


@given(sized_prompts, st.floats(0.05, 0.6), st.integers(0, 3), st.randoms())
def test_invariants_of_a_split(sizes: list[int], share: float, seed: int, order: random.Random) -> None:
    texts = [variant for text, size in zip(QUESTIONS, sizes, strict=False) for variant in _variants(text, size)]
    examples = [chat(text, f"answer {row}", row=row) for row, text in enumerate(texts, start=1)]
    split = split_examples(examples, held_out=share, seed=seed)

    assert _ids(split.train + split.held_out) == list(range(1, len(examples) + 1))
    assert split.train
    assert split.held_out
    assert split.groups == len(sizes)
    assert near_copies(split.train, split.held_out) == []
    train_keys = {prompt_key(example) for example in split.train}
    assert not train_keys & {prompt_key(example) for example in split.held_out}
    assert not split.stratified

    shuffled = examples[:]
    order.shuffle(shuffled)
    assert split_examples(shuffled, held_out=share, seed=seed) == split


@given(sized_prompts, st.integers(1, 60))
def test_the_size_is_as_close_as_whole_groups_allow(sizes: list[int], wanted: int) -> None:
    texts = [variant for text, size in zip(QUESTIONS, sizes, strict=False) for variant in _variants(text, size)]
    examples = [chat(text, f"answer {row}", row=row) for row, text in enumerate(texts, start=1)]
    wanted = min(wanted, len(examples) - 1)
    possible = {0}
    for size in sizes:
        possible |= {total + size for total in possible}
    best = min(abs(total - wanted) for total in possible if 0 < total < len(examples))
    split = split_examples(examples, held_out=wanted)
    assert abs(len(split.held_out) - wanted) == best


def test_a_share_and_a_number_of_rows_are_the_same_wish() -> None:
    examples = [chat(text, f"answer {row}", row=row) for row, text in enumerate(QUESTIONS, start=1)]
    by_share, by_number = split_examples(examples, held_out=0.25), split_examples(examples, held_out=5)
    assert by_share == by_number
    assert (len(by_share.train), len(by_share.held_out)) == (15, 5)
    assert len(split_examples(examples, held_out=0.001).held_out) == 1
    assert len(split_examples(examples, held_out=0.999).held_out) == 19


def test_the_seed_selects_and_answers_do_not() -> None:
    examples = [chat(text, f"answer {row}", row=row) for row, text in enumerate(QUESTIONS, start=1)]
    selections = {tuple(_ids(split_examples(examples, held_out=5, seed=seed).held_out)) for seed in range(20)}
    assert len(selections) > 15
    rewritten = [chat(text, f"better {row}", row=row) for row, text in enumerate(QUESTIONS, start=1)]
    for seed in range(3):
        one, other = (split_examples(some, held_out=5, seed=seed) for some in (examples, rewritten))
        assert _ids(one.held_out) == _ids(other.held_out)


def test_the_selection_is_pinned() -> None:
    """Another selection under the same seed would make figures of two releases incomparable."""
    examples = [chat(text, f"answer {row}", row=row) for row, text in enumerate(QUESTIONS, start=1)]
    assert [example.row for example in split_examples(examples, held_out=4, seed=7).held_out] == PINNED


PINNED = [17, 1, 16, 8]


def test_rows_are_selected_fairly() -> None:
    examples = [chat(text, f"answer {row}", row=row) for row, text in enumerate(QUESTIONS, start=1)]
    counts = Counter(
        row for seed in range(400) for row in _ids(split_examples(examples, held_out=5, seed=seed).held_out)
    )
    # 400 draws of 5 from 20: each row 100 times, with a standard deviation of 8.7.
    assert all(60 < counts[row] < 140 for row in range(1, 21))


def _labelled(counts: dict[str, int]) -> list[Example]:
    words = [f"{a} {b}" for a in SUBJECTS for b in SUBJECTS if a != b]
    labels = [label for label, count in counts.items() for _ in range(count)]
    return [
        chat(f"Question of {text}", label, row=row)
        for row, (text, label) in enumerate(zip(words, labels, strict=False))
    ]


def test_labels_keep_their_share() -> None:
    examples = _labelled({"spam": 10, "ham": 60, "eggs": 20})
    split = split_examples(examples, held_out=0.2)
    assert split.stratified
    assert Counter(example.answer for example in split.held_out) == {"spam": 2, "ham": 12, "eggs": 4}
    assert len(split.held_out) == 18


def test_a_rare_label_keeps_rows_to_train_on() -> None:
    examples = _labelled({"spam": 2, "ham": 30, "eggs": 1, "bacon": 30})
    for seed in range(30):
        split = split_examples(examples, held_out=0.5, seed=seed)
        assert split.stratified
        assert {example.answer for example in split.train} == {"spam", "ham", "eggs", "bacon"}
        assert abs(len(split.held_out) - 32) <= 1


@pytest.mark.parametrize(
    ("counts", "stratified"),
    [
        ({"yes": 30, "no": 30}, True),
        ({"yes": 60}, False),
        ({f"label {n}": 3 for n in range(20)}, True),
        ({f"label {n}": 2 for n in range(30)}, False),
        ({f"label {n}": 1 for n in range(60)}, False),
    ],
)
def test_what_counts_as_labels(counts: dict[str, int], stratified: bool) -> None:
    assert split_examples(_labelled(counts), held_out=10).stratified is stratified


@pytest.mark.parametrize("held_out", [0.0, 1.0, -0.5, 1.5, float("nan"), 0, -1, 20, 21, True])
def test_a_side_that_would_be_empty_is_refused(held_out: float) -> None:
    examples = [chat(text, row=row) for row, text in enumerate(QUESTIONS)]
    with pytest.raises(DataError, match="leave") as caught:
        split_examples(examples, held_out=held_out)
    assert "from 1 to 19" in str(caught.value.remedy)


@pytest.mark.parametrize("examples", [[], [chat("q")]])
def test_too_few_rows_are_refused(examples: list[Example]) -> None:
    with pytest.raises(DataError, match="cannot be split"):
        split_examples(examples, held_out=0.2)


def test_rows_that_are_all_alike_are_refused() -> None:
    examples = [chat(text, row=row) for row, text in enumerate(_variants(QUESTIONS[0], 6))]
    with pytest.raises(DataError, match="all 6 prompts are equal or nearly equal"):
        split_examples(examples, held_out=0.2)


def test_prompt_key_is_of_the_whole_prompt() -> None:
    assert prompt_key(chat("Hello there")) == prompt_key(chat("hello,  THERE!", "another answer"))
    different = [
        chat("Hello there"),
        chat("Hello where"),
        chat("Hello there", system="Be kind."),
        Example((Message("system", "Hello there"), Message("assistant", "a"))),
        Example((Message("user", "Hello"), Message("user", "there"), Message("assistant", "a"))),
    ]
    assert all(prompt_key(one) != prompt_key(other) for one, other in combinations(different, 2))


def test_near_copies_name_the_nearest_training_row() -> None:
    train = [chat(text) for text in QUESTIONS]
    held_out = [
        chat("An unseen question about umbrellas"),
        chat(QUESTIONS[7].upper()),
        chat(QUESTIONS[3].replace("Please", "Plaese")),
    ]
    found = near_copies(train, held_out)
    assert [(one, other) for one, other, _ in found] == [(7, 1), (3, 2)]
    assert found[0][2] == 1
    assert 0.9 < found[1][2] < 1
    assert near_copies(train, []) == near_copies([], held_out) == []


def test_ready_tasks_split_without_a_leak(shared_folder: Path) -> None:
    for task in sorted((shared_folder / "tasks").glob("*/train.jsonl")):
        examples = load_examples(str(task)).examples
        split = split_examples(examples, held_out=0.2, seed=1)
        assert len(split.held_out) == round(0.2 * len(examples))
        assert near_copies(split.train, split.held_out) == []
        assert split.stratified is (task.parent.name in ("banking77-10", "sms-spam"))


def test_repeated_inputs_of_e2e_stay_together(shared_folder: Path) -> None:
    path = shared_folder / "data" / "e2e_nlg" / "testset_w_refs.csv"
    data = load_examples(str(path), mapping={"prompt": "mr", "completion": "ref"})
    split = split_examples(data.examples, held_out=500)
    assert split.groups == 630
    assert len(split.held_out) == 500
    assert not {e.prompt for e in split.train} & {e.prompt for e in split.held_out}
    groups = near_graph(comparison_texts(data.examples)).groups()
    assert isinstance(split, Split)
    assert len(groups) == split.groups
