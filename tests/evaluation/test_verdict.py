"""The verdict on constructed cases: it follows the intervals, and says what it does not know."""

from __future__ import annotations

import json
import re
from typing import Any

import numpy as np
import pytest

from hone.evaluation import ArmResult, Evaluation, TaskShape, Verdict, decide, evaluate_arms

LABELS = TaskShape("labels", ("ham", "spam"), "for a test")
TEXT = TaskShape("text", (), "for a test")


def right_or_wrong(base: list[bool], tuned: list[bool], **tuned_changes: Any) -> Evaluation:
    """A spam task with the given right and wrong answers; both labels equally frequent."""
    references = ["ham" if row % 2 else "spam" for row in range(len(base))]
    other = {"ham": "spam", "spam": "ham"}

    def arm(name: Any, right: list[bool], **changes: Any) -> ArmResult:
        answers = [r if good else other[r] for r, good in zip(references, right, strict=True)]
        given = {"predictions": answers, "stopped": [True] * len(right), "output_tokens": [1] * len(right)} | changes
        return ArmResult(name, **given)

    arms = [arm("base", base), arm("tuned", tuned, **tuned_changes)]
    return evaluate_arms(LABELS, references, references, arms)


def half(rows: int, share: float, seed: int = 0) -> list[bool]:
    return (np.random.default_rng(seed).permutation(rows) < share * rows).tolist()


def test_better_is_ship() -> None:
    verdict = decide(right_or_wrong(half(60, 0.5), [True] * 60))
    assert verdict.decision == "ship"
    assert verdict.exit_code == 0
    assert "100.0 against the base's 50.0" in verdict.reason
    assert "60 held-out rows" in verdict.reason
    assert "+50.0" in verdict.reason
    assert "p < 0.001" in verdict.reason


def test_worse_is_do_not_ship() -> None:
    verdict = decide(right_or_wrong(half(60, 0.5), half(60, 0.1)))
    assert (verdict.decision, verdict.exit_code) == ("do_not_ship", 3)
    assert "worse" in verdict.reason


def test_worse_than_a_base_that_does_the_task_is_prompting_is_enough_and_not_to_be_shipped() -> None:
    verdict = decide(right_or_wrong([True] * 60, half(60, 0.5)))
    assert (verdict.decision, verdict.exit_code) == ("prompting_is_enough", 3)
    assert "the base does the task as it is, and the tuned model is worse" in verdict.reason
    assert verdict.numbers["arm"] == "base"


def test_too_few_rows_is_not_enough_evidence_and_says_how_many_more() -> None:
    base, tuned = [True] * 6 + [False] * 6, [True] * 8 + [False] * 4
    tuned[0] = False
    verdict = decide(right_or_wrong(base, tuned))
    assert (verdict.decision, verdict.exit_code) == ("not_enough_evidence", 0)
    more = re.search(r"about (\d+) more held-out rows would decide it", verdict.reason)
    assert more is not None
    assert int(more[1]) + 12 == verdict.numbers["rows_needed"]
    assert any("few" in warning for warning in verdict.warnings)


def test_no_effect_asks_for_no_number_of_rows() -> None:
    verdict = decide(right_or_wrong(half(60, 0.5, 1), half(60, 0.5, 2)))
    assert verdict.decision == "not_enough_evidence"
    assert verdict.numbers["rows_needed"] is None
    assert "a difference this small would take more than" in verdict.reason


def test_four_wins_alone_do_not_ship() -> None:
    verdict = decide(right_or_wrong([False] * 4 + [True] * 56, [True] * 60))
    assert verdict.numbers["interval"][0] > 0
    assert verdict.decision == "not_enough_evidence"


@pytest.mark.parametrize(
    ("tuned_stops", "base_stops", "decision"),
    [
        (20, 60, "do_not_ship"),
        (20, 20, "not_enough_evidence"),
        (15, 18, "not_enough_evidence"),
        (31, 20, "ship"),
        (35, 60, "ship"),
        (60, 60, "ship"),
    ],
)
def test_a_model_that_does_not_stop_is_not_shipped(tuned_stops: int, base_stops: int, decision: str) -> None:
    evaluation = right_or_wrong(half(60, 0.5), [True] * 60, stopped=[True] * tuned_stops + [False] * (60 - tuned_stops))
    base = evaluation.arms["base"]
    object.__setattr__(base, "stop_share", base_stops / 60)
    verdict = decide(evaluation)
    assert verdict.decision == decision
    assert any("token limit" in warning for warning in verdict.warnings) == (tuned_stops < 54)


