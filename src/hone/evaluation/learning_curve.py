"""What validation losses at several numbers of rows say about more rows: a power law through them.

loss(n) = scale * n ** -exponent, fitted by least squares of the logarithms. It has no floor: the loss that no number of
rows goes below cannot be told from three or four points. What it foretells for more rows is therefore the most that one
may hope for.

Source: Hestness et al.: Deep learning scaling is predictable, empirically (arXiv:1712.00409), section 3.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from hone.types import JsonDict

__all__ = ["LEAST_POINTS", "LearningCurve", "fit_learning_curve", "nested_sizes"]

LEAST_POINTS = 3
_LEAST_ROWS = 8
_MOST_POINTS = 4
# Less than this by doubling is not worth collecting rows for.
_WORTHWHILE = 0.02


@dataclass(frozen=True, slots=True)
class LearningCurve:
    """A power law through measured losses.

    Args:
        rows: how many rows each loss was measured with, ascending.
        losses: in bits per token.
        scale: the loss at one row.
        exponent: how fast it falls; below zero where it rises.
        error: by how much of the last loss the law through the points before it misses it.
    """

    rows: tuple[int, ...]
    losses: tuple[float, ...]
    scale: float
    exponent: float
    error: float

    def at(self, rows: float) -> float:
        """The loss that the law gives for a number of rows."""
        return float(self.scale * rows**-self.exponent)

    @property
    def doubling_gain(self) -> float:
        """The share of the loss that twice as many rows would take away."""
        return float(1 - 2**-self.exponent)

    @property
    def says(self) -> str:
        """``more`` rows would help, there are ``enough``, or the losses scatter too much to tell (``unclear``)."""
        if self.error > max(self.doubling_gain, _WORTHWHILE):
            return "unclear"
        return "more" if self.doubling_gain >= _WORTHWHILE else "enough"

    def to_json(self) -> JsonDict:
        """Measured and predicted losses, and what follows."""
        last = self.rows[-1]
        return {
            "measured": [{"rows": n, "loss": round(x, 4)} for n, x in zip(self.rows, self.losses, strict=True)],
            "predicted": [{"rows": n, "loss": round(self.at(n), 4)} for n in (2 * last, 4 * last)],
            "exponent": round(self.exponent, 4),
            "doubling_gain": round(self.doubling_gain, 4),
            "error": round(self.error, 4),
            "says": self.says,
        }


def nested_sizes(num_rows: int) -> list[int]:
    """Numbers of rows to measure at: all of them, half, a quarter and an eighth, each of at least 8 rows."""
    sizes = [num_rows >> halvings for halvings in range(_MOST_POINTS)]
    return sorted(size for size in sizes if size >= _LEAST_ROWS)


def fit_learning_curve(rows: Sequence[int], losses: Sequence[float]) -> LearningCurve:
    """Fit the law.

    Args:
        rows: three or more different numbers, ascending.
        losses: positive, one for each.
    """
    assert len(rows) == len(losses) >= LEAST_POINTS
    assert min(losses) > 0
    scale, exponent = _power_law(rows, losses)
    before = _power_law(rows[:-1], losses[:-1])
    error = abs(before[0] * rows[-1] ** -before[1] - losses[-1]) / losses[-1]
    return LearningCurve(tuple(rows), tuple(losses), scale, exponent, error)


def _power_law(rows: Sequence[int], losses: Sequence[float]) -> tuple[float, float]:
    """(scale, exponent) by least squares of log loss over log rows."""
    x = [math.log(n) for n in rows]
    y = [math.log(loss) for loss in losses]
    mean_x, mean_y = sum(x) / len(x), sum(y) / len(y)
    slope = sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True)) / sum((a - mean_x) ** 2 for a in x)
    return math.exp(mean_y - slope * mean_x), -slope
