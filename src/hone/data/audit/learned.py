"""What likelihoods under the base say about rows: answers that fit other prompts as well, answers far out of line.

An answer that belongs to its prompt is likelier after it than after the prompts of other rows. The gain in bits, own
prompt against the mean of others, is therefore above zero for nearly every sound row, and around zero for a row whose
answer was shifted or shuffled.

Source: the pointwise mutual information of prompt and answer under the model, as in Holtzman et al.: Surface form
competition (EMNLP 2021), estimated with the prompts of other rows.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np

__all__ = ["loss_outliers", "mismatched_pairs", "other_prompts"]

_OUTLIER_DEVIATIONS = 6.0
# Where more answers than this are as likely after another prompt, the base does not see what connects the two.
_MOST_BEATEN = 0.35
_MAD_TO_DEVIATION = 1.4826


def other_prompts(num_rows: int, count: int, *, seed: int = 0) -> list[list[int]]:
    """For each row the rows whose prompts its answer is tried with: ``count`` different ones, never its own."""
    rng = random.Random(seed)
    chosen = []
    for row in range(num_rows):
        others = rng.sample(range(num_rows - 1), min(count, num_rows - 1))
        chosen.append([other + (other >= row) for other in others])
    return chosen


def mismatched_pairs(own_bits: Sequence[float], other_bits: Sequence[Sequence[float]]) -> list[tuple[int, float]]:
    """Rows whose answer is no likelier after their own prompt than after others'.

    Args:
        own_bits: bits of each answer after its own prompt.
        other_bits: bits of each answer after the prompts of other rows.

    Returns:
        (row, gain in bits) of each, the least gain first. A row is among them where at least one other prompt makes its
        answer at least as likely, and the gain over their mean is less than a quarter of the median gain. None where
        that holds of so many rows that the base does not see what connects prompts and answers.
    """
    gains = np.array([float(np.mean(others)) - own for own, others in zip(own_bits, other_bits, strict=True)])
    beaten = np.array([min(others) <= own for own, others in zip(own_bits, other_bits, strict=True)])
    if float(np.mean(beaten)) > _MOST_BEATEN:
        return []
    limit = max(float(np.median(gains)) / 4, 0.0)
    flagged = [int(row) for row in np.flatnonzero(beaten & (gains <= limit))]
    return sorted(((row, float(gains[row])) for row in flagged), key=lambda one: one[1])


def loss_outliers(bits_per_token: Sequence[float]) -> list[int]:
    """Rows whose answer is far less likely than the others', by six robust standard deviations."""
    values = np.array(bits_per_token)
    middle = np.median(values)
    deviation = _MAD_TO_DEVIATION * np.median(np.abs(values - middle))
    if deviation == 0:
        return []
    return [int(row) for row in np.flatnonzero(values > middle + _OUTLIER_DEVIATIONS * deviation)]
