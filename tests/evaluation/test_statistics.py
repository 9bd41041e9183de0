"""The statistics are held to account: error rates, coverage and power on simulated arms, exact cases by hand.

Simulated arms have 25 to 60 rows, as real held-out sets do. The bounds are the nominal rate plus what chance allows
in that many simulations (a one-sided binomial bound at 99.9 %); all seeds are fixed.
"""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy import stats

from hone.evaluation.statistics import Comparison, PairedBootstrap, rows_needed
from hone.evaluation.sums import FloatArray, mean_aggregate, mean_statistics
from hone.evaluation.text_scores import chrf_aggregate

SIMULATIONS = 300
# Fewer resamples than in a real run, so that hundreds of simulations take seconds.
FAST = {"resamples": 600, "permutations": 800}


def binary_arms(random: np.random.Generator, rows: int, base: float, tuned: float) -> tuple[FloatArray, FloatArray]:
    """Two right-or-wrong arms whose rows are correlated, as hard rows are hard for both."""
    shared = random.normal(size=(rows, 1))
    mixed = np.sqrt(0.4) * shared + np.sqrt(0.6) * random.normal(size=(rows, 2))
    right = mixed < stats.norm.ppf([tuned, base])
    return mean_statistics(right[:, 0].astype(float)), mean_statistics(right[:, 1].astype(float))


def graded_arms(random: np.random.Generator, rows: int, shift: float) -> tuple[FloatArray, FloatArray]:
    """Two arms scored like token F1: a heap at 0, a heap at 1, the rest between."""
    drawn = random.random((rows, 2))
    drawn[:, 1] = np.where(random.random(rows) < 0.5, drawn[:, 0], drawn[:, 1])

    def grade(place: FloatArray, wrong: float, right: float) -> FloatArray:
        between = random.beta(2, 2, size=rows)
        return mean_statistics(np.where(place < wrong, 0.0, np.where(place > 1 - right, 1.0, between)))

    return grade(drawn[:, 0], 0.4 - shift, 0.2 + shift), grade(drawn[:, 1], 0.4, 0.2)


def corpus_arms(random: np.random.Generator, rows: int, shift: float) -> tuple[FloatArray, FloatArray]:
    """Two arms with chrF-like counts: long rows weigh more, the base writes too much."""
    length = np.round(np.exp(random.normal(4.5, 0.6, rows))) + 10
    quality = random.beta(3, 3, rows)

    def counts(factor: float, added: float) -> FloatArray:
        written = np.maximum(8, np.round(length * factor * np.exp(random.normal(0, 0.3, rows))))
        share = np.clip(quality + added + random.normal(0, 0.1, rows), 0, 1)
        orders = [
            np.stack([written, length, np.round(np.minimum(written, length) * share**order)], axis=1)
            for order in range(1, 7)
        ]
        return np.concatenate(orders, axis=1)

    return counts(1.0, shift), counts(1.0, 0.0)


def slack(rate: float, simulations: int = SIMULATIONS) -> float:
    """The share that chance alone exceeds once in a thousand."""
    return float(stats.binom.ppf(0.999, simulations, rate)) / simulations


def judged(seed: int, arm: FloatArray, base: FloatArray, aggregate=mean_aggregate) -> Comparison:  # type: ignore[no-untyped-def]
    return PairedBootstrap(len(arm), seed=seed, **FAST).compare(arm, base, aggregate)


@pytest.mark.parametrize(("name", "rows"), [("binary", 25), ("rare", 60), ("graded", 25), ("corpus", 25)])
def test_equal_arms_are_seldom_called_different(name: str, rows: int) -> None:
    random = np.random.default_rng([1, rows, len(name)])
    called, simulations = 0, 1000
    for seed in range(simulations):
        if name == "graded":
            arm, base = graded_arms(random, rows, 0.0)
        elif name == "corpus":
            arm, base = corpus_arms(random, rows, 0.0)
        else:
            rate = 0.95 if name == "rare" else 0.6
            arm, base = binary_arms(random, rows, rate, rate)
        called += judged(seed, arm, base, chrf_aggregate if name == "corpus" else mean_aggregate).different
    assert called / simulations <= slack(0.05, simulations)


