"""Several comparisons at once: p-values are corrected, so that more arms do not find more differences by luck.

Holm's procedure (Holm 1979, "A simple sequentially rejective multiple test procedure"): the smallest p-value is
multiplied by the number of comparisons, the next one by one less, and so on, never falling. The chance that any two
equal arms are called different stays under 1 - confidence, however the comparisons depend on one another.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from hone.evaluation.statistics import Comparison

__all__ = ["corrected", "holm"]


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted p-values, in the order given, each at most 1."""
    order = sorted(range(len(p_values)), key=lambda index: p_values[index])
    adjusted = [0.0] * len(p_values)
    largest = 0.0
    for rank, index in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted


def corrected(comparisons: Sequence[Comparison]) -> list[Comparison]:
    """The same comparisons, judged together: ``different`` now asks the adjusted p-value.

    Args:
        comparisons: all that were made under one metric. Those without a p-value stay as they are.
    """
    measured = [one for one in comparisons if one.p_value is not None]
    adjusted = iter(holm([one.p_value for one in measured if one.p_value is not None]))
    judged = []
    for one in comparisons:
        if one.p_value is None or one.interval is None:
            judged.append(one)
            continue
        p_adjusted = next(adjusted)
        different = not one.interval[0] <= 0.0 <= one.interval[1] and p_adjusted < 1.0 - one.confidence
        needed = None if different else one.rows_needed
        judged.append(replace(one, p_adjusted=p_adjusted, different=different, rows_needed=needed))
    return judged
