"""Supervised fine-tuning: the negative log-likelihood of the supervised tokens, and of nothing else.

Shape legend: S supervised tokens of a batch.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

__all__ = ["supervised_loss"]


def supervised_loss(logprobs_S: Tensor) -> tuple[Tensor, int, Mapping[str, Tensor]]:
    """Cross-entropy summed over supervised tokens, in nats.

    A sum and its weight are returned, never a mean: the step divides once, by the supervised tokens of all its
    micro-batches and ranks.

    Args:
        logprobs_S: log-probabilities of the supervised tokens, float32.

    Returns:
        (loss_sum, weight, metrics): a float32 scalar; S; no metrics.
    """
    return -logprobs_S.sum(), logprobs_S.shape[0], {}
