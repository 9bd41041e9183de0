"""Which strength is chosen from a frontier, case by case."""

from __future__ import annotations

import pytest

from hone.evaluation.keep import KEEP_BOUNDS
from hone.evaluation.strength import StrengthPoint, is_kept, pick_strength


def frontier(losses: list[float | None], kept: list[bool]) -> list[StrengthPoint]:
    strengths = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25)
    return [
        StrengthPoint(strength, loss, strength, 1.0 + strength / 10, within)
        for strength, loss, within in zip(strengths, losses, kept, strict=True)
    ]


LOSSES: list[float | None] = [3.0, 2.0, 1.5, 1.2, 1.1, 1.0]


def test_the_least_loss_up_to_full_strength() -> None:
    choice = pick_strength(frontier(LOSSES, [True] * 6), "balanced")
    assert choice.value == 1.0
    assert "all are within the bounds of --keep balanced" in choice.reason
    assert len(choice.points) == 6


def test_only_what_keeps_retention() -> None:
    choice = pick_strength(frontier(LOSSES, [True, True, True, False, False, False]), "strict")
    assert choice.value == 0.5
    assert "of those within the bounds of --keep strict" in choice.reason


def test_a_weaker_adapter_that_fits_better_is_taken() -> None:
    assert pick_strength(frontier([3.0, 2.0, 1.0, 1.0, 1.5, 2.0], [True] * 6), "balanced").value == 0.5


def test_without_validation_rows_the_largest_that_keeps() -> None:
    choice = pick_strength(frontier([None] * 6, [True, True, True, True, False, False]), "balanced")
    assert choice.value == 0.75


def test_where_none_keeps_the_least_is_taken_and_said() -> None:
    choice = pick_strength(frontier(LOSSES, [True, False, False, False, False, False]), "strict")
    assert choice.value == 0.25
    assert "no strength stays within" in choice.reason


@pytest.mark.parametrize("keep", ["strict", "balanced"])
def test_each_bound_counts(keep: str) -> None:
    bounds = KEEP_BOUNDS[keep]  # type: ignore[index]
    assert bounds is not None
    kl, text = bounds.kl_nats, 1 + bounds.text_rise

    def judged(kl_nats: float, text_bits: float) -> bool:
        return is_kept(keep, kl_nats=kl_nats, text_bits=text_bits, base_text_bits=1.0)  # type: ignore[arg-type]

    assert judged(kl * 0.99, text * 0.999)
    assert not judged(kl * 1.01, text * 0.999)
    assert not judged(kl * 0.99, text * 1.001)


def test_strict_is_stricter_and_off_takes_all() -> None:
    strict, balanced = KEEP_BOUNDS["strict"], KEEP_BOUNDS["balanced"]
    assert strict is not None
    assert balanced is not None
    for name in ("question_points", "kl_nats", "text_rise"):
        assert getattr(strict, name) < getattr(balanced, name)
    assert is_kept("off", kl_nats=99.0, text_bits=9.0, base_text_bits=1.0)
