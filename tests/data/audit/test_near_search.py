"""The search for near copies in files of any size finds what comparing all pairs finds, within what is stated."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest

from hone.data.audit.copies import CopyFinder, HeldOut
from hone.data.audit.judge import Judged
from hone.data.audit.sketches import TokenHashes, band_keys, distances, signatures, trigrams
from hone.data.audit.spill import NumberTable, TextTable
from hone.data.faults import Fault

WORDS = [a + b + c for a in ("ba", "ke", "lo", "mir", "ta") for b in ("na", "ro", "sti", "ve") for c in ("l", "n", "p")]


def sentence(rng: random.Random, count: int) -> str:
    return " ".join(rng.choice(WORDS) if rng.random() < 0.93 else str(rng.randrange(100)) for _ in range(count))


def near_copy(text: str, rng: random.Random) -> str:
    """A text changed in one of the ways in which near copies differ, or nearly do."""
    words = text.split()
    at = rng.randrange(len(words))
    change = rng.randrange(6)
    if change == 0:
        return text.upper() + "?"
    if change == 1:
        words[at] = words[at][:1] + words[at][2:] if len(words[at]) > 4 else words[at]
    elif change == 2:
        words[at] = rng.choice(WORDS)
    elif change == 3:
        words[at] = str(rng.randrange(1000))
    elif change == 4:
        words.insert(at, rng.choice(WORDS))
    else:
        del words[at]
    return " ".join(words) or "none"


def generated(count: int, seed: int) -> list[str]:
    """Prompts under one template, of 6 to 90 words, a third of them made from others."""
    rng = random.Random(seed)
    prompts: list[str] = []
    for _ in range(count):
        if prompts and rng.random() < 0.33:
            prompts.append(near_copy(rng.choice(prompts[-200:]), rng))
        else:
            prompts.append(f"please read this and answer: {sentence(rng, rng.choice((6, 9, 14, 30, 45, 60, 90)))}")
    return prompts


def faults_of(prompts: list[str], held_out: list[HeldOut], *, most_compared: int) -> list[Fault]:
    finder = CopyFinder(most_compared=most_compared)
    try:
        for number, prompt in enumerate(prompts, start=1):
            finder.add(Judged("kept", asked=prompt, answer=f"answer {number}"), (number, number, 10 * number))
        assert finder.searched == (len(prompts) > most_compared)
        return list(finder.faults(held_out))
    finally:
        finder.close()


def twin_of(message: str) -> str:
    """The line or the place that a message names."""
    return message.replace(" in punctuation alone", "").split()[-1]


@pytest.mark.parametrize("seed", [0, 1])
def test_the_search_agrees_with_comparing_all_pairs(seed: int) -> None:
    prompts = generated(2500, seed)
    rng = random.Random(seed)
    held = [near_copy(rng.choice(prompts), rng) for _ in range(150)] + [sentence(rng, 20) for _ in range(50)]
    held_out = [
        HeldOut("eval.jsonl", "held_out_copy", held[:100], range(1, 101)),
        HeldOut("bench.jsonl", "probe_copy", held[100:], range(1, 101)),
    ]
    every = faults_of(prompts, held_out, most_compared=10**9)
    searched = faults_of(prompts, held_out, most_compared=100)
    for code, least in (("near_duplicate", 400), ("held_out_copy", 60), ("probe_copy", 30)):
        expected = {fault.row: fault.message for fault in every if fault.code == code}
        found = {fault.row: fault.message for fault in searched if fault.code == code}
        assert len(expected) > least
        # nothing is told that comparing all pairs does not tell, and of what it tells 1 in 500 at most is missed
        assert not found.keys() - expected.keys()
        assert len(expected.keys() - found.keys()) <= len(expected) / 500
        # the same twin is named; how alike they are said to be may differ, where a long prompt has a typing error
        same = sum(twin_of(found[row]) == twin_of(expected[row]) for row in found)
        assert same >= 0.99 * len(found)
    others = [
        [fault for fault in some if fault.code in ("duplicate", "conflicting_answers")] for some in (every, searched)
    ]
    assert others[0] == others[1]


def test_the_search_finds_the_same_each_time_and_in_any_order() -> None:
    prompts = generated(600, 3)
    first = faults_of(prompts, [], most_compared=10)
    assert first == faults_of(prompts, [], most_compared=10)
    near = {frozenset((prompts[f.row - 1], prompts[int(twin_of(f.message)) - 1])) for f in first
            if f.code == "near_duplicate"}  # fmt: skip
    shuffled = random.Random(0).sample(prompts, len(prompts))
    again = faults_of(shuffled, [], most_compared=10)
    flagged = {text for pair in near for text in pair}
    assert {shuffled[f.row - 1] for f in again if f.code == "near_duplicate"} <= flagged


def test_many_copies_of_one_prompt_are_all_told() -> None:
    rng = random.Random(5)
    base = sentence(rng, 60)
    prompts = [f"{base} {chr(97 + n % 26)}{chr(97 + n // 26)}" for n in range(300)]
    prompts += [sentence(rng, 12) for _ in range(400)]  # else what they share would be a template
    found = [fault for fault in faults_of(prompts, [], most_compared=10) if fault.code == "near_duplicate"]
    assert {fault.row for fault in found} == set(range(2, 301))


def test_signatures_share_as_many_values_as_the_sets_are_alike() -> None:
    rng = random.Random(1)
    some = [sentence(rng, 400).split() for _ in range(20)]
    changed = [[*tokens[:-60], *sentence(rng, 60).split()] for tokens in some]
    values, owners = trigrams([*some, *changed], TokenHashes())
    sets = [set(values[owners == index].tolist()) for index in range(40)]
    jaccards = [len(a & b) / len(a | b) for a, b in zip(sets[:20], sets[20:], strict=True)]
    signature = signatures(values, owners, 40)
    shared = (signature[:20] == signature[20:]).mean()
    assert shared == pytest.approx(np.mean(jaccards), abs=0.03)  # 1,600 values: a standard deviation of 0.011
    _, sketch = band_keys(signature)
    agreeing = 1 - distances(sketch[:20], sketch[20:]).mean() / 64
    assert agreeing == pytest.approx((1 + np.mean(jaccards)) / 2, abs=0.04)


def test_trigrams_count_repetitions_and_ends() -> None:
    values, owners = trigrams([["a", "a", "a", "a", "a"], ["a"], ["b", "a"]], TokenHashes())
    assert np.bincount(owners).tolist() == [7, 3, 4]
    # ..a .aa aaa aaa' aaa'' aa. a..: each of its own, and none of the last but a.. and .a. at the ends
    assert len(set(values[owners == 0].tolist())) == 7
    assert len(set(values[owners == 1].tolist()) & set(values[owners == 0].tolist())) == 2
    assert len(set(values[owners == 1].tolist()) & set(values[owners == 2].tolist())) == 1


def test_tables_give_back_what_was_put_in(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("hone.data.audit.spill._BUFFERED_NUMBERS", 64)
    rng = np.random.default_rng(0)
    rows = rng.integers(0, 50, (2000, 2), dtype=np.uint64)
    with NumberTable(2) as table:
        table.extend(rows[:1500])
        for row in rows[1500:].tolist():
            table.add(tuple(row))
        parts = list(table.parts())
        assert sorted(np.concatenate(parts).tolist()) == sorted(rows.tolist())
        assert all(part.tolist() == sorted(part.tolist()) for part in parts)
    texts = TextTable()
    places = [texts.add((n, n + 1, n + 2), "ü" * n + "\ud800") for n in range(50)]
    assert [texts.read(place) for place in reversed(places)] == [
        (n, n + 1, n + 2, "ü" * n + "\ud800") for n in reversed(range(50))
    ]
    texts.close()
