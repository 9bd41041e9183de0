"""How far a tuned model has gone from its base, measured where the base answers: Kullback-Leibler divergence.

    KL(base || tuned) = sum over tokens v of p_base(v) * (log p_base(v) - log p_tuned(v))

for each position of an answer that the base itself gave, in nats. It is 0 where nothing has changed, and grows before
any answer does. Tokens that the base does not have (training added them) have no probability there and no part in it.

Shape legend: S supervised tokens, P some of them, V vocabulary.
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

__all__ = ["Divergence", "answer_divergence", "answer_divergences", "kl_divergence"]


# Whole distributions in float32: 64 of 50,000 tokens are 13 MB a tensor, and half a dozen of them are needed at once.
_POSITIONS_AT_ONCE = 64


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
    parts = zip(torch.split(base_SV, _POSITIONS_AT_ONCE), torch.split(tuned_SV, _POSITIONS_AT_ONCE), strict=True)
    return torch.cat([_kl_of_part(base_PV, tuned_PV) for base_PV, tuned_PV in parts])


def _kl_of_part(base_PV: Tensor, tuned_PV: Tensor) -> Tensor:
    base_PV = torch.log_softmax(base_PV.float(), dim=-1)
    tuned_PV = torch.log_softmax(tuned_PV.float(), dim=-1)
    # where p is 0 the difference is infinite, and its product with p is 0 by the limit
    return torch.where(base_PV.isneginf(), 0.0, base_PV.exp() * (base_PV - tuned_PV)).sum(dim=-1)


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
    [found] = answer_divergences(
        model, sequences, [lambda: None], logits=logits, max_tokens=max_tokens, on_done=on_done
    )
    return found


@torch.inference_mode()
def answer_divergences(
    model: PreTrainedModel,
    sequences: Sequence[TokenSequence],
    switches: Sequence[Callable[[], None]],
    *,
    logits: Callable[[PreTrainedModel, PackedBatch], Tensor],
    max_tokens: int = 1024,
    on_done: Callable[[int], None] = lambda count: None,
) -> list[list[Divergence]]:
    """The same for several states of the adapter, as strengths; the base is computed once for all of them.

    Args:
        model: as for :func:`answer_divergence`.
        sequences: as for :func:`answer_divergence`.
        switches: each brings the adapter into one state; the last one's stays.
        logits: as for :func:`answer_divergence`.
        max_tokens: as for :func:`answer_divergence`.
        on_done: as for :func:`answer_divergence`.

    Returns:
        One list of all sequences for each of ``switches``.
    """
    sums = [[[0.0, 0.0, 0.0] for _ in sequences] for _ in switches]  # KL, base and tuned, all in nats
    done = 0
    for indices in plan_micro_batches(sequences, max_tokens=max_tokens):
        batch = pack([sequences[index] for index in indices])
        with adapter_disabled(model):
            base_SV = logits(model, batch)
        base_nats_S = _nats(base_SV, batch)
        for switch, found in zip(switches, sums, strict=True):
            switch()
            tuned_SV = logits(model, batch)
            columns = (kl_divergence(base_SV, tuned_SV), base_nats_S, _nats(tuned_SV, batch))
            for owner, *values in zip(batch.owners_S, *(column.tolist() for column in columns), strict=True):
                row = found[indices[owner]]
                row[:] = [before + value for before, value in zip(row, values, strict=True)]
        done += len(indices)
        on_done(done)
    return [
        [
            Divergence(kl, base / math.log(2), tuned / math.log(2), one.num_supervised)
            for (kl, base, tuned), one in zip(found, sequences, strict=True)
        ]
        for found in sums
    ]


def _nats(logits_SV: Tensor, batch: PackedBatch) -> Tensor:
    targets_S = targets_of(batch, logits_SV.device)
    parts = zip(torch.split(logits_SV, _POSITIONS_AT_ONCE), torch.split(targets_S, _POSITIONS_AT_ONCE), strict=True)
    nats = [
        -torch.log_softmax(one.float(), dim=-1).gather(1, targets.unsqueeze(1)).squeeze(1) for one, targets in parts
    ]
    return torch.cat(nats)
