"""Whether answers belong to their questions: by hand, on answers that do and on answers that only look so."""

from __future__ import annotations

import random

import pytest

from hone.evaluation.arms import ArmResult, evaluate_arms
from hone.evaluation.fit import measure_fit
from hone.evaluation.scorers import METRICS
from hone.evaluation.shape import TaskShape
from hone.evaluation.statistics import PairedBootstrap
from hone.evaluation.verdict import decide

ROWS = 40
TEXT, LABELS = TaskShape("text", (), "of the test"), TaskShape("labels", ("blue", "green", "red"), "of the test")
PLACES = ["harbour", "garden", "library", "station", "bakery", "castle", "cinema", "bridge"]
FOODS = ["noodles", "pancakes", "olives", "dumplings", "sausages", "cherries", "chestnuts"]


def sentence(row: int) -> str:
    place, food = PLACES[row % len(PLACES)], FOODS[row % len(FOODS)]
    return f"In the {place} there is a friendly house that serves {food} at a fair price to number {row}."


def evaluated(shape: TaskShape, references: list[str], **answers: list[str]):  # type: ignore[no-untyped-def]
    arms = [ArmResult(name, given, [True] * len(given), None) for name, given in answers.items()]
    return evaluate_arms(shape, references, [f"question {row}" for row in range(len(references))], arms)


def moved(texts: list[str], steps: int = 3) -> list[str]:
    return [*texts[steps:], *texts[:steps]]


def test_own_and_other_references_by_hand() -> None:
    references = ["red", "red", "blue", "green"]
    fit = measure_fit(METRICS["accuracy"], LABELS, references, {"base": references}, PairedBootstrap(4))
    assert fit is not None
    arm = fit.arms["base"]
    assert arm.own == 100.0
    # every row is held against the three others: of the twelve pairs two are alike (red and red, twice)
    assert arm.others == pytest.approx(100 * 2 / 12)
    assert fit.of_references == pytest.approx(arm.distance)


def test_the_form_of_other_rows_answers_does_not_ship() -> None:
    references = [sentence(row) for row in range(ROWS)]
    base = [f"{PLACES[row % len(PLACES)]}, {FOODS[row % len(FOODS)]}" for row in range(ROWS)]
    found = evaluated(TEXT, references, base=base, tuned=moved(references))
    assert found.difference("tuned", "base").comparison.difference > 20, "overlap alone calls it far better"
    assert found.fit.against_base["tuned"].interval[1] < 0
    verdict = decide(found)
    assert (verdict.decision, verdict.exit_code) == ("do_not_ship", 3)
    assert "a form and not the task" in verdict.reason
    assert found.to_json()["fit"]["arms"]["tuned"]["own"] == pytest.approx(found.arms["tuned"].score, abs=1e-5)


def test_answers_to_their_own_questions_ship() -> None:
    references = [sentence(row) for row in range(ROWS)]
    base = [f"{PLACES[row % len(PLACES)]}, {FOODS[row % len(FOODS)]}" for row in range(ROWS)]
    found = evaluated(TEXT, references, base=base, tuned=[text.replace("friendly ", "") for text in references])
    assert decide(found).decision == "ship"
    assert found.fit.against_base["tuned"].difference > 0


def test_labels_by_chance_do_not_ship() -> None:
    draw = random.Random(6)
    references = [draw.choice(LABELS.labels) for _ in range(120)]
    guessed = [draw.choice(LABELS.labels) for _ in range(120)]
    found = evaluated(LABELS, references, base=["The answer is red."] * 120, tuned=guessed)
    assert found.arms["tuned"].score > 25
    assert decide(found).decision == "do_not_ship"
    right = [one if draw.random() < 0.7 else "red" for one in references]
    assert decide(evaluated(LABELS, references, base=["The answer is red."] * 120, tuned=right)).decision == "ship"


def test_a_form_is_not_called_so_where_it_is_all_that_is_wanted() -> None:
    references = ["Yes, gladly."] * ROWS
    found = evaluated(TEXT, references, base=["No."] * ROWS, tuned=references)
    assert found.fit.of_references == 0
    assert decide(found).decision == "ship"


@pytest.mark.parametrize("metric", ["bits_per_byte", "unknown_label"])
def test_it_is_not_told_of_other_metrics(metric: str) -> None:
    answers = {"base": ["red", "red"]}
    assert measure_fit(METRICS[metric], LABELS, ["red", "blue"], answers, PairedBootstrap(2)) is None


def test_one_row_tells_nothing() -> None:
    assert measure_fit(METRICS["accuracy"], LABELS, ["red"], {"base": ["red"]}, PairedBootstrap(1)) is None
