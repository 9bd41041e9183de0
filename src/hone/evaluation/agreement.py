"""How far raters agree: Krippendorff's alpha for any number of them, Cohen's kappa for two.

Both are computed from counts that add up over units (a coincidence matrix, a table of two raters), so that intervals
come from the same bootstrap as all others: units are drawn, counts are summed, and the figure is computed anew.

Source: Krippendorff, "Computing Krippendorff's Alpha-Reliability" (2011), sections C to E; Cohen, "A coefficient of
agreement for nominal scales" (1960).

Shape legend: U units, C categories.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from hone.evaluation.sums import Aggregate, FloatArray, ratio

__all__ = ["Level", "alpha_aggregate", "coincidences", "kappa_aggregate", "krippendorff_alpha", "rater_table"]

Level = Literal["nominal", "ordinal"]


def coincidences(units: Sequence[Sequence[int]], categories: int) -> FloatArray:
    """How often two ratings of one unit are (c, k), a unit's pairs counting its ratings less one; [U, C * C].

    Args:
        units: the ratings of each unit, as categories from 0; units with fewer than two count for nothing.
        categories: how many there are.
    """
    found = np.zeros((len(units), categories, categories))
    for row, ratings in zip(found, units, strict=True):
        if len(ratings) > 1:
            counts = np.bincount(np.asarray(ratings), minlength=categories).astype(np.float64)
            row += (np.outer(counts, counts) - np.diag(counts)) / (len(ratings) - 1)
    return found.reshape(len(units), categories * categories)


def alpha_aggregate(level: Level, categories: int, *, mirrored: bool = False) -> Aggregate:
    """Summed coincidences [..., C * C] -> alpha [...]; 0 where all ratings are of one category, which tell nothing.

    Args:
        level: nominal, or ordinal, for which the distance of two categories is the ratings between them.
        categories: how many there are, for ordinal in their order.
        mirrored: whether each unit was counted a second time with its categories in reverse, because which end is the
            first is arbitrary. Chance then pairs a rating neither with itself, as ever, nor with its own mirror image;
            otherwise raters who toss coins would seem to agree, by 1 / (2n) for n ratings.
    """

    def alpha(sums: FloatArray) -> FloatArray:
        counts_CC = sums.reshape(*sums.shape[:-1], categories, categories)
        totals_C = counts_CC.sum(axis=-1)
        total = totals_C.sum(axis=-1)
        distance_CC = _nominal(categories) if level == "nominal" else _ordinal(totals_C)
        observed = (counts_CC * distance_CC).sum(axis=(-2, -1))
        expected = (totals_C[..., :, None] * totals_C[..., None, :] * distance_CC).sum(axis=(-2, -1))
        if mirrored:
            to_mirror_C = np.diagonal(distance_CC[..., ::-1], axis1=-2, axis2=-1)
            expected = expected - (totals_C * to_mirror_C).sum(axis=-1)
        partners = total - (2.0 if mirrored else 1.0)  # for each rating, those that chance may pair it with
        score: FloatArray = np.where(expected > 0, 1.0 - partners * ratio(observed, expected), 0.0)
        return score

    return alpha


def krippendorff_alpha(
    units: Sequence[Sequence[int]], *, categories: int, level: Level, mirrored: bool = False
) -> float | None:
    """Agreement of any number of raters, who need not all have rated every unit: 1 for perfect, 0 for chance.

    Args:
        units: the ratings of each unit, as categories from 0.
        categories: how many there are, for ordinal in their order.
        level: nominal or ordinal.
        mirrored: whether each unit stands there twice, see :func:`alpha_aggregate`.

    Returns:
        Alpha; None where no unit has two ratings, or all ratings are of one category: it is not defined then.
    """
    sums = coincidences(units, categories).sum(axis=0)
    totals_C = sums.reshape(categories, categories).sum(axis=-1)
    if (totals_C > 0).sum() < 2:
        return None
    return float(alpha_aggregate(level, categories, mirrored=mirrored)(sums))


def rater_table(pairs: Sequence[tuple[int, int]], categories: int) -> FloatArray:
    """What two raters said of each unit, as an indicator of the table's cell; [U, C * C]."""
    found = np.zeros((len(pairs), categories * categories))
    for row, (one, other) in zip(found, pairs, strict=True):
        row[one * categories + other] = 1.0
    return found


def kappa_aggregate(categories: int) -> Aggregate:
    """A table of two raters [..., C * C] -> kappa [...]; 0 where chance alone would make them agree always.

    Args:
        categories: how many there are.
    """

    def kappa(sums: FloatArray) -> FloatArray:
        table_CC = sums.reshape(*sums.shape[:-1], categories, categories)
        total = table_CC.sum(axis=(-2, -1))
        agreed = ratio(np.trace(table_CC, axis1=-2, axis2=-1), total)
        by_chance = ratio((table_CC.sum(axis=-1) * table_CC.sum(axis=-2)).sum(axis=-1), total**2)
        return ratio(agreed - by_chance, 1.0 - by_chance)

    return kappa


def _nominal(categories: int) -> FloatArray:
    return 1.0 - np.eye(categories)


def _ordinal(totals_C: FloatArray) -> FloatArray:
    """(ratings from c to k, those of c and k themselves counted half) squared."""
    reached_C = np.cumsum(totals_C, axis=-1) - totals_C / 2.0
    distance_CC: FloatArray = (reached_C[..., :, None] - reached_C[..., None, :]) ** 2
    return distance_CC
