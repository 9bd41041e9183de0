"""Which strength is chosen from a frontier, case by case."""

from __future__ import annotations

from dataclasses import replace

import pytest

from hone.evaluation.keep import KEEP_BOUNDS
from hone.evaluation.probes import ProbeItem
from hone.evaluation.retention import Likelihoods, QuestionResult, judge_questions, judge_retention
from hone.evaluation.strength import StrengthPoint, between, judged_point, pick_strength, with_questions
from hone.types import Keep


def frontier(losses: list[float | None], kept: list[bool]) -> list[StrengthPoint]:
    strengths = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25)
    return [
        StrengthPoint(strength, loss, strength, 1.0 + strength / 10, within)
        for strength, loss, within in zip(strengths, losses, kept, strict=True)
    ]


LOSSES: list[float | None] = [3.0, 2.0, 1.5, 1.2, 1.1, 1.0]


def test_full_strength_where_all_keep_and_the_loss_falls() -> None:
    choice = pick_strength(frontier(LOSSES, [True] * 6), "balanced", tolerated_rise=0.2)
    assert choice.value == 1.0
    assert "all are within the bounds of --keep balanced" in choice.reason
    assert len(choice.points) == 6


def test_only_what_keeps_retention() -> None:
    choice = pick_strength(frontier(LOSSES, [True, True, True, False, False, False]), "strict", tolerated_rise=0.2)
    assert choice.value == 0.5
    assert "the largest within the bounds of --keep strict" in choice.reason


def test_a_weaker_adapter_is_taken_where_the_loss_has_risen_too_far() -> None:
    risen = pick_strength(frontier([3.0, 2.0, 1.0, 1.19, 1.21, 2.0], [True] * 6), "balanced", tolerated_rise=0.2)
    assert risen.value == 0.75
    assert "whose validation loss is within 20% of the lowest" in risen.reason
    assert (
        pick_strength(frontier([3.0, 2.0, 1.0, 1.0, 1.5, 2.0], [True] * 6), "balanced", tolerated_rise=0.2).value
        == 0.75
    )


def test_without_validation_rows_the_largest_that_keeps() -> None:
    choice = pick_strength(frontier([None] * 6, [True, True, True, True, False, False]), "balanced", tolerated_rise=0.2)
    assert choice.value == 0.75


def test_where_none_keeps_the_least_is_taken_and_said() -> None:
    choice = pick_strength(frontier(LOSSES, [True, False, False, False, False, False]), "strict", tolerated_rise=0.2)
    assert choice.value == 0.25
    assert "no strength stays within" in choice.reason


def test_what_is_given_up_is_said() -> None:
    choice = pick_strength(frontier(LOSSES, [True, True, True, False, False, False]), "balanced", tolerated_rise=0.2)
    assert choice.gain_share == pytest.approx((3.0 - 1.5) / (3.0 - 1.1), abs=1e-6)
    assert "79% of the gain on the validation rows is left" in choice.reason
    whole = pick_strength(frontier(LOSSES, [True] * 6), "balanced", tolerated_rise=0.2)
    assert whole.gain_share == 1.0
    assert "gain" not in whole.reason


def test_no_gain_at_full_strength_has_no_share() -> None:
    assert (
        pick_strength(frontier([1.0, 1.1, 1.2, 1.3, 1.4, 1.5], [True] * 6), "balanced", tolerated_rise=0.2).gain_share
        is None
    )
    assert pick_strength(frontier([None] * 6, [True] * 6), "balanced", tolerated_rise=0.2).gain_share is None


@pytest.mark.parametrize(
    ("losses", "kept", "wanted"),
    [
        (LOSSES, [True, True, True, False, False, False], 0.625),
        (LOSSES, [True, False, False, False, False, False], 0.125),
        (LOSSES, [True] * 6, None),
        (LOSSES, [True, True, True, True, True, False], None),
        ([3.0, 2.0, 1.0, 1.3, 1.5, 2.0], [True, True, True, False, False, False], None),
        ([None] * 6, [True, True, False, False, False, False], 0.375),
    ],
)
def test_more_is_measured_where_a_bound_limits_the_choice(
    losses: list[float | None], kept: list[bool], wanted: float | None
) -> None:
    assert between(frontier(losses, kept), "balanced", tolerated_rise=0.2) == wanted


