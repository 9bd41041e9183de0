"""One optimizer step: micro-batches accumulated, divided once by the supervised tokens of the whole step.

Shape legend: T real tokens of a micro-batch, S supervised ones.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from hone.data.pack import PackedBatch
from hone.engine.optimizer import set_learning_rate
from hone.errors import TrainingError
from hone.model.forward import Forward

__all__ = ["Objective", "StepResult", "accumulate_gradients", "mean_loss", "train_step"]

Objective = Callable[[Tensor], tuple[Tensor, int, Mapping[str, Tensor]]]


@dataclass(frozen=True, slots=True)
class StepResult:
    """Figures of one optimizer step.

    Args:
        loss: nats per supervised token over the whole step.
        gradient_norm: L2 norm over all trainable tensors, before clipping.
        tokens: real tokens.
        supervised_tokens: tokens that carried loss.
    """

    loss: float
    gradient_norm: float
    tokens: int
    supervised_tokens: int


def accumulate_gradients(
    model: PreTrainedModel, batches: Sequence[PackedBatch], *, forward: Forward, objective: Objective
) -> float:
    """Add the step's gradients to ``.grad`` and return its loss in nats per supervised token.

    The divisor is the number of supervised tokens of all micro-batches together, known before the first forward, so
    that k batches of one give what one batch of k gives.

    Args:
        model: trainable parameters receive gradients.
        batches: the micro-batches of one optimizer step.
        forward: gives log-probabilities of the supervised tokens.
        objective: gives (loss_sum, weight, metrics).

    Returns:
        The loss of the step.
    """
    supervised = sum(batch.num_supervised for batch in batches)
    total = 0.0
    for batch in batches:
        loss_sum, _, _ = objective(forward(model, batch))
        (loss_sum / supervised).backward()  # type: ignore[no-untyped-call]
        total += loss_sum.item()
    return total / supervised


def train_step(
    model: PreTrainedModel,
    batches: Sequence[PackedBatch],
    *,
    forward: Forward,
    objective: Objective,
    parameters: Sequence[nn.Parameter],
    optimizer: torch.optim.Optimizer,
    learning_rate: float,
    max_gradient_norm: float,
) -> StepResult:
    """Accumulate, check, clip, update.

    Raises:
        TrainingError: loss or gradient is not finite; the update was not made, so the weights are still sound.
    """
    optimizer.zero_grad(set_to_none=True)
    loss = accumulate_gradients(model, batches, forward=forward, objective=objective)
    norm = float(nn.utils.clip_grad_norm_(parameters, max_gradient_norm))
    if not (math.isfinite(loss) and math.isfinite(norm)):
        raise TrainingError(
            f"the loss was {loss} and the gradient norm {norm}",
            why="an update with it would make every weight of the adapter non-finite; it was not made",
            remedy="lower --learning-rate, or train with --dtype float32",
            details=[f"input rows of this step: {sorted({row for batch in batches for row in batch.rows})}"],
        )
    set_learning_rate(optimizer, learning_rate)
    optimizer.step()
    return StepResult(
        loss, norm, sum(batch.num_tokens for batch in batches), sum(batch.num_supervised for batch in batches)
    )


@torch.no_grad()
def mean_loss(
    model: PreTrainedModel, batches: Sequence[PackedBatch], *, forward: Forward, objective: Objective
) -> float:
    """Loss over ``batches`` in nats per supervised token, without gradients; divided once as in training."""
    total = 0.0
    for batch in batches:
        loss_sum, _, _ = objective(forward(model, batch))
        total += loss_sum.item()
    return total / sum(batch.num_supervised for batch in batches)
