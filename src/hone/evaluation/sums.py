"""What every metric is made of: sufficient statistics per row, and functions of their sums.

A metric gives each row a vector of k numbers, [rows, k]; an :data:`Aggregate` turns summed vectors [..., k] into
scores [...]. The corpus score is ``aggregate(statistics.sum(axis=0))``; a resample of rows needs other sums only.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

__all__ = ["Aggregate", "FloatArray", "mean_aggregate", "mean_statistics", "most_common_share", "ratio"]

FloatArray = npt.NDArray[np.float64]
Aggregate = Callable[[FloatArray], FloatArray]


def ratio(numerator: FloatArray, denominator: FloatArray) -> FloatArray:
    """Quotient, with 0 where nothing was counted."""
    safe = np.where(denominator > 0, denominator, 1.0)
    quotient: FloatArray = np.where(denominator > 0, numerator / safe, 0.0)
    return quotient


def mean_statistics(scores: Sequence[float] | Sequence[bool]) -> FloatArray:
    """Statistics of a mean of row scores from 0 to 1: (score, 1) per row, [rows, 2]."""
    return np.column_stack([np.asarray(scores, dtype=np.float64), np.ones(len(scores))])


def mean_aggregate(sums: FloatArray) -> FloatArray:
    """Mean of row scores, from 0 to 100; sums [..., 2] hold (sum of scores, rows)."""
    return 100.0 * ratio(sums[..., 0], sums[..., 1])


def most_common_share(texts: Sequence[str]) -> float:
    """Share of ``texts``, 0 to 1, that are the most frequent one but for space around it; 0 of none."""
    return Counter(text.strip() for text in texts).most_common(1)[0][1] / len(texts) if texts else 0.0