def test_steps_end_where_they_are_fine() -> None:
    points = [StrengthPoint(strength, 1.0 - strength, 0.0, 1.0, strength < 0.55) for strength in (0.0, 0.5, 0.56, 1.0)]
    assert between(points, "balanced", tolerated_rise=0.2) is None


def measured(keep: Keep, kl_nats: list[float], text_bits: list[float]) -> StrengthPoint:
    """A point from KL and bits of single answers and passages; the base needs 100 bits for 100 bytes."""
    count = len(kl_nats)
    own = Likelihoods([100.0] * count, [100.0] * count, [100] * count, kl_nats, [1] * count)
    text = Likelihoods([100.0] * count, text_bits, [100] * count)
    found = judge_retention(keep, questions=[], own_answers=own, general_text=text, brittleness=None)
    return judged_point(0.5, 1.0, found)


@pytest.mark.parametrize("keep", ["strict", "balanced"])
def test_each_bound_counts_with_its_whole_interval(keep: Keep) -> None:
    bounds = KEEP_BOUNDS[keep]
    assert bounds is not None
    kl, text = bounds.kl_nats, 100 * (1 + bounds.text_rise)
    alike = [1 + 0.01 * (place % 3) for place in range(21)]
    apart = [0.1 if place % 2 else 2.2 for place in range(21)]
    assert measured(keep, [kl * 0.9 * one for one in alike], [100.0] * 21).kept
    assert not measured(keep, [kl * 1.1 * one for one in alike], [100.0] * 21).kept
    assert measured(keep, [kl * 1.1 * one for one in apart], [100.0] * 21).kept, "the interval reaches below the bound"
    assert measured(keep, [0.0] * 21, [text - 0.5 + 0.001 * place for place in range(21)]).kept
    assert not measured(keep, [0.0] * 21, [text + 0.5 + 0.001 * place for place in range(21)]).kept


def test_a_point_has_the_figures_and_their_intervals() -> None:
    point = measured("balanced", [0.2, 0.4] * 10, [101.0, 103.0] * 10)
    assert (point.strength, point.validation_loss, point.kept) == (0.5, 1.0, True)
    assert point.kl_nats == pytest.approx(0.3)
    assert point.text_bits == pytest.approx(1.02)
    assert point.kl_nats_interval is not None
    assert point.kl_nats_interval[0] < 0.3 < point.kl_nats_interval[1]
    assert point.text_bits_rise is not None
    assert point.text_bits_rise[0] < 0.02 < point.text_bits_rise[1]


def test_strict_is_stricter_and_off_takes_all() -> None:
    strict, balanced = KEEP_BOUNDS["strict"], KEEP_BOUNDS["balanced"]
    assert strict is not None
    assert balanced is not None
    for name in ("question_points", "kl_nats", "text_rise"):
        assert getattr(strict, name) < getattr(balanced, name)
    assert measured("off", [99.0] * 5, [900.0] * 5).kept


def asked(lost: int, of: int = 200) -> QuestionResult:
    items = [ProbeItem("skill", (f"question {number}",), ("yes", "no", "so", "or"), 0) for number in range(of)]
    return judge_questions("probes", items, [True] * of, [number >= lost for number in range(of)])


@pytest.mark.parametrize(("lost", "kept"), [(0, True), (8, True), (40, False)])
def test_lost_questions_take_a_strength_out(lost: int, kept: bool) -> None:
    before = measured("balanced", [0.0] * 21, [100.0] * 21)
    after = with_questions(before, "balanced", [asked(lost)])
    assert before.question_points is None
    assert after.question_points == pytest.approx(-100 * lost / 200)
    assert after.kept is kept
    outside = replace(before, kept=False)
    assert not with_questions(outside, "balanced", [asked(0)]).kept, "what likelihoods refused stays refused"


def test_the_worst_set_of_questions_is_told() -> None:
    point = with_questions(measured("balanced", [0.0] * 21, [100.0] * 21), "balanced", [asked(0), asked(10), asked(4)])
    assert point.question_points == pytest.approx(-5.0)
