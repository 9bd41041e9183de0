"""The value head of PPO: what is expected of the rest of an answer, from the hidden state before each of its tokens.

It reads hidden states without sending a gradient into them: the policy is moved by its own loss alone. It stands beside
the model, is saved with checkpoints, and is no part of a version. It begins at zero.

Shape legend: S supervised tokens of a batch, B sequences, L the longest of them, D width.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from hone.data.pack import PackedBatch
from hone.errors import ModelError
from hone.model.forward import Forward, packed_hidden, packed_logprobs, padded_logprobs, targets_of
from hone.model.head import find_output_head, token_logprobs

__all__ = ["make_value_head", "values_pass"]


def make_value_head(model: PreTrainedModel) -> nn.Linear:
    """A head of zeros for ``model``, in float32 on its device.

    Raises:
        ModelError: the architecture has no decoder to read hidden states from.
    """
    if model.get_decoder() in (None, model):
        raise ModelError(
            f"a {type(model).__name__} has no hidden states that a value head could read",
            where="--method ppo",
            remedy="use --method grpo or rloo, which have none",
        )
    head = nn.Linear(model.config.get_text_config().hidden_size, 1, device=model.device)
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    return head


def values_pass(forward: Forward, head: nn.Linear) -> Forward:
    """The pass that gives log-probabilities and values of the supervised tokens together, [2, S], on the same path.

    Args:
        forward: the packed or the padded pass of log-probabilities.
        head: see :func:`make_value_head`.
    """
    if forward is packed_logprobs:

        def packed(model: PreTrainedModel, batch: PackedBatch) -> Tensor:
            output = find_output_head(model)
            hidden_SD = packed_hidden(model, batch)
            if output is None:  # the model's own head is asked, in a second pass
                return torch.stack([packed_logprobs(model, batch), _values(head, hidden_SD)])
            logprobs_S = token_logprobs(hidden_SD, output, targets_of(batch, model.device))
            return torch.stack([logprobs_S, _values(head, hidden_SD)])

        return packed

    def padded(model: PreTrainedModel, batch: PackedBatch) -> Tensor:
        return torch.stack([padded_logprobs(model, batch), _values(head, _padded_hidden(model, batch))])

    return padded


@torch.no_grad()
def _padded_hidden(model: PreTrainedModel, batch: PackedBatch) -> Tensor:
    device = model.device
    paths = [batch.path(leaf) for leaf in batch.leaves]
    ids_BL = torch.zeros(len(paths), max(map(len, paths)), dtype=torch.long, device=device)
    mask_BL = torch.zeros_like(ids_BL)
    for row, path in enumerate(paths):
        ids_BL[row, : len(path)] = torch.tensor([batch.ids_T[index] for index in path], device=device)
        mask_BL[row, : len(path)] = 1
    decoder: Any = model.get_decoder()
    hidden_BLD: Tensor = decoder(input_ids=ids_BL, attention_mask=mask_BL, use_cache=False).last_hidden_state
    rows_S = torch.tensor(batch.owners_S, device=device)
    columns_S = torch.tensor([batch.positions_T[index] for index in batch.predictors_S], device=device)
    return hidden_BLD[rows_S, columns_S]


def _values(head: nn.Linear, hidden_SD: Tensor) -> Tensor:
    values_S: Tensor = head(hidden_SD.detach().to(head.weight.dtype))[:, 0]
    return values_S
