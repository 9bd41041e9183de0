"""Held-out pairs: accuracy, slices of length and calibration worked by hand, and the verdict that follows."""

from __future__ import annotations

import math
from typing import Any

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
