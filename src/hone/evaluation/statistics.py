"""Intervals, differences and p-values from a few dozen held-out rows.

Everything resamples *units*: rows, or clusters of rows that share a prompt. A unit is a vector of sufficient
statistics (``scorers.py``), so that corpus metrics such as BLEU are recomputed on every resample rather than
averaged over rows.

Intervals are expanded percentile bootstrap intervals (Hesterberg 2015, "What Teachers Should Know About the
Bootstrap"): the percentiles are taken further out, as if by Student's t and the factor n / (n - 1).
On simulated arms of 15 to 60 rows (binary, F1-like and chrF-like scores) they cover at least 93 %, where the plain
percentile interval goes down to 90 % and BCa to 88 %. Where all units score alike a bootstrap would claim certainty;
there the exact bound for an event never seen in n units is used (for 60 units: up to 6 % of others).

p-values are of the paired permutation test (each unit's two answers change places at random; Noreen 1989,
"approximate randomization"). Two arms are called different only where the interval leaves out 0 *and* p < 1 -
confidence: with four wins and no loss the bootstrap alone would already be sure, the exact test is not.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import stats  # type: ignore[import-untyped]

from hone.evaluation.sums import Aggregate, FloatArray
from hone.types import JsonDict

__all__ = ["LARGEST_FACTOR", "Comparison", "PairedBootstrap", "rows_needed"]

MOST_RESAMPLES = 4000
FEWEST_RESAMPLES = 1000
MOST_PERMUTATIONS = 10_000
DRAWS = 40_000_000
CHUNK = 4_000_000
TOLERANCE = 1e-9
LARGEST_FACTOR = 30


@dataclass(frozen=True, slots=True)
class Comparison:
    """One arm minus another on the same rows.

    Args:
        difference: score of the arm minus the score it is held against, in the metric's unit.
        interval: confidence interval of the difference; None with fewer than two units.
        p_value: two-sided, from the paired permutation test; None with fewer than two units.
        confidence: nominal coverage of ``interval``.
        wins: rows on which the arm is better by itself, whichever way the metric runs.
        losses: rows on which it is worse.
        ties: the rest.
        different: whether the interval leaves out 0 and ``p_value`` < 1 - ``confidence``.
        rows_needed: about how many rows in all would decide it; None if decided, or no effect to speak of.
        p_adjusted: ``p_value`` corrected for the other comparisons made with it (``correction.py``); None where it
            was not corrected.
    """

    difference: float
    interval: tuple[float, float] | None
    p_value: float | None
    confidence: float
    wins: int
    losses: int
    ties: int
    different: bool
    rows_needed: int | None
    p_adjusted: float | None = None


class PairedBootstrap:
    """Draws one set of resamples and judges any number of arms and metrics by it, so that all are paired.

    Args:
        rows: number of held-out rows.
        seed: seed of the resamples and permutations.
        clusters: per row, what it belongs to; rows of one cluster are drawn together. None: each row by itself.
        confidence: nominal coverage of the intervals.
        resamples: bootstrap resamples; by default 4,000, fewer (at least 1,000) above 10,000 units.
        permutations: sign flips of the test; by default 10,000, fewer (at least 1,000) above 4,000 units.
    """

    def __init__(
        self,
        rows: int,
        *,
        seed: int = 0,
        clusters: Sequence[Hashable] | None = None,
        confidence: float = 0.95,
        resamples: int | None = None,
        permutations: int | None = None,
    ) -> None:
        assert rows > 0, "there must be rows to resample"
        assert clusters is None or len(clusters) == rows, "one cluster per row"
        self.rows = rows
        self.seed = seed
        self.confidence = confidence
        self._unit_of_row = None if clusters is None else _numbered(clusters)
        self.units = rows if self._unit_of_row is None else int(self._unit_of_row.max()) + 1
        affordable = DRAWS // self.units
        self.resamples = resamples or min(MOST_RESAMPLES, max(FEWEST_RESAMPLES, affordable))
        self.permutations = permutations or min(MOST_PERMUTATIONS, max(FEWEST_RESAMPLES, affordable))
        self._weights: npt.NDArray[np.uint16] | None = None

    def describe(self, unit: str) -> JsonDict:
        """How intervals and p-values are made, for the result.

        Args:
            unit: what is drawn, in words.
        """
        return {
            "interval": "expanded percentile bootstrap",
            "p_value": "two-sided paired permutation test",
            "confidence": self.confidence,
            "resamples": self.resamples,
            "permutations": self.permutations,
            "units": self.units,
            "unit": unit,
            "seed": self.seed,
        }

    def interval(
        self, statistics: FloatArray, aggregate: Aggregate, *, bounds: tuple[float, float] | None = None
    ) -> tuple[float, float] | None:
        """Confidence interval of one arm's score.

        Args:
            statistics: sufficient statistics, [rows, k].
            aggregate: summed statistics [..., k] -> scores [...].
            bounds: least and greatest score that can occur.

        Returns:
            (low, high), or None with fewer than two units.
        """
        if self.units < 2:
            return None
        units = self._to_units(statistics)
        span = _unseen(aggregate(units.sum(axis=0)), aggregate(units), bounds, self.units, self.confidence)
        if span is not None:
            return span
        return self._percentiles(self._resampled(units, aggregate))

    def compare(
        self,
        arm: FloatArray,
        against: FloatArray,
        aggregate: Aggregate,
        *,
        higher_is_better: bool = True,
        bounds: tuple[float, float] | None = None,
        row_scores: Aggregate | None = None,
        comparisons: int = 1,
    ) -> Comparison:
        """Judge one arm against another on the same rows.

        Args:
            arm: sufficient statistics of the arm, [rows, k].
            against: those of the arm that it is held against, [rows, k].
            aggregate: summed statistics [..., k] -> scores [...].
            higher_is_better: which way wins and losses are counted.
            bounds: least and greatest score; give None where both arms answer word for word the same, so that
                the interval is [0, 0] and not merely "no difference seen so far".
            row_scores: how a single row is scored, for wins and losses; by default ``aggregate``.
            comparisons: how many are made together. It raises ``rows_needed``, which is then also given where this
                comparison alone would be decided, and touches nothing else.
        """
        score_row = row_scores or aggregate
        gains = (score_row(arm) - score_row(against)) * (1.0 if higher_is_better else -1.0)
        wins, losses = int((gains > TOLERANCE).sum()), int((gains < -TOLERANCE).sum())
        difference = _difference(aggregate, arm.sum(axis=0), against.sum(axis=0))
        interval, p_value, different, needed = None, None, False, None
        if self.units >= 2:
            arm_units, against_units = self._to_units(arm), self._to_units(against)
            interval = self._difference_interval(arm_units, against_units, aggregate, bounds)
            p_value = self._permutation_p(arm_units, against_units, aggregate)
            different = not interval[0] <= 0.0 <= interval[1] and p_value < 1.0 - self.confidence
            if not different or comparisons > 1:
                corrected = 1.0 - (1.0 - self.confidence) / comparisons
                units = rows_needed(arm_units, against_units, aggregate, confidence=corrected)
                needed = None if units is None else _rounded_up(units * self.rows / self.units)
        return Comparison(
            difference=float(difference),
            interval=interval,
            p_value=p_value,
            confidence=self.confidence,
            wins=wins,
            losses=losses,
            ties=self.rows - wins - losses,
            different=different,
            rows_needed=needed,
        )

    def resampled_differences(self, arm: FloatArray, against: FloatArray, aggregate: Aggregate) -> FloatArray:
        """``arm`` minus ``against`` on each resample of units, [resamples]; the same resamples at every call.

        Args:
            arm: sufficient statistics of the arm, [rows, k].
            against: those of the arm that it is held against, [rows, k].
            aggregate: summed statistics [..., k] -> scores [...].
        """
        scores = (self._resampled(self._to_units(one), aggregate) for one in (arm, against))
        return next(scores) - next(scores)

    def _difference_interval(
        self, arm: FloatArray, against: FloatArray, aggregate: Aggregate, bounds: tuple[float, float] | None
    ) -> tuple[float, float]:
        if bounds is not None:
            width = bounds[1] - bounds[0]
            total = _difference(aggregate, arm.sum(axis=0), against.sum(axis=0))
            by_unit = _difference(aggregate, arm, against)
            span = _unseen(total, by_unit, (-width, width), self.units, self.confidence)
            if span is not None:
                return span
        resampled = self._resampled(arm, aggregate) - self._resampled(against, aggregate)
        return self._percentiles(resampled)

    def _permutation_p(self, arm: FloatArray, against: FloatArray, aggregate: Aggregate) -> float:
        observed = abs(float(_difference(aggregate, arm.sum(axis=0), against.sum(axis=0)))) - TOLERANCE
        swap = against - arm
        swap = swap[np.any(swap != 0.0, axis=1)]
        if observed <= 0.0 or not len(swap):
            return 1.0
        random = np.random.default_rng([self.seed, 1])
        arm_total, against_total = arm.sum(axis=0), against.sum(axis=0)
        as_extreme = 0
        for size in _chunks(self.permutations, len(swap)):
            flips = random.integers(0, 2, size=(size, len(swap)), dtype=np.uint8).astype(np.float64)
            moved = flips @ swap
            permuted = _difference(aggregate, arm_total + moved, against_total - moved)
            as_extreme += int((np.abs(permuted) >= observed).sum())
        return (as_extreme + 1) / (self.permutations + 1)

    def _to_units(self, statistics: FloatArray) -> FloatArray:
        if self._unit_of_row is None:
            return statistics
        units = np.zeros((self.units, statistics.shape[1]))
        np.add.at(units, self._unit_of_row, statistics)
        return units

    def _resampled(self, units: FloatArray, aggregate: Aggregate) -> FloatArray:
        if self._weights is None:
            self._weights = self._draw_weights()
        sizes = np.cumsum([0, *_chunks(self.resamples, self.units)])
        parts = [
            aggregate(self._weights[start:stop].astype(np.float64) @ units) for start, stop in itertools.pairwise(sizes)
        ]
        return np.concatenate(parts)

    def _draw_weights(self) -> npt.NDArray[np.uint16]:
        """How often each unit is drawn in each resample, [resamples, units]; two bytes each to stay small."""
        random = np.random.default_rng([self.seed, 0])
        even = np.full(self.units, 1.0 / self.units)
        parts = [
            random.multinomial(self.units, even, size=size).astype(np.uint16)
            for size in _chunks(self.resamples, self.units)
        ]
        return np.concatenate(parts)

    def _percentiles(self, resampled: FloatArray) -> tuple[float, float]:
        tail = (1.0 - self.confidence) / 2.0
        stretch = math.sqrt(self.units / (self.units - 1))
        expanded = float(stats.norm.cdf(stretch * stats.t.ppf(tail, self.units - 1)))
        low, high = np.quantile(resampled, [expanded, 1.0 - expanded])
        return float(low), float(high)


def rows_needed(
    arm: FloatArray, against: FloatArray, aggregate: Aggregate, *, confidence: float = 0.95, power: float = 0.8
) -> int | None:
    """About how many rows in all would show the difference that these rows hint at.

    Normal approximation with the jackknife's standard error of the paired difference. All-or-nothing metrics move in
    steps and want about a tenth more.

    Args:
        arm: sufficient statistics of the arm, [rows, k].
        against: those of the arm that it is held against, [rows, k].
        aggregate: summed statistics [..., k] -> scores [...].
        confidence: of the interval that shall leave out 0.
        power: chance with which it shall do so.

    Returns:
        The number of rows, at least one more than there are; None where there is no effect to speak of: it
        would take more than 30 times the rows (the difference is under half its standard error).
    """
    rows = len(arm)
    arm_total, against_total = arm.sum(axis=0), against.sum(axis=0)
    difference = float(_difference(aggregate, arm_total, against_total))
    if rows < 2 or abs(difference) <= TOLERANCE:
        return None
    left_out = _difference(aggregate, arm_total - arm, against_total - against)
    variance = (rows - 1) / rows * float(((left_out - left_out.mean()) ** 2).sum())
    distance = float(stats.norm.ppf(0.5 + confidence / 2.0) + stats.norm.ppf(power))
    needed = rows * variance * (distance / difference) ** 2
    if needed > LARGEST_FACTOR * rows:
        return None
    return max(rows + 1, math.ceil(needed))


def _difference(aggregate: Aggregate, arm: FloatArray, against: FloatArray) -> FloatArray:
    return aggregate(arm) - aggregate(against)


def _numbered(clusters: Sequence[Hashable]) -> npt.NDArray[np.intp]:
    numbers: dict[Hashable, int] = {}
    return np.asarray([numbers.setdefault(cluster, len(numbers)) for cluster in clusters], dtype=np.intp)


def _chunks(count: int, width: int) -> Iterator[int]:
    """Sizes that add up to ``count``, so that one chunk of ``width`` columns stays within memory."""
    size = max(1, CHUNK // max(width, 1))
    while count > 0:
        yield min(size, count)
        count -= size


def _unseen(
    total: FloatArray,
    by_unit: FloatArray,
    bounds: tuple[float, float] | None,
    units: int,
    confidence: float,
) -> tuple[float, float] | None:
    """Interval where every unit scores the same: what an unseen kind of unit could still change."""
    if bounds is None or not all(map(math.isfinite, bounds)) or float(np.ptp(by_unit)) > TOLERANCE:
        return None
    share = 1.0 - ((1.0 - confidence) / 2.0) ** (1.0 / units)
    low, high = bounds
    value = float(total)
    return value - share * (value - low), value + share * (high - value)


def _rounded_up(number: float) -> int:
    """Two significant digits: an estimate must not look like a count."""
    if number < 10:
        return math.ceil(number)
    unit = int(10 ** (math.floor(math.log10(number)) - 1))
    return math.ceil(round(number / unit, 9)) * unit
