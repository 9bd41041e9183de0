"""Training repeated with other seeds: how much of a difference is the data's, and how much the seed's luck.

The rows that are held out are one source of chance, the seed of training (the adapter's start, the order of rows) is
another, and both are crossed: the adapter of every seed answers the same rows. That is the design of readers and cases
in diagnostic imaging, and the interval is the one that is used there (Obuchowski & Rockette 1995, "Hypothesis testing
of diagnostic accuracy for multiple readers and multiple tests", with the degrees of freedom of Hillis 2007, "A
comparison of denominator degrees of freedom methods for multiple observer ROC analysis"), seeds for readers and rows
for cases:

    D_s       difference of the adapter of seed s and the base, on all rows, under any corpus metric
    error^2   S^2 / N + C         S^2: variance of the N values D_s; C: covariance of D_s and D_t over resampled rows
    freedom   error^4 / ((S^2 / N)^2 / (N - 1) + C^2 / (n - 1))         Satterthwaite 1946; n: units of rows
    interval  mean of D_s, and Student's t of that freedom x error on both sides

S^2 / N holds what the seed does to all rows and to each row differently, C what the choice of rows does to all seeds.
A bootstrap over rows and seeds (the pigeonhole bootstrap, Owen 2007) needs many of both: of 2, 3 or 5 seeds it draws
a spread that is too small by (N - 1) / N, with the tails of many.
docs/evaluate.md has the coverage of both on simulated seeds.

Generation is greedy, so that it has no seed, and nothing to add here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats  # type: ignore[import-untyped]

from hone.evaluation.scorers import Metric
from hone.evaluation.statistics import Comparison, PairedBootstrap
from hone.evaluation.sums import FloatArray

__all__ = ["SEEDS_METHOD", "SeedsComparison", "compare_seeds"]

SEEDS_METHOD = "Student's t over rows and training seeds, crossed (Obuchowski & Rockette 1995, Hillis 2007)"
_TOLERANCE = 1e-9


@dataclass(frozen=True, slots=True)
class SeedsComparison:
    """What trainings with several seeds give beside one base, on the same rows.

    Args:
        base: the base's score.
        scores: the tuned score of each seed.
        comparisons: tuned minus base of each seed by itself, over rows alone.
        interval: of the mean difference, over rows and seeds; None with fewer than two units of rows.
        confidence: nominal coverage of ``interval``.
        degrees_of_freedom: of Student's t; None where nothing varied, or there is no interval.
        rows_error: standard error of the mean difference that the choice of rows brings; None without an interval.
        seeds_error: the same that the seeds bring.
    """

    base: float
    scores: tuple[float, ...]
    comparisons: tuple[Comparison, ...]
    interval: tuple[float, float] | None
    confidence: float
    degrees_of_freedom: float | None
    rows_error: float | None
    seeds_error: float

    @property
    def mean(self) -> float:
        """Of the tuned scores."""
        return float(np.mean(self.scores))

    @property
    def standard_deviation(self) -> float:
        """Of the tuned scores over seeds, as of a sample."""
        return float(np.std(self.scores, ddof=1))

    @property
    def difference(self) -> float:
        """Mean over seeds of tuned minus base."""
        return self.mean - self.base

    @property
    def different(self) -> bool:
        """Whether the interval over rows and seeds leaves out 0."""
        return self.interval is not None and not self.interval[0] <= 0.0 <= self.interval[1]


def compare_seeds(
    bootstrap: PairedBootstrap, base: FloatArray, tuned: Sequence[FloatArray], metric: Metric, *, same: Sequence[bool]
) -> SeedsComparison:
    """Judge the adapters of several seeds against their base.

    Args:
        bootstrap: over the held-out rows.
        base: sufficient statistics of the base's answers, [rows, k].
        tuned: those of each seed's adapter; at least two seeds.
        metric: the one that decides.
        same: of each seed, whether it answers word for word as the base does.
    """
    assert len(tuned) > 1, "one seed says nothing about others"
    comparisons = tuple(
        bootstrap.compare(
            one, base, metric.aggregate, higher_is_better=metric.higher_is_better,
            bounds=None if alike else metric.bounds, row_scores=metric.row_aggregate,
        )
        for one, alike in zip(tuned, same, strict=True)
    )  # fmt: skip
    differences = np.asarray([one.difference for one in comparisons])
    of_seeds = float(differences.var(ddof=1)) / len(tuned)
    interval, freedom, rows_error = None, None, None
    if bootstrap.units > 1:
        of_rows = _shared_variance(bootstrap, base, tuned, metric)
        freedom = _freedom(of_seeds, len(tuned) - 1, of_rows, bootstrap.units - 1)
        interval = _interval(bootstrap, comparisons, of_seeds + of_rows, freedom, metric)
        rows_error = math.sqrt(of_rows)
    return SeedsComparison(
        base=metric.corpus_score(base),
        scores=tuple(metric.corpus_score(one) for one in tuned),
        comparisons=comparisons,
        interval=interval,
        confidence=bootstrap.confidence,
        degrees_of_freedom=freedom,
        rows_error=rows_error,
        seeds_error=math.sqrt(of_seeds),
    )


def _shared_variance(
    bootstrap: PairedBootstrap, base: FloatArray, tuned: Sequence[FloatArray], metric: Metric
) -> float:
    """C: the mean covariance of two seeds' differences over resampled rows, never below 0."""
    resampled = np.stack([bootstrap.resampled_differences(one, base, metric.aggregate) for one in tuned])
    covariance = np.cov(resampled)
    pairs = len(tuned) * (len(tuned) - 1)
    shared = float(covariance.sum() - np.trace(covariance)) / pairs
    # a bootstrap's spread is that of a population, n / (n - 1) too small
    return max(0.0, shared) * bootstrap.units / (bootstrap.units - 1)


def _freedom(of_seeds: float, seeds_freedom: int, of_rows: float, rows_freedom: int) -> float | None:
    least = of_seeds**2 / seeds_freedom + of_rows**2 / rows_freedom
    return None if of_seeds + of_rows <= _TOLERANCE**2 else (of_seeds + of_rows) ** 2 / least


def _interval(
    bootstrap: PairedBootstrap,
    comparisons: Sequence[Comparison],
    variance: float,
    freedom: float | None,
    metric: Metric,
) -> tuple[float, float]:
    if freedom is None:  # all rows of all seeds alike: what rows that were not seen could change, as for one seed
        spans = [one.interval for one in comparisons if one.interval is not None]
        return min(low for low, _ in spans), max(high for _, high in spans)
    middle = float(np.mean([one.difference for one in comparisons]))
    reach = float(stats.t.ppf(0.5 + bootstrap.confidence / 2.0, freedom)) * math.sqrt(variance)
    most = metric.bounds[1] - metric.bounds[0]  # two scores cannot be further apart
    return max(middle - reach, -most), min(middle + reach, most)
