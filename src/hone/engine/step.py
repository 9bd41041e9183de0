"""One optimizer step: micro-batches accumulated, divided once by the supervised tokens of the whole step.

Over several processes it is the same step: each has its part of the micro-batches, the tokens are those of all, and
gradients are summed before the norm is taken.

Shape legend: T real tokens of a micro-batch, S supervised ones.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel

from hone.data.pack import PackedBatch
from hone.engine.optimizer import set_learning_rate
from hone.engine.parallel import ALONE, Parallel
from hone.errors import TrainingError
from hone.model.forward import Forward

__all__ = ["Objective", "StepResult", "accumulate_gradients", "mean_loss", "train_step"]

Objective = Callable[..., tuple[Tensor, int, Mapping[str, Tensor]]]
"""Called with what the forward pass gives, and with what stands beside it in the batch (``PackedBatch.beside``)."""


@dataclass(frozen=True, slots=True)
class StepResult:
    """Figures of one optimizer step.

    Args:
        loss: over the whole step, divided once: nats per supervised token, or per pair of a preference.
        gradient_norm: L2 norm over all trainable tensors, before clipping.
        tokens: real tokens.
        supervised_tokens: tokens that carried loss.
    """

    loss: float
    gradient_norm: float
    tokens: int
    supervised_tokens: int


def accumulate_gradients(
    model: PreTrainedModel,
    batches: Sequence[PackedBatch],
    *,
    forward: Forward,
    objective: Objective,
    parallel: Parallel = ALONE,
) -> float:
    """Add this process's part of the step's gradients to ``.grad``; return the loss of the whole step.

    The divisor is the weight of all micro-batches of all processes together (supervised tokens, or pairs), known
    before the first forward, so that k batches of one give what one batch of k gives.

    Args:
        model: trainable parameters receive gradients.
        batches: the micro-batches of one optimizer step, those of this process.
        forward: gives log-probabilities of the supervised tokens, or whatever else the objective takes.
        objective: gives (loss_sum, weight, metrics).
        parallel: the processes of the run.

    Returns:
        The loss of the step, divided by its weight, alike in all processes.
    """
    weight: int = sum(parallel.everyones(sum(batch.weight for batch in batches)))
    total = 0.0
    for batch, counts in parallel.passes(batches):
        logprobs_S = forward(model, batch)
        loss_sum = objective(logprobs_S, *batch.beside)[0] if counts else 0.0 * logprobs_S.sum()
        (loss_sum / weight).backward()  # type: ignore[no-untyped-call]
        total += loss_sum.item()
    return float(sum(parallel.everyones(total))) / weight


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
    parallel: Parallel = ALONE,
) -> StepResult:
    """Accumulate, sum over the processes, check, clip, update.

    Raises:
        TrainingError: loss or gradient is not finite, in all processes at once; the update was not made, so the
            weights are still sound.
    """
    optimizer.zero_grad(set_to_none=True)
    loss = accumulate_gradients(model, batches, forward=forward, objective=objective, parallel=parallel)
    parallel.reduce_gradients(parameters)
    norm = _clip(parameters, max_gradient_norm)
    if not (math.isfinite(loss) and math.isfinite(norm)):
        rows = parallel.everyones([row for batch in batches for row in batch.rows])
        raise TrainingError(
            f"the loss was {loss} and the gradient norm {norm}",
            why="an update with it would make every weight of the adapter non-finite; it was not made",
            remedy="lower --learning-rate, or train with --dtype float32",
            details=[f"input rows of this step: {sorted({row for part in rows for row in part})}"],
        )
    set_learning_rate(optimizer, learning_rate)
    optimizer.step()
    sizes = parallel.everyones([sum(batch.num_tokens for batch in batches), sum(b.num_supervised for b in batches)])
    return StepResult(loss, norm, sum(tokens for tokens, _ in sizes), sum(supervised for _, supervised in sizes))


def _clip(parameters: Sequence[nn.Parameter], max_norm: float) -> float:
    """Scale gradients down to ``max_norm`` and give their L2 norm before; sharded ones and others together."""
    sharded = [parameter for parameter in parameters if isinstance(parameter, DTensor)]
    whole = [parameter for parameter in parameters if not isinstance(parameter, DTensor)]
    groups = [group for group in (sharded, whole) if group]
    norms = [nn.utils.get_total_norm([p.grad for p in group if p.grad is not None]) for group in groups]
    norms = [norm.full_tensor() if isinstance(norm, DTensor) else norm for norm in norms]
    norm = norms[0] if len(norms) == 1 else torch.linalg.vector_norm(torch.stack(norms))
    for group in groups:
        nn.utils.clip_grads_with_norm_(group, max_norm, norm)
    return float(norm)


@torch.no_grad()
def mean_loss(
    model: PreTrainedModel,
    batches: Sequence[PackedBatch],
    *,
    forward: Forward,
    objective: Objective,
    parallel: Parallel = ALONE,
) -> float:
    """Loss over ``batches`` without gradients; divided once as in training.

    Args:
        model: read alone.
        batches: all of them, in every process; each computes its part.
        forward: as in training.
        objective: as in training.
        parallel: the processes of the run.
    """
    total = 0.0
    for batch, counts in parallel.passes(parallel.portion(batches)):
        logprobs_S = forward(model, batch)
        total += objective(logprobs_S, *batch.beside)[0].item() if counts else 0.0
    return float(sum(parallel.everyones(total))) / sum(batch.weight for batch in batches)
