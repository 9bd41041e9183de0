"""Held-out rewards: means, intervals, differences, and what stands beside them."""

from __future__ import annotations

import json

import pytest

from hone.evaluation.arms import ArmResult
from hone.evaluation.rewards import GradedArm, GradedRows, compare_rewards
from hone.evaluation.shape import TaskShape
from hone.evaluation.verdict import decide

ROWS = 24
SHAPE = TaskShape("short", (), "made")


def arm(name: str, rewards: list[float], text: str, watched: list[float] | None = None) -> GradedArm:
    count = len(rewards)
    result = ArmResult(name, [f"{text} {number % 5}" for number in range(count)], [True] * count, [3] * count, 1.0)
    return GradedArm(result, rewards, watched, [0.25] * count)


def rows(reference: str = "") -> GradedRows:
    numbers = list(range(1, ROWS + 1))
    return GradedRows(numbers, [f"asked {n}" for n in numbers], [reference] * ROWS, numbers)


def test_the_mean_reward_decides() -> None:
    base = arm("base", [0.2 + 0.01 * (n % 3) for n in range(ROWS)], "no", [0.9] * ROWS)
    tuned = arm(
        "tuned", [0.7 - 0.02 * (n % 4) for n in range(ROWS)], "yes", [0.4 + 0.01 * (n % 2) for n in range(ROWS)]
    )
    evaluation, further = compare_rewards(rows(), [base, tuned], shape=SHAPE)
    assert evaluation.arms["base"].score == pytest.approx(0.21)
    assert evaluation.arms["tuned"].score == pytest.approx(0.67)
    low, high = evaluation.differences[0].comparison.interval or (0.0, 0.0)
    assert low < 0.46 < high
    assert low > 0.4
    verdict = decide(evaluation)
    assert verdict.decision == "ship"
    assert "0.670" in verdict.reason
    assert any("Watched reward is worse" in warning for warning in verdict.warnings), "the reward was gamed"
    assert further["rewards"]["tuned"] == {"length": 3.0, "repetition": 0.25}
    json.dumps(evaluation.to_json(), allow_nan=False)


def test_the_usual_metrics_stand_beside_where_rows_have_answers() -> None:
    arms = [arm("base", [0.0] * ROWS, "no"), arm("tuned", [1.0] * ROWS, "yes")]
    evaluation, _ = compare_rewards(rows("yes 1"), arms, shape=SHAPE)
    assert {one.metric for one in evaluation.other_differences} == {"token_f1", "exact_match", "chrf"}
    assert evaluation.arms["tuned"].metrics["token_f1"] is not None
    assert [metric.name for metric in compare_rewards(rows(), arms, shape=SHAPE)[0].metrics] == ["reward"]


def test_equal_answers_are_no_evidence() -> None:
    same = [0.5 + 0.01 * (n % 3) for n in range(ROWS)]
    evaluation, _ = compare_rewards(rows(), [arm("base", same, "no"), arm("tuned", same, "no")], shape=SHAPE)
    assert evaluation.differences[0].comparison.interval == (0.0, 0.0)
    assert decide(evaluation).decision != "ship"
