"""What likelihoods and labels say: by numbers worked out here, and on planted errors."""

from __future__ import annotations

import random

from hone.data.audit.labels import suspect_labels
from hone.data.audit.learned import loss_outliers, mismatched_pairs, other_prompts


def test_other_prompts_are_different_rows_never_its_own() -> None:
    chosen = other_prompts(5, 3)
    assert all(len(set(others)) == 3 and row not in others for row, others in enumerate(chosen))
    assert all(0 <= other < 5 for others in chosen for other in others)
    assert chosen == other_prompts(5, 3)
    assert other_prompts(2, 4) == [[1], [0]]


def test_a_pair_is_mismatched_where_its_prompt_does_not_help() -> None:
    own = [10.0, 12.0, 50.0, 11.0, 10.0, 10.0]
    others = [[40.0, 44.0], [30.0, 50.0], [48.0, 51.0], [41.0, 39.0], [40.0, 40.0], [38.0, 38.0]]
    # gains: 32, 28, -0.5, 29, 30, 28; a quarter of the median of 28.5 is about 7
    assert mismatched_pairs(own, others) == [(2, -0.5)]
    # one other prompt that is better by chance does not make a pair mismatched
    assert mismatched_pairs(own, [[9.0, 75.0], *others[1:]]) == [(2, -0.5)]
    # where it holds of most rows, the base sees no connection
    assert mismatched_pairs(own, [[one - 1, one + 1] for one in own]) == []


def test_outliers_are_six_deviations_away() -> None:
    # median 2.0, median deviation 0.1, so the bound is 2 + 6 * 1.4826 * 0.1 = 2.89
    values = [1.8, 1.9, 1.9, 2.0, 2.0, 2.1, 2.1, 2.8, 2.9]
    assert loss_outliers(values) == [8]
    assert loss_outliers([1.0, 1.0, 1.0, 9.0]) == []


def test_planted_wrong_labels_are_found() -> None:
    rng = random.Random(0)
    words = {"card": ["card", "pin", "chip", "atm", "swipe"], "loan": ["loan", "rate", "debt", "term", "mortgage"]}
    texts, labels = [], []
    for number in range(200):
        label = ("card", "loan")[number % 2]
        texts.append(
            " ".join([*rng.choices(words[label], k=3), *rng.choices(["my", "the", "is", "please"], k=4), str(number)])
        )
        labels.append(label)
    planted = rng.sample(range(200), 20)
    for index in planted:
        labels[index] = "loan" if labels[index] == "card" else "card"
    found = {suspect.index for suspect in suspect_labels(texts, labels)}
    assert len(found & set(planted)) >= 18
    assert len(found - set(planted)) <= 2
    assert suspect_labels(texts, ["one"] * 200) == []