@pytest.mark.parametrize(("name", "rows"), [("binary", 25), ("binary", 60), ("graded", 25), ("corpus", 40)])
def test_intervals_cover_the_true_difference(name: str, rows: int) -> None:
    random = np.random.default_rng([2, rows, len(name)])

    def draw(count: int) -> tuple[FloatArray, FloatArray]:
        if name == "binary":
            return binary_arms(random, count, 0.6, 0.8)
        return graded_arms(random, count, 0.15) if name == "graded" else corpus_arms(random, count, 0.1)

    aggregate = chrf_aggregate if name == "corpus" else mean_aggregate
    arm, base = draw(400_000)
    truth = float(aggregate(arm.sum(axis=0)) - aggregate(base.sum(axis=0)))
    missed = 0
    for seed in range(SIMULATIONS):
        arm, base = draw(rows)
        interval = judged(seed, arm, base, aggregate).interval
        assert interval is not None
        missed += not interval[0] <= truth <= interval[1]
    # Nominal 5 %; small samples of skewed scores are allowed 7.
    assert missed / SIMULATIONS <= slack(0.07)
    # An interval that never misses is too wide to be of use.
    assert missed >= 1


@pytest.mark.parametrize("rows", [12, 25, 60])
def test_the_interval_of_a_mean_is_about_students(rows: int) -> None:
    """A plain percentile interval would be 15 % too narrow at 12 rows: ``t`` and n / (n - 1) are in it."""
    scores = stats.norm.ppf((np.arange(rows) + 0.5) / rows) * 0.1 + 0.5
    found = PairedBootstrap(rows, resamples=20_000).interval(mean_statistics(scores), mean_aggregate)
    half = 100 * stats.t.ppf(0.975, rows - 1) * scores.std(ddof=1) / np.sqrt(rows)
    assert found == pytest.approx((50 - half, 50 + half), abs=0.06 * half)


def test_intervals_of_one_arm_cover_its_score() -> None:
    random = np.random.default_rng(3)
    missed = 0
    for seed in range(SIMULATIONS):
        arm, _ = binary_arms(random, 40, 0.5, 0.85)
        interval = PairedBootstrap(40, seed=seed, **FAST).interval(arm, mean_aggregate, bounds=(0, 100))
        assert interval is not None
        missed += not interval[0] <= 85 <= interval[1]
    assert missed / SIMULATIONS <= slack(0.07)


@pytest.mark.parametrize(("base", "tuned", "rows", "power"), [(0.5, 0.9, 60, 0.95), (0.5, 0.75, 60, 0.7)])
def test_planted_differences_are_found(base: float, tuned: float, rows: int, power: float) -> None:
    random = np.random.default_rng(4)
    found = 0
    for seed in range(SIMULATIONS):
        compared = judged(seed, *binary_arms(random, rows, base, tuned))
        found += compared.different and compared.difference > 0
    assert found / SIMULATIONS >= power


def test_identical_arms_differ_by_exactly_nothing() -> None:
    arm, _ = graded_arms(np.random.default_rng(5), 60, 0.1)
    compared = PairedBootstrap(60).compare(arm, arm.copy(), mean_aggregate)
    assert compared.difference == 0
    assert compared.interval == (0, 0)
    assert compared.p_value == 1
    assert (compared.wins, compared.losses, compared.ties) == (0, 0, 60)
    assert not compared.different
    assert compared.rows_needed is None


