"""Supervised fine-tuning: the negative log-likelihood of the supervised tokens, and of nothing else.

Shape legend: S supervised tokens of a batch, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

__all__ = ["supervised_loss"]


def supervised_loss(logits_SV: Tensor, targets_S: Tensor) -> tuple[Tensor, int, Mapping[str, Tensor]]:
    """Cross-entropy summed over supervised tokens, in nats.

    A sum and its weight are returned, never a mean: the step divides once, by the supervised tokens of all its
    micro-batches and ranks.

    Args:
        logits_SV: scores of the predicting positions, any float dtype; reduced in float32.
        targets_S: the supervised token ids.

    Returns:
        (loss_sum, weight, metrics): a float32 scalar; S; and ``correct``, the number of targets that were the most
        likely token (not differentiable).
    """
    loss_sum = torch.nn.functional.cross_entropy(logits_SV.float(), targets_S, reduction="sum")
    correct = (logits_SV.detach().argmax(dim=-1) == targets_S).sum()
    return loss_sum, targets_S.shape[0], {"correct": correct}
