"""Parts of the rows: how they are made, a planted loss on one of them, and how often equal arms look worse on one."""

from __future__ import annotations

import numpy as np
import pytest

from hone.evaluation.arms import ArmResult, evaluate_arms
from hone.evaluation.correction import holm
from hone.evaluation.outcome import Evaluation
from hone.evaluation.shape import TaskShape
from hone.evaluation.slices import FEWEST_ROWS, Slice, slices_of
from hone.evaluation.verdict import decide
from hone.types import Example, Message

LABELS, TEXT = TaskShape("labels", ("ham", "spam"), "of the test"), TaskShape("text", (), "of the test")
SHORT, LONG = Slice("shorter questions", tuple(range(20))), Slice("longer questions", tuple(range(20, 60)))


def example(question: str, answer: str = "ham", *, system: str = "", turns: int = 1) -> Example:
    said = [Message("system", system)] if system else []
    for _ in range(turns - 1):
        said += [Message("user", "a"), Message("assistant", "b")]
    return Example((*said, Message("user", question), Message("assistant", answer)))


def compared(base: list[bool], tuned: list[bool], slices: list[Slice]) -> Evaluation:
    references = ["ham" if row % 2 else "spam" for row in range(len(base))]
    other = {"ham": "spam", "spam": "ham"}

    def arm(name: str, right: list[bool]) -> ArmResult:
        answers = [r if good else other[r] for r, good in zip(references, right, strict=True)]
        return ArmResult(name, answers, [True] * len(answers), None)

    return evaluate_arms(LABELS, references, references, [arm("base", base), arm("tuned", tuned)], slices=slices)


def test_rows_are_parted_by_what_stands_in_the_question() -> None:
    examples = [example("x" * (1 + row), system="one" if row % 2 else "", turns=1 + row // 12) for row in range(24)]
    found = {one.name: one for one in slices_of(examples, TEXT)}
    by_length, by_turns = {"shorter questions", "longer questions"}, {"one question", "several turns"}
    assert set(found) == {*by_length, *by_turns, 'system prompt "one"', "no system prompt"}
    assert found["shorter questions"].rows == tuple(range(12))
    assert found['system prompt "one"'].rows == tuple(range(1, 24, 2))
    assert all(one.decides for one in found.values())


def test_a_part_needs_rows_and_a_rest() -> None:
    few = [example("alike", turns=2 if row < FEWEST_ROWS - 1 else 1) for row in range(40)]
    assert slices_of(few, TEXT) == []
    enough = [example("alike", turns=2 if row < FEWEST_ROWS else 1) for row in range(40)]
    assert {one.name for one in slices_of(enough, TEXT)} >= {"one question", "several turns"}
    assert slices_of([], TEXT) == []


def test_right_answers_part_labels_and_decide_nothing() -> None:
    examples = [example("alike", "ham" if row % 2 else "spam") for row in range(40)]
    parts = slices_of(examples, LABELS)
    assert [(one.name, one.decides) for one in parts] == [('right answer "ham"', False), ('right answer "spam"', False)]
    assert slices_of(examples, TEXT) == []
    always_ham = [row % 2 == 1 for row in range(40)]
    tuned = [True if row % 2 == 0 else row % 4 == 1 for row in range(40)]
    found = compared(always_ham, tuned, parts)
    assert found.slices[0].is_worse("tuned", higher_is_better=True), "the base cannot be wrong there"
    assert decide(found).decision != "do_not_ship"


def test_better_over_all_and_worse_on_a_part_is_do_not_ship() -> None:
    base, tuned = [True] * 20 + [False] * 40, [False] * 12 + [True] * 8 + [True] * 40
    verdict = decide(compared(base, tuned, [SHORT, LONG]))
    assert (verdict.decision, verdict.exit_code) == ("do_not_ship", 3)
    assert "worse than the base on a part of them, shorter questions (20 rows): 40.0 against 100.0" in verdict.reason
    assert "difference -60.0" in verdict.reason
    assert decide(compared(base, tuned, [])).decision == "ship"
    assert decide(compared(base, tuned, [LONG])).decision == "ship"


def test_p_values_are_corrected_over_all_parts() -> None:
    base, tuned = [True] * 20 + [False] * 40, [False] * 6 + [True] * 14 + [True] * 40
    found = compared(base, tuned, [SHORT, LONG]).slices
    raw = [one.against_base["tuned"].p_value for one in found]
    adjusted = [one.against_base["tuned"].p_adjusted for one in found]
    assert adjusted == pytest.approx(holm([p for p in raw if p is not None]))
    assert found[0].to_json()["scores"] == {"base": 100.0, "tuned": 70.0}


def test_equal_arms_are_rarely_worse_on_any_part() -> None:
    random, alarms, repeats = np.random.default_rng(7), 0, 200
    quarters = [Slice(f"quarter {n}", tuple(range(15 * n, 15 * n + 15))) for n in range(4)]
    for _ in range(repeats):
        base, tuned = (random.random(60) < 0.6).tolist(), (random.random(60) < 0.6).tolist()
        found = compared(base, tuned, quarters)
        alarms += any(one.is_worse("tuned", higher_is_better=True) for one in found.slices)
    assert alarms / repeats <= 0.05 + 3 * (0.05 * 0.95 / repeats) ** 0.5