def test_a_difference_and_its_mirror_agree() -> None:
    arm, base = corpus_arms(np.random.default_rng(6), 40, 0.1)
    bootstrap = PairedBootstrap(40)
    one, other = bootstrap.compare(arm, base, chrf_aggregate), bootstrap.compare(base, arm, chrf_aggregate)
    assert one.interval is not None
    assert other.interval is not None
    assert one.difference == -other.difference
    assert one.interval == pytest.approx((-other.interval[1], -other.interval[0]))
    assert one.p_value == other.p_value
    assert (one.wins, one.losses) == (other.losses, other.wins)


def test_lower_is_better_turns_wins_around_and_nothing_else() -> None:
    arm, base = graded_arms(np.random.default_rng(7), 30, 0.2)
    bootstrap = PairedBootstrap(30)
    higher = bootstrap.compare(arm, base, mean_aggregate)
    lower = bootstrap.compare(arm, base, mean_aggregate, higher_is_better=False)
    assert (lower.wins, lower.losses) == (higher.losses, higher.wins)
    assert (lower.difference, lower.interval, lower.p_value) == (higher.difference, higher.interval, higher.p_value)


def test_p_value_is_that_of_all_sign_flips() -> None:
    arm = mean_statistics([0.9, 0.8, 0.4, 1.0, 0.7, 0.2, 0.6])
    base = mean_statistics([0.5, 0.9, 0.1, 0.6, 0.7, 0.3, 0.1])
    gains = (arm - base)[:, 0]
    sums = [abs(np.dot(gains, signs)) for signs in itertools.product([1, -1], repeat=7)]
    exact = np.mean(np.array(sums) >= abs(gains.sum()) - 1e-12)
    compared = PairedBootstrap(7, permutations=40_000).compare(arm, base, mean_aggregate)
    assert compared.p_value == pytest.approx(exact, abs=0.01)


def test_four_wins_and_no_loss_are_not_enough() -> None:
    # The exact sign test gives p = 2 / 16; the bootstrap alone would leave out 0.
    compared = PairedBootstrap(60).compare(
        mean_statistics([1.0] * 4 + [0.0] * 56), mean_statistics([0.0] * 60), mean_aggregate
    )
    assert compared.interval is not None
    assert compared.interval[0] > 0
    assert compared.p_value == pytest.approx(0.125, abs=0.02)
    assert not compared.different


def test_rows_that_all_agree_leave_room_for_those_not_seen() -> None:
    bootstrap = PairedBootstrap(60)
    all_right = mean_statistics([1.0] * 60)
    low, high = bootstrap.interval(all_right, mean_aggregate, bounds=(0, 100)) or (0, 0)
    # The exact (Clopper-Pearson) interval of 60 right answers out of 60.
    assert low == pytest.approx(100 * stats.beta.ppf(0.025, 60, 1))
    assert high == 100
    no_difference = bootstrap.compare(all_right, all_right, mean_aggregate, bounds=(0, 100)).interval
    assert no_difference == pytest.approx((low - 100, 100 - low))


def test_clusters_widen_the_interval_of_copied_rows() -> None:
    arm, base = graded_arms(np.random.default_rng(8), 20, 0.15)
    copies, clusters = 5, [f"prompt {number % 20}" for number in range(100)]
    many, many_base = np.tile(arm, (copies, 1)), np.tile(base, (copies, 1))
    once = PairedBootstrap(20).compare(arm, base, mean_aggregate)
    clustered = PairedBootstrap(100, clusters=clusters).compare(many, many_base, mean_aggregate)
    naive = PairedBootstrap(100).compare(many, many_base, mean_aggregate)
    assert once.interval is not None
    assert clustered.interval == pytest.approx(once.interval)
    assert clustered.p_value == once.p_value
    assert naive.interval is not None
    assert np.ptp(naive.interval) < 0.6 * np.ptp(once.interval)


