"""Supervised fine-tuning with general rows beside the data's, on which the model is held to its base.

On a general row nothing is to be learnt: the loss is KL(base || model) at each token of the base's own answer, with the
adapter off as the reference (Li and Hoiem 2016, "Learning without forgetting", arXiv:1606.09282, with the whole
distribution as the target). It is 0 where training begins. The answers themselves as targets would sharpen the model:
what the base finds likeliest is not all that it finds likely. Rows that the user gives are learnt like the data's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from hone.data.pack import PackedBatch
from hone.engine.loop import micro_batches
from hone.evaluation.divergence import kl_divergence
from hone.model.forward import Forward
from hone.model.lora import adapter_disabled
from hone.objective.supervised import supervised_loss
from hone.recipe.method import Method
from hone.types import TokenSequence

__all__ = ["GeneralBatch", "held_to_base"]


@dataclass(frozen=True, slots=True)
class GeneralBatch(PackedBatch):
    """A batch of general rows: its supervised tokens are places where the model is held to its base."""

    @property
    def beside(self) -> tuple[Any, ...]:
        """The batch itself, which tells the objective what it is given."""
        return (self,)


def held_to_base(
    method: Method, general: Sequence[TokenSequence], *, logits: Callable[[PreTrainedModel, PackedBatch], Tensor]
) -> Method:
    """The method with ``general`` rows among its own; its validation stays as it is.

    Args:
        method: supervised fine-tuning.
        general: rendered rows of the base's own answers; each object is told from the data's by identity.
        logits: all logits of the supervised tokens, on the path of ``method.forward``.
    """
    known = {id(sequence) for sequence in general}

    def collate(sequences: Sequence[TokenSequence], *, max_tokens: int) -> list[PackedBatch]:
        domain = [one for one in sequences if id(one) not in known]
        others = [one for one in sequences if id(one) in known]
        held = [_as_general(batch) for batch in micro_batches(others, max_tokens=max_tokens)] if others else []
        return [*(micro_batches(domain, max_tokens=max_tokens) if domain else []), *held]

    return replace(
        method,
        train=[*method.train, *general],
        collate=collate,
        forward=_forward(method.forward, logits),
        objective=_objective,
    )


def _as_general(batch: PackedBatch) -> GeneralBatch:
    return GeneralBatch(**{one.name: getattr(batch, one.name) for one in fields(batch)})


def _forward(forward: Forward, logits: Callable[[PreTrainedModel, PackedBatch], Tensor]) -> Forward:
    def either(model: PreTrainedModel, batch: PackedBatch) -> Tensor:
        """Log-probabilities [S] of the data's answers; of general rows KL(base || model) [S]."""
        if not isinstance(batch, GeneralBatch):
            return forward(model, batch)
        with torch.no_grad(), adapter_disabled(model):
            base_SV = logits(model, batch)
        return kl_divergence(base_SV, logits(model, batch))

    return either


def _objective(values_S: Tensor, batch: GeneralBatch | None = None) -> tuple[Tensor, int, Mapping[str, Tensor]]:
    """The sum over tokens of either kind, in nats, and how many they are."""
    return supervised_loss(values_S) if batch is None else (values_S.sum(), values_S.shape[0], {})
