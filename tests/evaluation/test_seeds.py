"""Intervals over rows and seeds: against the analysis of variance worked here, on simulated seeds, in the verdict."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from scipy import stats

from hone.evaluation.scorers import METRICS
from hone.evaluation.seeds import SeedsComparison, compare_seeds
from hone.evaluation.seeds_verdict import with_seeds_verdict
from hone.evaluation.statistics import PairedBootstrap
from hone.evaluation.sums import FloatArray
from hone.types import JsonDict

F1 = METRICS["token_f1"]
BITS = METRICS["bits_per_byte"]
SIMULATIONS = 150
GAIN = 5.0


def as_statistics(scores: FloatArray) -> FloatArray:
    """Row scores to 100 as the sums of a mean."""
    return np.column_stack([scores / 100.0, np.ones(len(scores))])


def compared(base: FloatArray, tuned: FloatArray, *, resamples: int = 4000, seed: int = 0) -> SeedsComparison:
    """Row scores of the base [rows] and of each seed [seeds, rows], judged."""
    bootstrap = PairedBootstrap(len(base), seed=seed, resamples=resamples, permutations=20)
    return compare_seeds(
        bootstrap, as_statistics(base), [as_statistics(one) for one in tuned], F1, same=[False] * len(tuned)
    )


def simulated(
    random: np.random.Generator, *, seeds: int, rows: int, of_rows: float, of_seeds: float, of_both: float
) -> tuple[FloatArray, FloatArray]:
    """The base's and each seed's row scores: a gain, and what the row, the seed, and both together add to it."""
    base = random.normal(40.0, 15.0, rows)
    shared = random.normal(GAIN, of_rows, rows)
    own = random.normal(0.0, of_seeds, (seeds, 1))
    return base, base + shared + own + random.normal(0.0, of_both, (seeds, rows))


def analysed(base: FloatArray, tuned: FloatArray) -> tuple[float, float, float]:
    """Mean, error squared and freedom from the mean squares of a two-way table, as in a textbook."""
    table = tuned - base
    seeds, rows = table.shape
    mean, of_seed, of_row = table.mean(), table.mean(axis=1), table.mean(axis=0)
    seeds_square = rows * ((of_seed - mean) ** 2).sum() / (seeds - 1)
    rows_square = seeds * ((of_row - mean) ** 2).sum() / (rows - 1)
    rest = ((table - of_seed[:, None] - of_row[None, :] + mean) ** 2).sum() / ((seeds - 1) * (rows - 1))
    from_seeds, from_rows = seeds_square / (seeds * rows), max(0.0, (rows_square - rest) / (seeds * rows))
    freedom = (from_seeds + from_rows) ** 2 / (from_seeds**2 / (seeds - 1) + from_rows**2 / (rows - 1))
    return float(mean), float(from_seeds + from_rows), float(freedom)


@pytest.mark.parametrize("seeds", [2, 3, 6])
def test_of_a_mean_it_is_the_interval_of_two_way_analysis_of_variance(seeds: int) -> None:
    random = np.random.default_rng(seeds)
    base, tuned = simulated(random, seeds=seeds, rows=50, of_rows=12.0, of_seeds=2.0, of_both=8.0)
    found = compared(base, tuned, resamples=20_000)
    mean, square, freedom = analysed(base, tuned)
    reach = stats.t.ppf(0.975, freedom) * math.sqrt(square)
    assert found.difference == pytest.approx(mean)
    assert found.interval is not None
    assert (found.interval[1] - found.interval[0]) / 2 == pytest.approx(reach, rel=0.03)
    assert (found.interval[1] + found.interval[0]) / 2 == pytest.approx(mean)
    assert found.degrees_of_freedom == pytest.approx(freedom, rel=0.1)
    assert found.rows_error is not None
    assert found.rows_error**2 + found.seeds_error**2 == pytest.approx(square, rel=0.03)
    assert found.mean == pytest.approx(np.mean(found.scores))
    assert found.standard_deviation == pytest.approx(np.std(found.scores, ddof=1))
    # one seed by itself is judged as in a run without --seeds
    alone = PairedBootstrap(50, resamples=20_000, permutations=20).compare(
        as_statistics(tuned[0]), as_statistics(base), F1.aggregate, bounds=F1.bounds
    )
    assert found.comparisons[0] == alone


@pytest.mark.parametrize(("seeds", "of_seeds", "least"), [(2, 0.0, 0.885), (3, 3.0, 0.885), (3, 6.0, 0.87)])
def test_it_covers_where_an_interval_over_rows_alone_does_not(seeds: int, of_seeds: float, least: float) -> None:
    random = np.random.default_rng([seeds, int(of_seeds)])
    both = rows_alone = 0
    for number in range(SIMULATIONS):
        base, tuned = simulated(random, seeds=seeds, rows=40, of_rows=12.0, of_seeds=of_seeds, of_both=8.0)
        found = compared(base, tuned, resamples=300, seed=number)
        first = found.comparisons[0].interval
        assert found.interval is not None
        assert first is not None
        both += found.interval[0] <= GAIN <= found.interval[1]
        rows_alone += first[0] <= GAIN <= first[1]
    assert least <= both / SIMULATIONS <= 0.99
    if of_seeds:
        assert rows_alone / SIMULATIONS < 0.88, "rows say nothing of another seed"


def test_rows_of_one_prompt_are_drawn_together() -> None:
    random = np.random.default_rng(5)
    base, tuned = simulated(random, seeds=3, rows=20, of_rows=12.0, of_seeds=2.0, of_both=5.0)
    clusters = [number // 2 for number in range(40)]
    twice, all_twice = np.repeat(base, 2), np.repeat(tuned, 2, axis=1)
    bootstrap = PairedBootstrap(40, clusters=clusters, permutations=20)
    arms = [as_statistics(one) for one in all_twice]
    found = compare_seeds(bootstrap, as_statistics(twice), arms, F1, same=[False] * 3)
    assert found.interval == pytest.approx(compared(base, tuned).interval), "a row that stands twice is no new row"


def test_where_nothing_varies_it_does_not_claim_certainty() -> None:
    wrong, right = np.zeros(60), np.full(60, 100.0)
    found = compared(wrong, np.stack([right, right]))
    assert found.interval == found.comparisons[0].interval
    assert found.interval is not None
    assert found.interval[0] < 100.0 == found.interval[1]
    assert found.degrees_of_freedom is None
    same = compare_seeds(
        PairedBootstrap(60, permutations=20), as_statistics(wrong), [as_statistics(wrong)] * 2, F1, same=[True, True]
    )
    assert (same.interval, same.different) == ((0.0, 0.0), False)


def test_one_row_has_no_interval_and_no_interval_leaves_the_scale() -> None:
    found = compared(np.array([10.0]), np.array([[20.0], [30.0]]))
    assert (found.interval, found.different, found.degrees_of_freedom) == (None, False, None)
    assert found.difference == pytest.approx(15.0)
    wide = compared(np.zeros(20), np.stack([np.full(20, 100.0), np.linspace(0, 20, 20)]))
    assert wide.interval is not None
    assert -100.0 <= wide.interval[0] < wide.interval[1] == 100.0, "with two seeds that differ so much, all is open"


# --- the verdict ---


def seeds_of(mean: float, low: float, high: float) -> JsonDict:
    return {
        "trainings": [{"seed": 7}, {"seed": 8}, {"seed": 9}], "mean": 40.0 + mean, "standard_deviation": 2.5,
        "difference": mean, "interval": [low, high], "different": not low <= 0 <= high, "confidence": 0.95,
    }  # fmt: skip


def verdict_of(decision: str, difference: float = 9.0, *, different: bool = True) -> JsonDict:
    return {
        "decision": decision, "reason": "On 60 held-out rows the tuned model is better: it is.", "warnings": ["w."],
        "numbers": {"difference": difference, "different": different, "arm": "tuned"}, "not_measured": [],
        "exit_code": 3 if decision == "do_not_ship" else 0,
    }  # fmt: skip


def test_ship_stays_where_the_seeds_say_better_too() -> None:
    found = with_seeds_verdict(verdict_of("ship"), seeds_of(8.0, 3.0, 13.0), F1)
    assert (found["decision"], found["numbers"]["arm"], found["warnings"]) == ("ship", "tuned", ["w."])
    assert found["reason"].startswith(
        "On 60 held-out rows the tuned model is better: it is. Trained again: over 3 seeds"
    )
    assert "+8.0 beside the base, 95% interval over rows and seeds +3.0 to +13.0." in found["reason"]
    assert found["numbers"]["seeds"] == {
        "trainings": 3, "mean": 48.0, "standard_deviation": 2.5, "difference": 8.0, "interval": [3.0, 13.0],
        "different": True,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("seeds", "said"), [(seeds_of(4.0, -1.0, 9.0), "which includes 0"), (seeds_of(-4.0, -6.0, -2.0), "which is worse")]
)
def test_better_by_the_luck_of_a_seed_is_not_enough_evidence_and_says_so(seeds: JsonDict, said: str) -> None:
    found = with_seeds_verdict(verdict_of("ship"), seeds, F1)
    assert (found["decision"], found["exit_code"], found["numbers"]["arm"]) == ("not_enough_evidence", 0, None)
    assert found["reason"].startswith("That the training makes it better, and not its seed, is not shown: over 3 seeds")
    assert said in found["reason"]
    assert "Of seed 7, the registered one, over rows alone: On 60 held-out rows" in found["reason"]


def test_other_adapters_are_no_evidence_for_the_registered_one() -> None:
    undecided = verdict_of("not_enough_evidence", 2.0, different=False)
    found = with_seeds_verdict(undecided, seeds_of(8.0, 3.0, 13.0), F1)
    assert found["decision"] == "not_enough_evidence"
    assert found["reason"].endswith("95% interval over rows and seeds +3.0 to +13.0.")


@pytest.mark.parametrize(("low", "high", "warned"), [(-9.0, -3.0, False), (-9.0, 3.0, True)])
def test_a_worse_model_stays_worse_and_seeds_that_disagree_are_a_warning(low: float, high: float, warned: bool) -> None:
    found = with_seeds_verdict(verdict_of("do_not_ship", -6.0), seeds_of((low + high) / 2, low, high), F1)
    assert (found["decision"], found["exit_code"]) == ("do_not_ship", 3)
    assert [text.startswith("Over 3 seeds of training") for text in found["warnings"][1:]] == [True] * warned


def test_with_retrieval_the_seeds_are_said_not_to_be_measured() -> None:
    found = with_seeds_verdict(verdict_of("ship_with_retrieval"), seeds_of(4.0, -1.0, 9.0), F1)
    assert found["decision"] == "ship_with_retrieval"
    assert [one["what"] for one in found["not_measured"]] == ["seeds with retrieval"]
    assert len(found["warnings"]) == 2


def test_lower_is_better_where_the_metric_says_so() -> None:
    less: dict[str, Any] = {"difference": -0.3, "interval": [-0.4, -0.2], "different": True}
    assert with_seeds_verdict(verdict_of("ship", -0.3), {**seeds_of(0, 1, 2), **less}, BITS)["decision"] == "ship"
    more: dict[str, Any] = {"difference": 0.3, "interval": [0.2, 0.4], "different": True}
    found = with_seeds_verdict(verdict_of("ship", -0.3), {**seeds_of(0, 1, 2), **more}, BITS)
    assert found["decision"] == "not_enough_evidence"
    assert "+0.300 beside the base" in found["reason"]