def test_clustered_arms_are_seldom_called_different() -> None:
    random = np.random.default_rng(9)
    clusters = [number // 3 for number in range(60)]
    called = {True: 0, False: 0}
    for seed in range(SIMULATIONS):
        arm, base = graded_arms(random, 20, 0.0)
        arm, base = np.repeat(arm, 3, axis=0), np.repeat(base, 3, axis=0)
        for clustered in called:
            bootstrap = PairedBootstrap(60, seed=seed, clusters=clusters if clustered else None, **FAST)
            called[clustered] += bootstrap.compare(arm, base, mean_aggregate).different
    assert called[True] / SIMULATIONS <= slack(0.05)
    assert called[False] / SIMULATIONS > 0.1  # what ignoring the clusters would do


def test_the_seed_decides_everything() -> None:
    arm, base = graded_arms(np.random.default_rng(10), 30, 0.1)
    first, again, other = (PairedBootstrap(30, seed=seed).compare(arm, base, mean_aggregate) for seed in (1, 1, 2))
    assert first == again
    assert first.interval != other.interval


def test_one_row_has_no_interval() -> None:
    bootstrap = PairedBootstrap(1)
    one = mean_statistics([1.0])
    assert bootstrap.interval(one, mean_aggregate, bounds=(0, 100)) is None
    compared = bootstrap.compare(one, mean_statistics([0.0]), mean_aggregate)
    assert (compared.interval, compared.p_value, compared.different) == (None, None, False)
    assert compared.difference == 100


def test_large_sets_take_fewer_resamples() -> None:
    small, large = PairedBootstrap(60), PairedBootstrap(100_000)
    assert small.resamples == 4000
    assert small.permutations == 10_000
    assert (large.resamples, large.permutations) == (1000, 1000)


def test_chunks_do_not_change_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    arm, base = graded_arms(np.random.default_rng(11), 30, 0.1)
    whole = PairedBootstrap(30, **FAST).compare(arm, base, mean_aggregate)
    monkeypatch.setattr("hone.evaluation.statistics.CHUNK", 700)
    parts = PairedBootstrap(30, **FAST).compare(arm, base, mean_aggregate)
    assert parts.interval == whole.interval
    assert parts.p_value == pytest.approx(whole.p_value or 0, abs=0.05)


def test_rows_needed_follows_the_textbook() -> None:
    random = np.random.default_rng(12)
    gains = random.normal(0.1, 0.5, size=40)
    arm, base = mean_statistics(0.5 + gains), mean_statistics(np.full(40, 0.5))
    textbook = (stats.norm.ppf(0.975) + stats.norm.ppf(0.8)) ** 2 * gains.var(ddof=1) / gains.mean() ** 2
    assert rows_needed(arm, base, mean_aggregate) == max(41, int(np.ceil(textbook)))


def test_rows_needed_is_silent_where_there_is_no_effect() -> None:
    gains = np.tile([0.5, -0.5], 20)
    base = mean_statistics(np.full(40, 0.5))
    assert rows_needed(mean_statistics(0.5 + gains), base, mean_aggregate) is None
    assert rows_needed(mean_statistics(0.5 + gains + 0.01), base, mean_aggregate) is None


def test_the_rows_that_the_textbook_asks_for_have_the_stated_power() -> None:
    """``rows_needed`` is that formula (above); here it meets the real decision, with both of its conditions."""
    random = np.random.default_rng(13)
    arm, base = graded_arms(random, 100_000, 0.1)
    gains = (arm - base)[:, 0]
    rows = int(np.ceil((stats.norm.ppf(0.975) + stats.norm.ppf(0.8)) ** 2 * gains.var() / gains.mean() ** 2))
    found = sum(judged(seed, *graded_arms(random, rows, 0.1)).different for seed in range(SIMULATIONS))
    assert 0.72 <= found / SIMULATIONS <= 0.88


def test_rows_needed_asks_for_more_than_there_are() -> None:
    arm, base = graded_arms(np.random.default_rng(14), 1000, 0.1)
    assert rows_needed(arm, base, mean_aggregate) == 1001
