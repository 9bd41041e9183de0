"""The forward pass over a packed batch: hidden states for all tokens, logits for the supervised ones alone.

Shape legend: T real tokens, S supervised tokens, V vocabulary, B sequences, L longest of them.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from transformers import PreTrainedModel

from hone.data.pack import PackedBatch
from hone.model.attention import attention_groups

__all__ = ["Forward", "packed_logits", "padded_logits", "targets_of"]

Forward = Callable[[PreTrainedModel, PackedBatch], Tensor]


def packed_logits(model: PreTrainedModel, batch: PackedBatch) -> Tensor:
    """Logits [S, V] of the supervised tokens, on the packed path.

    Must run inside ``packed_attention_enabled(model)``. The selection of supervised rows is transformers' own
    ``logits_to_keep``, so the head, soft-capping and logit scaling of every architecture are kept as they are.
    """
    device = model.device
    output = model(
        input_ids=torch.tensor([batch.ids_T], device=device),
        position_ids=torch.tensor([batch.positions_T], device=device),
        groups=attention_groups(batch, device),
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
    longest = max(batch.lengths)
    starts = [0]
    for length in batch.lengths:
        starts.append(starts[-1] + length)
    ids = torch.zeros(len(batch.lengths), longest, dtype=torch.long, device=device)
    mask = torch.zeros_like(ids)
    for index, length in enumerate(batch.lengths):
        ids[index, :length] = torch.tensor(batch.ids_T[starts[index] : starts[index + 1]], device=device)
        mask[index, :length] = 1
    logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits
    rows = torch.tensor(batch.owners_S, dtype=torch.long, device=device)
    columns = torch.tensor(batch.predictors_S, dtype=torch.long, device=device)
    columns = columns - torch.tensor(starts, device=device)[rows]
    selected: Tensor = logits[rows, columns]
    return selected


def targets_of(batch: PackedBatch, device: torch.device | str) -> Tensor:
    """The supervised token ids [S] of ``batch`` on ``device``."""
    return torch.tensor(batch.targets_S, dtype=torch.long, device=device)
