"""The forward pass over a packed batch: hidden states for all tokens, log-probabilities of the supervised ones alone.

Shape legend: T tokens of the batch, S supervised tokens, V vocabulary, D width, B sequences, L longest of them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from hone.data.pack import PackedBatch
from hone.model.attention_groups import AttentionGroups
from hone.model.head import find_output_head, token_logprobs

__all__ = [
    "Forward",
    "logits_pass",
    "packed_hidden",
    "packed_logits",
    "packed_logprobs",
    "padded_logits",
    "padded_logprobs",
    "targets_of",
]

# (model, batch) to the log-probabilities [S] of the supervised tokens, float32
Forward = Callable[[PreTrainedModel, PackedBatch], Tensor]


def logits_pass(forward: Forward) -> Forward:
    """The pass that gives logits [S, V] of the same path as ``forward``, one of this module's two."""
    return packed_logits if forward is packed_logprobs else padded_logits


def packed_logprobs(model: PreTrainedModel, batch: PackedBatch) -> Tensor:
    """Log-probabilities [S] of the supervised tokens, float32, on the packed path.

    Must run inside ``packed_attention_enabled(model)``. No tensor of all logits exists, unless the model's head is of
    a form that :func:`hone.model.head.find_output_head` does not know.
    """
    head = find_output_head(model)
    if head is None:
        return _logprobs(packed_logits(model, batch), batch)
    return token_logprobs(packed_hidden(model, batch), head, targets_of(batch, model.device))


def packed_hidden(model: PreTrainedModel, batch: PackedBatch) -> Tensor:
    """The hidden states [S, D] that the head makes the supervised tokens from; for models whose head is known.

    Must run inside ``packed_attention_enabled(model)``.
    """
    decoder: Any = model.get_decoder()
    hidden_TD: Tensor = decoder(**_packed_inputs(batch, model.device), use_cache=False).last_hidden_state[0]
    return hidden_TD[torch.tensor(batch.predictors_S, dtype=torch.long, device=model.device)]


def padded_logprobs(model: PreTrainedModel, batch: PackedBatch) -> Tensor:
    """The same on the reference path, through all logits."""
    return _logprobs(padded_logits(model, batch), batch)


def _logprobs(logits_SV: Tensor, batch: PackedBatch) -> Tensor:
    targets_S = targets_of(batch, logits_SV.device)
    return torch.log_softmax(logits_SV.float(), dim=-1).gather(1, targets_S.unsqueeze(1)).squeeze(1)


def _packed_inputs(batch: PackedBatch, device: torch.device) -> dict[str, Any]:
    return {
        "input_ids": torch.tensor([batch.ids_T], device=device),
        "position_ids": torch.tensor([batch.positions_T], device=device),
        "groups": AttentionGroups(batch, device),
    }


def packed_logits(model: PreTrainedModel, batch: PackedBatch) -> Tensor:
    """Logits [S, V] of the supervised tokens, on the packed path.

    Must run inside ``packed_attention_enabled(model)``. The selection of supervised rows is transformers' own
    ``logits_to_keep``, so the head, soft-capping and logit scaling of every architecture are kept as they are.
    """
    device = model.device
    output = model(
        **_packed_inputs(batch, device),
        logits_to_keep=torch.tensor(batch.predictors_S, dtype=torch.long, device=device),
        use_cache=False,
    )
    logits: Tensor = output.logits[0]
    return logits


def padded_logits(model: PreTrainedModel, batch: PackedBatch) -> Tensor:
    """Logits [S, V] of the same tokens, on the reference path: right-padded rows and the model's own attention.

    For architectures that mix tokens in other ways than attention, and the oracle of the packed path's tests.
    """
    device = model.device
    paths = [batch.path(leaf) for leaf in batch.leaves]
    ids = torch.zeros(len(paths), max(map(len, paths)), dtype=torch.long, device=device)
    mask = torch.zeros_like(ids)
    for row, path in enumerate(paths):
        ids[row, : len(path)] = torch.tensor([batch.ids_T[index] for index in path], device=device)
        mask[row, : len(path)] = 1
    logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits
    rows = torch.tensor(batch.owners_S, dtype=torch.long, device=device)
    # the column of a token is its position within its own sequence
    columns = torch.tensor([batch.positions_T[index] for index in batch.predictors_S], dtype=torch.long, device=device)
    selected: Tensor = logits[rows, columns]
    return selected


def targets_of(batch: PackedBatch, device: torch.device | str) -> Tensor:
    """The supervised token ids [S] of ``batch`` on ``device``."""
    return torch.tensor(batch.targets_S, dtype=torch.long, device=device)
