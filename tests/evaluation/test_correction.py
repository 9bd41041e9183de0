"""Holm's correction by hand, and what it is for: several equal arms are seldom called different."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import pytest
from scipy import stats

from hone.evaluation.correction import corrected, holm
from hone.evaluation.statistics import Comparison, PairedBootstrap
from hone.evaluation.sums import FloatArray, mean_aggregate

SIMULATIONS = 1000


def test_holm_by_hand() -> None:
    # sorted: 0.005 x 4, 0.01 x 3, 0.03 x 2, 0.04 x 1, never falling
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.6]) == [1.0, 1.0]
    assert holm([0.02]) == [0.02]
    assert holm([]) == []


def comparison(p_value: float | None, low: float = 1.0) -> Comparison:
    interval = None if p_value is None else (low, 9.0)
    return Comparison(5.0, interval, p_value, 0.95, 5, 1, 4, p_value is not None and p_value < 0.05, 80)


def test_only_what_outlives_the_correction_is_different() -> None:
    given = [comparison(0.001), comparison(0.03), comparison(0.004, -1.0), comparison(None)]
    first, second, third, none = corrected(given)
    assert (first.different, first.p_adjusted, first.rows_needed) == (True, pytest.approx(0.003), None)
    assert (second.different, second.p_adjusted) == (True, pytest.approx(0.03))  # the last of three: once
    assert (third.different, third.p_adjusted) == (False, pytest.approx(0.008))  # its interval holds 0
    assert none == comparison(None)


def test_a_pair_that_the_correction_undecides_keeps_its_rows() -> None:
    judged = corrected([comparison(0.03), comparison(0.04), comparison(0.2)])
    assert [one.different for one in judged] == [False, False, False]
    assert [one.rows_needed for one in judged] == [80, 80, 80]


def arms_of(random: np.random.Generator, rows: int, means: Sequence[float]) -> list[FloatArray]:
    """Scores that share each row's difficulty, as answers to the same question do."""
    difficulty = random.normal(size=rows)
    return [
        np.stack(
            [100.0 * (difficulty + random.normal(size=rows) < stats.norm.ppf(mean) * np.sqrt(2)), np.ones(rows)], 1
        )
        for mean in means
    ]


def judged(seed: int, arms: list[FloatArray]) -> list[Comparison]:
    bootstrap = PairedBootstrap(len(arms[0]), seed=seed, resamples=300, permutations=300)
    pairs = list(itertools.combinations(arms, 2))
    return corrected([bootstrap.compare(a, b, mean_aggregate, comparisons=len(pairs)) for a, b in pairs])


def test_of_three_equal_arms_some_are_called_different_in_at_most_5_percent() -> None:
    random = np.random.default_rng(0)
    found = sum(
        any(one.different for one in judged(seed, arms_of(random, 40, [0.5] * 3))) for seed in range(SIMULATIONS)
    )
    assert found / SIMULATIONS <= 0.05


def test_a_planted_difference_is_found_among_four_arms() -> None:
    """60 rows, one arm at 90 % and three at 50 %: each of its three pairs is found in at least 90 of 100."""
    random = np.random.default_rng(1)
    wins = np.zeros(3)
    for seed in range(100):
        wins += [one.different for one in judged(seed, arms_of(random, 60, [0.9, 0.5, 0.5, 0.5]))[:3]]
    assert (wins >= 90).all(), wins


def test_the_rows_asked_for_are_more_where_more_is_compared() -> None:
    random = np.random.default_rng(2)
    one, other = arms_of(random, 40, [0.62, 0.5])
    bootstrap = PairedBootstrap(40, seed=0)
    alone, among = (bootstrap.compare(one, other, mean_aggregate, comparisons=count).rows_needed for count in (1, 10))
    assert alone is not None
    assert among is not None
    assert among > alone
