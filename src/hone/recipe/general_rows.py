"""Supervised fine-tuning with general rows beside the data's, on which the model is held to its base.

On a general row nothing is to be learnt: the loss is KL(base || model) at each token of the base's own answer, with the
adapter off as the reference (Li and Hoiem 2016, "Learning without forgetting", arXiv:1606.09282, with the whole
distribution as the target). It is 0 where training begins. The answers themselves as targets would sharpen the model:
what the base finds likeliest is not all that it finds likely. Rows that the user gives are learnt like the data's.

General rows are few and short, and a pass of their own would cost many times their tokens, so they stand in one batch
with the data's. What the base gives at their places never changes and is computed once: hidden states where the head is
frozen, as the logits follow from them at D numbers a token in place of V; logits where it is not.

Shape legend: S supervised tokens of a batch, G those of general rows, D width of the model, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor
from transformers import PreTrainedModel

from hone.data.pack import PackedBatch, pack, plan_micro_batches
from hone.evaluation.divergence import kl_divergence
from hone.model.forward import (
    Forward,
    logits_pass,
    packed_hidden,
    packed_logprobs,
    padded_logprobs,
    targets_of,
)
from hone.model.head import find_frozen_head, token_divergences, token_logprobs
from hone.model.lora import adapter_disabled
from hone.recipe.method import Method
from hone.types import TokenSequence

__all__ = ["HeldBatch", "held_to_base"]


@dataclass(frozen=True, slots=True)
class HeldBatch(PackedBatch):
    """A batch with general rows in it.

    Args:
        general: for each sequence, its number among the general rows; None for a row of the data.
    """

    general: tuple[int | None, ...]


def held_to_base(method: Method, general: Sequence[TokenSequence], *, max_tokens: int) -> Method:
    """The method with ``general`` rows among its own; its validation stays as it is.

    Args:
        method: supervised fine-tuning.
        general: rendered rows of the base's own answers; each object is told from the data's by identity.
        max_tokens: tokens of one pass of the base over them.
    """
    numbers = {id(sequence): number for number, sequence in enumerate(general)}
    padded = method.forward is padded_logprobs

    def collate(sequences: Sequence[TokenSequence], *, max_tokens: int) -> list[PackedBatch]:
        plan = plan_micro_batches(sequences, max_tokens=max_tokens, padded=padded)
        return [_pack([sequences[index] for index in indices], numbers) for indices in plan]

    return replace(
        method,
        train=[*method.train, *general],
        collate=collate,
        forward=_HeldForward(method.forward, general, max_tokens),
    )


def _pack(sequences: Sequence[TokenSequence], numbers: dict[int, int]) -> PackedBatch:
    batch = pack(sequences)
    general = tuple(numbers.get(id(sequence)) for sequence in sequences)
    if all(number is None for number in general):
        return batch
    return HeldBatch(**{one.name: getattr(batch, one.name) for one in fields(batch)}, general=general)


class _HeldForward:
    """Log-probabilities of the data's answers; and of general rows the divergence from the base, below zero.

    So the objective's sum of what is lost is that of both.
    """

    def __init__(self, forward: Forward, general: Sequence[TokenSequence], max_tokens: int) -> None:
        self._forward = forward
        self._logits = logits_pass(forward)
        self._general = general
        self._max_tokens = max_tokens
        self._of_base: list[Tensor] = []  # of each general row: hidden states [G, D], or logits [G, V]

    def __call__(self, model: PreTrainedModel, batch: PackedBatch) -> Tensor:
        """Values [S] of a batch, those of general rows last."""
        if not isinstance(batch, HeldBatch):
            return self._forward(model, batch)
        head = find_frozen_head(model) if self._forward is packed_logprobs else None
        base_G = self._base(model, batch, packed_hidden if head else self._logits)
        device = base_G.device
        held_S = torch.tensor([batch.general[owner] is not None for owner in batch.owners_S], device=device)
        targets_S = targets_of(batch, device)[~held_S]
        if head:
            hidden_SD = packed_hidden(model, batch)
            learnt_S = token_logprobs(hidden_SD[~held_S], head, targets_S)
            return torch.cat([learnt_S, -token_divergences(hidden_SD[held_S], base_G, head)])
        logits_SV = self._logits(model, batch)
        learnt_S = torch.log_softmax(logits_SV[~held_S].float(), dim=-1).gather(1, targets_S.unsqueeze(1)).squeeze(1)
        return torch.cat([learnt_S, -kl_divergence(base_G, logits_SV[held_S])])

    @torch.no_grad()
    def _base(self, model: PreTrainedModel, batch: HeldBatch, state: Forward) -> Tensor:
        """What the base gives at the places [G] of the batch's general rows, in their order."""
        if not self._of_base:
            found: dict[int, Tensor] = {}
            with adapter_disabled(model):
                padded = self._forward is padded_logprobs
                for indices in plan_micro_batches(self._general, max_tokens=self._max_tokens, padded=padded):
                    alone = pack([self._general[index] for index in indices])
                    parts = torch.split(state(model, alone), [alone.owners_S.count(at) for at in range(len(indices))])
                    found |= dict(zip(indices, (part.clone() for part in parts), strict=True))
            self._of_base = [found[number] for number in range(len(self._general))]
        return torch.cat([self._of_base[number] for number in batch.general if number is not None])