def test_lower_is_better_is_understood() -> None:
    rows = ["some words to be predicted"] * 30

    def judged(tuned_bits: float) -> Verdict:
        random = np.random.default_rng(0)
        arms = [
            ArmResult(name, rows, [True] * 30, [5] * 30, 1.0, (bits + random.random(30)).tolist(), [26] * 30)
            for name, bits in (("base", 50.0), ("tuned", tuned_bits))
        ]
        return decide(evaluate_arms(TEXT, rows, rows, arms, metric="bits_per_byte"))

    assert judged(20.0).decision == "ship"
    assert judged(80.0).decision == "do_not_ship"
    assert re.search(r"Bits per byte \d\.\d{3} against", judged(20.0).reason)


def test_one_and_the_same_answer_is_pointed_out() -> None:
    verdict = decide(right_or_wrong(half(60, 0.3), half(60, 0.5), predictions=["ham"] * 60))
    assert any("one and the same answer to 100% of the rows" in warning for warning in verdict.warnings)
    assert not decide(right_or_wrong(half(60, 0.5), [True] * 60)).warnings


@pytest.mark.parametrize(("other", "decision"), [(10, "do_not_ship"), (5, "do_not_ship"), (4, "not_enough_evidence")])
def test_one_answer_to_every_question_is_no_task_learnt(other: int, decision: str) -> None:
    """The base answers in sentences, so that the most frequent label alone is better than it."""
    references = ["ham"] * (30 - other) + ["spam"] * other
    arms = [
        ArmResult(name, [answer] * 30, [True] * 30, [1] * 30)
        for name, answer in (("base", "I think that it is ham."), ("tuned", "ham"))
    ]
    verdict = decide(evaluate_arms(LABELS, references, references, arms))
    assert verdict.decision == decision
    assert ("a form and not the task" in verdict.reason) == (decision == "do_not_ship")


def test_labels_that_may_be_right_by_chance_are_not_enough_evidence() -> None:
    """Better than a base that writes sentences, and not better than guessing."""
    references = ["ham", "spam"] * 15
    guesses = np.random.default_rng(0).permutation(references).tolist()
    arms = [
        ArmResult("base", ["I think that it is ham."] * 30, [True] * 30, [1] * 30),
        ArmResult("tuned", guesses, [True] * 30, [1] * 30),
    ]
    verdict = decide(evaluate_arms(LABELS, references, references, arms))
    assert verdict.decision == "not_enough_evidence"
    assert "not shown to belong to their questions" in verdict.reason


def test_a_second_metric_that_got_worse_is_pointed_out() -> None:
    references = [f"sentence number {n} of thirty" for n in range(30)]
    noise = np.random.default_rng(0).random(30)
    arms = [
        ArmResult("base", ["nothing"] * 30, [True] * 30, [5] * 30, 1.0, (20 + noise).tolist(), [20] * 30),
        ArmResult("tuned", references, [True] * 30, [5] * 30, 1.0, (40 + noise).tolist(), [20] * 30),
    ]
    verdict = decide(evaluate_arms(TEXT, references, references, arms))
    assert verdict.decision == "ship"
    assert verdict.warnings == ("Bits per byte is worse than the base's (+1.000).",)


def test_what_was_not_measured_is_said() -> None:
    verdict = decide(right_or_wrong(half(60, 0.5), [True] * 60))
    missing = {item["what"]: item["reason"] for item in verdict.not_measured}
    assert {"retention", "prompted", "few_shot", "retrieval", "bits_per_byte of tuned"} <= set(missing)
    assert "faithfulness" not in missing
    assert "not measured" in missing["retention"]
    references = ["one", "two"]
    text = evaluate_arms(TEXT, references, references, [ArmResult("base", references, [True] * 2, [1] * 2)])
    assert "faithfulness" in {item["what"] for item in decide(text).not_measured}


def test_one_arm_alone_decides_nothing() -> None:
    evaluation = evaluate_arms(TEXT, ["one"], ["?"], [ArmResult("tuned", ["one"], [True], [1])])
    verdict = decide(evaluation)
    assert (verdict.decision, verdict.exit_code) == ("not_enough_evidence", 0)


def test_one_row_decides_nothing() -> None:
    verdict = decide(right_or_wrong([False], [True]))
    assert verdict.decision == "not_enough_evidence"
    assert "no interval" in verdict.reason


def test_the_verdict_is_plain_json() -> None:
    verdict = decide(right_or_wrong(half(60, 0.5), [True] * 60)).to_json()
    assert json.loads(json.dumps(verdict, allow_nan=False)) == verdict
    assert {"decision", "reason", "numbers", "warnings", "not_measured", "exit_code"} == set(verdict)
