"""How far a tuned model has gone from its base, measured where the base answers: Kullback-Leibler divergence.

    KL(base || tuned) = sum over tokens v of p_base(v) * (log p_base(v) - log p_tuned(v))

for each position of an answer that the base itself gave, in nats. It is 0 where nothing has changed, and grows before
any answer does. Tokens that the base does not have (training added them) have no probability there and no part in it.

Shape legend: S supervised tokens, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel

from hone.data.pack import PackedBatch, pack, plan_micro_batches
from hone.model.forward import targets_of
from hone.model.lora import adapter_disabled
from hone.types import TokenSequence

__all__ = ["Divergence", "answer_divergence", "kl_divergence"]


@dataclass(frozen=True, slots=True)
class Divergence:
    """One answer of the base, as base and tuned model see it.

    Args:
        kl_nats: sum of KL(base || tuned) over its tokens.
        base_bits: bits that the base needs for it.
        tuned_bits: bits that the tuned model needs for it.
        num_tokens: its tokens.
    """

    kl_nats: float
    base_bits: float
    tuned_bits: float
    num_tokens: int


def kl_divergence(base_SV: Tensor, tuned_SV: Tensor) -> Tensor:
    """KL(base || tuned) [S] in nats, float32, from logits [S, V]; those of the base may be -inf."""
    base_SV = torch.log_softmax(base_SV.float(), dim=-1)
    tuned_SV = torch.log_softmax(tuned_SV.float(), dim=-1)
    # where p is 0 the difference is infinite, and its product with p is 0 by the limit
    return torch.where(base_SV.isneginf(), 0.0, base_SV.exp() * (base_SV - tuned_SV)).sum(dim=-1)


@torch.inference_mode()
def answer_divergence(
    model: PreTrainedModel,
    sequences: Sequence[TokenSequence],
    *,
    logits: Callable[[PreTrainedModel, PackedBatch], Tensor],
    max_tokens: int = 1024,
    on_done: Callable[[int], None] = lambda count: None,
) -> list[Divergence]:
    """How each sequence looks to the tuned model and to its base.

    Args:
        model: with its adapter, in evaluation mode; with the adapter off it is the base.
        sequences: prompts with the base's own answers, which alone are supervised.
        logits: all logits of the supervised tokens.
        max_tokens: tokens of one forward pass; all logits of its supervised ones are held, twice.
        on_done: called with the number of sequences measured so far.
    """
    kl, base_nats, tuned_nats = ([0.0] * len(sequences) for _ in range(3))
    done = 0
    for indices in plan_micro_batches(sequences, max_tokens=max_tokens):
        batch = pack([sequences[index] for index in indices])
        with adapter_disabled(model):
            base_SV = logits(model, batch)
        tuned_SV = logits(model, batch)
        columns = (kl_divergence(base_SV, tuned_SV), _nats(base_SV, batch), _nats(tuned_SV, batch))
        for owner, *values in zip(batch.owners_S, *(column.tolist() for column in columns), strict=True):
            for sums, value in zip((kl, base_nats, tuned_nats), values, strict=True):
                sums[indices[owner]] += value
        done += len(indices)
        on_done(done)
    return [
        Divergence(kl[place], base_nats[place] / math.log(2), tuned_nats[place] / math.log(2), one.num_supervised)
        for place, one in enumerate(sequences)
    ]


def _nats(logits_SV: Tensor, batch: PackedBatch) -> Tensor:
    targets_S = targets_of(batch, logits_SV.device)
    return -torch.log_softmax(logits_SV.float(), dim=-1).gather(1, targets_S.unsqueeze(1)).squeeze(1)
