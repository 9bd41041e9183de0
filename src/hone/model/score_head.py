"""The head of a reward model: one number for a whole sequence, from the hidden state of its last token.

It is a child of the base under the name that transformers' sequence classification gives it, ``score``; so the files
load there. It begins at zero: every answer then has the score 0.

Shape legend: T tokens of a batch, B sequences, D width, L the longest sequence.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from hone.data.pack import PackedBatch
from hone.errors import ModelError
from hone.model.attention_groups import AttentionGroups
from hone.model.forward import Forward, packed_logprobs

__all__ = ["SCORE", "attach_score_head", "packed_scores", "padded_scores", "score_head_of", "scores_pass"]

SCORE = "score"
"""Name of the head's module; transformers' Llama, Qwen, Gemma, Mistral, Phi and GPT-2 all use it."""


def attach_score_head(model: PreTrainedModel) -> nn.Linear:
    """Give ``model`` a head of zeros, in float32; the one that it has, where it has one.

    Raises:
        ModelError: the architecture uses that name for something else, or has no decoder to read hidden states from.
    """
    known = score_head_of(model)
    if known is not None:
        return known
    if hasattr(model, SCORE) or model.get_decoder() in (None, model):
        raise ModelError(
            f"a reward model cannot be made of a {type(model).__name__}",
            where="--method reward",
            remedy="use a decoder such as Llama, Qwen, Gemma, Mistral or Phi",
        )
    head = nn.Linear(model.config.get_text_config().hidden_size, 1, bias=False, device=model.device)
    nn.init.zeros_(head.weight)
    model.add_module(SCORE, head)
    return head


def score_head_of(model: nn.Module) -> nn.Linear | None:
    """The head of a reward model; None where there is none."""
    head = getattr(model, SCORE, None)
    return head if isinstance(head, nn.Linear) and head.out_features == 1 else None


def scores_pass(forward: Forward) -> Forward:
    """The pass that gives scores [B] on the same path as ``forward``."""
    return packed_scores if forward is packed_logprobs else padded_scores


def packed_scores(model: PreTrainedModel, batch: PackedBatch) -> Tensor:
    """Scores [B] of the sequences, float32, on the packed path; must run inside ``packed_attention_enabled``."""
    device = model.device
    decoder: Any = model.get_decoder()
    hidden_TD = decoder(
        input_ids=torch.tensor([batch.ids_T], device=device),
        position_ids=torch.tensor([batch.positions_T], device=device),
        groups=AttentionGroups(batch, device),
        use_cache=False,
    ).last_hidden_state[0]
    ends = [batch.segments[leaf].start + batch.segments[leaf].length - 1 for leaf in batch.leaves]
    return _scores(model, hidden_TD[torch.tensor(ends, device=device)])


def padded_scores(model: PreTrainedModel, batch: PackedBatch) -> Tensor:
    """The same on the reference path."""
    device = model.device
    paths = [batch.path(leaf) for leaf in batch.leaves]
    ids_BL = torch.zeros(len(paths), max(map(len, paths)), dtype=torch.long, device=device)
    mask_BL = torch.zeros_like(ids_BL)
    for row, path in enumerate(paths):
        ids_BL[row, : len(path)] = torch.tensor([batch.ids_T[index] for index in path], device=device)
        mask_BL[row, : len(path)] = 1
    decoder: Any = model.get_decoder()
    hidden_BLD = decoder(input_ids=ids_BL, attention_mask=mask_BL, use_cache=False).last_hidden_state
    ends_B = mask_BL.sum(dim=1) - 1
    return _scores(model, hidden_BLD[torch.arange(len(paths), device=device), ends_B])


def _scores(model: PreTrainedModel, hidden_BD: Tensor) -> Tensor:
    head = score_head_of(model)
    assert head is not None, "a reward model has a head"
    scores_B: Tensor = head(hidden_BD.to(head.weight.dtype))[:, 0]
    return scores_B.float()
