"""Bradley-Terry strengths: one number for each contender, so that the chance to be preferred is the logistic function
of the difference of two.

A tie counts as half a win for either side. Two contenders that were compared have one tie more than raters gave: half
a win each way, the correction of Haldane (1956) for a log-odds; without it whoever won all of few comparisons would be
infinitely strong. Strengths are log-odds whose mean is 0.

Source: Bradley and Terry (1952); the algorithm is that of Hunter, "MM algorithms for generalized Bradley-Terry models"
(2004), equation 3; half wins for ties as in Glickman (1999) and the leaderboards of Chiang et al. (2024).

Shape legend: K contenders.
"""

from __future__ import annotations

import numpy as np

from hone.evaluation.sums import Aggregate, FloatArray

__all__ = ["PRIOR_WINS", "bradley_terry", "strength_aggregate"]

PRIOR_WINS = 0.5
"""Wins that each of two contenders has over the other besides those seen."""
_MOST_STEPS = 10_000
_TOLERANCE = 1e-10


def bradley_terry(wins_KK: FloatArray, *, prior_wins: float = PRIOR_WINS) -> FloatArray:
    """The strengths of K contenders, of many tables at once.

    Args:
        wins_KK: [..., K, K], how often the contender of the row was preferred to that of the column, half for a tie.
        prior_wins: added either way between two contenders that were compared.

    Returns:
        Log-odds with mean 0, [..., K]; a contender that was compared with nobody has 0 before the mean is taken.
    """
    met_KK = (wins_KK + np.swapaxes(wins_KK, -1, -2)) > 0
    wins_KK = np.where(met_KK, wins_KK + prior_wins, 0.0)
    games_KK = wins_KK + np.swapaxes(wins_KK, -1, -2)
    won_K = wins_KK.sum(axis=-1)
    strength_K = np.ones_like(won_K)
    for _ in range(_MOST_STEPS):
        expected_K = (games_KK / (strength_K[..., :, None] + strength_K[..., None, :])).sum(axis=-1)
        new_K = np.where(expected_K > 0, won_K / np.where(expected_K > 0, expected_K, 1.0), 1.0)
        new_K = new_K / np.exp(np.log(new_K).mean(axis=-1, keepdims=True))
        moved = float(np.abs(np.log(new_K) - np.log(strength_K)).max(initial=0.0))
        strength_K = new_K
        if moved < _TOLERANCE:
            break
    log_odds: FloatArray = np.log(strength_K)
    return log_odds


def strength_aggregate(contenders: int, index: int) -> Aggregate:
    """Summed wins [..., K * K] -> the strength of one contender [...].

    Args:
        contenders: how many there are.
        index: whose strength is wanted.
    """

    def strength(sums: FloatArray) -> FloatArray:
        found: FloatArray = bradley_terry(sums.reshape(*sums.shape[:-1], contenders, contenders))[..., index]
        return found

    return strength
