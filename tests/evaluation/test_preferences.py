"""Held-out pairs: accuracy, slices of length and calibration worked by hand, and the verdict that follows."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from hone.evaluation.outcome import Evaluation
from hone.evaluation.preferences import ArmMargins, JudgedPair, compare_preferences
from hone.evaluation.shape import TaskShape
from hone.evaluation.verdict import decide
from hone.types import ArmName, JsonDict

SHAPE = TaskShape("text", (), "free text")


def compared(
    base: list[float], tuned: list[float], lengths: list[tuple[int, int]] | None = None, **changes: Any
) -> tuple[Evaluation, JsonDict]:
    lengths = lengths or [(10, 10)] * len(base)
    pairs = [JudgedPair(row, row, better, worse) for row, (better, worse) in enumerate(lengths)]
    names: list[tuple[ArmName, list[float]]] = [("base", base), ("tuned", tuned)]
    arms = [ArmMargins(name, margins, "log-odds", is_log_odds=True, **changes) for name, margins in names]
    texts = dict.fromkeys(range(len(pairs)), "words")
    evaluation, further = compare_preferences(pairs, arms, shape=SHAPE, prompts=texts, references=texts)
    return evaluation, further["preferences"]


def test_a_tie_counts_half() -> None:
    evaluation, _ = compared([1.0, -1.0, 0.0, 0.0], [2.0, 3.0, 0.1, 0.0])
    assert evaluation.arms["base"].score == 50.0
    assert evaluation.arms["tuned"].score == 87.5


def test_pairs_are_told_apart_by_length() -> None:
    """A fifth of the longer answer is the bound: 8 and 10 tokens are alike, 7 and 10 are not."""
    lengths = [(10, 8), (8, 10), (10, 7), (30, 10), (7, 10)]
    _, further = compared([1.0] * 5, [1.0, -1.0, 1.0, 1.0, -1.0], lengths)
    found = {name: (one["pairs"], one["arms"]["tuned"]["score"]) for name, one in further["slices"].items()}
    assert found == {"length_matched": (2, 50.0), "better_is_longer": (2, 100.0), "better_is_shorter": (1, 0.0)}
    assert further["longer_is_better"] == pytest.approx(60.0)


def test_calibration_by_hand() -> None:
    """Three pairs at a certainty of 0.73, of which two are right, and one at 0.88 that is right."""
    _, further = compared([0.0] * 4, [1.0, 1.0, -1.0, 2.0])
    one, two = (1 / (1 + math.exp(-margin)) for margin in (1.0, 2.0))
    found = further["calibration"]["tuned"]
    assert found["expected_calibration_error"] == pytest.approx(0.75 * abs(one - 2 / 3) + 0.25 * abs(two - 1), abs=1e-6)
    assert [(one["pairs"], one["right"]) for one in found["bins"]] == [(3, pytest.approx(2 / 3, abs=1e-6)), (1, 1.0)]


@pytest.mark.parametrize("ended", [0, 9, 24])
def test_pairs_are_judged_whether_or_not_the_answers_that_are_shown_end(ended: int) -> None:
    """Base and tuned model end equally many: what is measured are given answers, and the warning tells of the rest."""
    stopped = {row: row < ended for row in range(24)}
    evaluation, _ = compared([1.0, -1.0] * 60, [1.0] * 120, stopped=stopped, texts=dict.fromkeys(range(24), "words"))
    verdict = decide(evaluation)
    assert verdict.decision == "ship"
    assert any("token limit" in warning for warning in verdict.warnings) == (ended < 24)


def judged(liked: list[bool], tuned: list[float]) -> tuple[Evaluation, JsonDict]:
    answers = [JudgedPair(row, row, 0, 0, one) for row, one in enumerate(liked)]
    texts = dict.fromkeys(range(len(answers)), "words")
    evaluation, further = compare_preferences(
        answers, [ArmMargins("base", [0.0] * len(liked), "same"), ArmMargins("tuned", tuned, "worth")],
        shape=SHAPE, prompts=texts, references=texts,
    )  # fmt: skip
    return evaluation, further["preferences"]


def test_judged_answers_are_the_area_under_the_curve_whatever_the_share_of_liked_ones() -> None:
    """Nine of ten are liked: a perfect model reaches 100, one that cannot tell 50; a wrong pair costs its share."""
    liked = [True] * 18 + [False] * 2
    evaluation, further = judged(liked, [float(place) for place in range(20, 0, -1)])
    assert (evaluation.arms["base"].score, evaluation.arms["tuned"].score) == (50.0, 100.0)
    assert further["slices"]["length_matched"]["pairs"] == 0
    values = [float(place) for place in range(20, 0, -1)]
    values[17], values[18] = values[18], values[17]
    assert judged(liked, values)[0].arms["tuned"].score == pytest.approx(100 * (1 - 1 / 36))


def test_judged_answers_of_one_kind_alone_tell_nothing() -> None:
    assert judged([True] * 12, [float(place) for place in range(12)])[0].arms["tuned"].score == 50.0


def test_the_interval_of_judged_answers_is_as_wide_as_delong_has_it() -> None:
    generator = np.random.default_rng(0)
    liked = [place < 240 for place in range(300)]
    values = [float(generator.normal(0.8 if one else 0.0)) for one in liked]
    arm = judged(liked, values)[0].arms["tuned"]
    good, bad = np.array(values[:240]), np.array(values[240:])
    wins = (good[:, None] > bad[None, :]).astype(float)
    area = wins.mean()
    error = math.sqrt(wins.mean(axis=1).var(ddof=1) / 240 + wins.mean(axis=0).var(ddof=1) / 60)
    assert arm.score == pytest.approx(100 * area)
    assert arm.interval is not None
    low, high = arm.interval
    assert (high - low) / 100 == pytest.approx(2 * 1.96 * error, rel=0.1)
