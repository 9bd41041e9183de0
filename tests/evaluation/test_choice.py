"""The decision among arms on constructed cases, each of which has one right answer."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from hone.evaluation import ArmResult, Evaluation, TaskShape, decide, evaluate_arms
from hone.evaluation.choice import choose_arm, is_better, is_not_worse, margin

LABELS = TaskShape("labels", ("ham", "spam"), "for a test")
OTHER = {"ham": "spam", "spam": "ham"}


def right(rows: int, share: float, seed: int) -> list[bool]:
    return (np.random.default_rng(seed).permutation(rows) < round(share * rows)).tolist()


def evaluated(rows: int = 200, tokens: dict[str, int] | None = None, **arms: Any) -> Evaluation:
    """A task of two labels; each arm has the share of right answers given, or answers right and wrong by row."""
    references = ["ham" if row % 2 else "spam" for row in range(rows)]
    results = []
    for seed, (name, share) in enumerate(arms.items()):
        good = right(rows, share, seed) if isinstance(share, float) else share
        answers = [r if one else OTHER[r] for r, one in zip(references, good, strict=True)]
        read = [(tokens or {}).get(name, 50)] * rows
        results.append(ArmResult(name, answers, [True] * rows, [5] * rows, 1.0, prompt_tokens=read))
    return evaluate_arms(LABELS, references, references, results)


def decision(evaluation: Evaluation) -> str:
    return decide(evaluation).decision


def test_tuned_is_shipped_where_it_is_better_than_all_others() -> None:
    found = evaluated(base=0.3, prompted=0.4, few_shot=0.6, tuned=0.95)
    verdict = decide(found)
    assert verdict.decision == "ship"
    assert verdict.numbers["arm"] == "tuned"
    assert verdict.numbers["scores"] == {"base": 30.0, "prompted": 40.0, "few_shot": 60.0, "tuned": 95.0}
    assert "the base with examples in its prompt 60.0" in verdict.reason


@pytest.mark.parametrize("arm", ["prompted", "few_shot"])
def test_prompting_is_enough_where_it_is_not_worse_and_costs_no_more(arm: str) -> None:
    same = right(200, 0.9, 7)
    verdict = decide(evaluated(base=0.3, tuned=same, **{arm: same}))
    assert (verdict.decision, verdict.numbers["arm"], verdict.exit_code) == ("prompting_is_enough", arm, 0)
    assert "is not worse than the tuned model" in verdict.reason


def test_of_two_that_are_alike_the_cheaper_one_wins() -> None:
    """Examples in the prompt make every answer dear: then the tuned model is the cheaper one, and is shipped."""
    same = right(200, 0.9, 7)
    assert decision(evaluated(tokens={"few_shot": 90}, base=0.3, tuned=same, few_shot=same)) == "ship"
    assert decision(evaluated(tokens={"few_shot": 70}, base=0.3, tuned=same, few_shot=same)) == "prompting_is_enough"


def test_prompting_that_is_better_wins_at_any_price() -> None:
    verdict = decide(evaluated(tokens={"few_shot": 900}, base=0.3, few_shot=0.95, tuned=0.6))
    assert verdict.decision == "prompting_is_enough"
    assert "is better than the tuned model" in verdict.reason
    assert "times as many tokens" in verdict.reason


def test_a_base_that_does_the_task_already_needs_no_training() -> None:
    same = right(200, 0.95, 7)
    verdict = decide(evaluated(base=same, tuned=same))
    assert (verdict.decision, verdict.numbers["arm"]) == ("prompting_is_enough", "base")


def test_training_that_brought_nothing_is_not_shipped() -> None:
    """As with shuffled labels: no arm does the task, and the tuned one is no better."""
    same = right(200, 0.3, 7)
    verdict = decide(evaluated(base=same, tuned=same))
    assert (verdict.decision, verdict.exit_code) == ("do_not_ship", 3)
    assert "is no better" in verdict.reason


def test_worse_than_the_base_is_not_shipped() -> None:
    verdict = decide(evaluated(base=0.6, tuned=0.2))
    assert (verdict.decision, verdict.exit_code) == ("do_not_ship", 3)
    assert "the tuned model is worse" in verdict.reason


def test_retrieval_is_enough_where_tuning_adds_nothing() -> None:
    same = right(200, 0.9, 7)
    verdict = decide(evaluated(base=0.05, retrieval=same, tuned=0.1, tuned_retrieval=same))
    assert (verdict.decision, verdict.numbers["arm"]) == ("retrieval_is_enough", "retrieval")


def test_both_together_are_shipped_where_both_are_needed() -> None:
    verdict = decide(evaluated(base=0.05, retrieval=0.4, tuned=0.45, tuned_retrieval=0.9))
    assert (verdict.decision, verdict.numbers["arm"]) == ("ship_with_retrieval", "tuned_retrieval")


def test_better_than_the_base_but_undecided_beside_prompting_is_not_enough_evidence() -> None:
    verdict = decide(evaluated(rows=40, base=0.1, prompted=0.65, tuned=0.8))
    assert verdict.decision == "not_enough_evidence"
    assert "the tuned model or the base with an instruction" in verdict.reason
    assert "more held-out rows would decide it" in verdict.reason


def test_another_version_is_compared_and_decides_nothing() -> None:
    found = evaluated(base=0.3, tuned=0.9, **{"support@2": 0.99})
    assert decision(found) == "ship"
    assert found.difference("tuned", "support@2") is not None


def test_the_margin_grows_with_the_gain() -> None:
    assert margin(evaluated(base=0.5, tuned=0.6)) == 5.0
    assert margin(evaluated(base=0.1, tuned=0.9)) == pytest.approx(8.0)


def test_not_worse_asks_for_the_bad_end_of_the_interval() -> None:
    same = right(200, 0.6, 7)
    found = evaluated(base=same, tuned=same)
    assert is_not_worse(found, "base", "tuned")
    assert is_not_worse(found, "tuned", "base")
    wide = evaluated(rows=20, base=0.6, tuned=0.6)
    assert not is_not_worse(wide, "base", "tuned")
    clear = evaluated(base=0.3, tuned=0.9)
    assert is_better(clear, "tuned", "base")
    assert is_not_worse(clear, "tuned", "base")
    assert not is_not_worse(clear, "base", "tuned")
    assert choose_arm(wide).arm is None


def test_equal_arms_are_seldom_shipped() -> None:
    """Four arms that are all right in half of 60 rows: to ship the tuned one would be luck."""
    random = np.random.default_rng(0)
    shipped = 0
    for _ in range(30):
        arms = {name: (random.random(60) < 0.5).tolist() for name in ("base", "prompted", "few_shot", "tuned")}
        shipped += decision(evaluated(rows=60, **arms)) == "ship"
    assert shipped <= 2  # 5 % of 30 is 1.5


def test_an_arm_that_seldom_ends_is_not_called_no_better() -> None:
    evaluation = evaluated(base=0.5, tuned=right(200, 0.5, 0), tuned_retrieval=0.95)
    object.__setattr__(evaluation.arms["tuned_retrieval"], "stop_share", 0.2)
    reason = decide(evaluation).reason
    assert "is no better" not in reason
    assert "scores better, and ends its answers too seldom (20% of them; the base 100%)" in reason
