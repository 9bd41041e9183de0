"""The pass of on-policy distillation: how far the model is from its teacher at each token of an answer.

Both read the same packed batch. The whole vocabulary is compared, so that nothing is left to the draw of one token;
where the heads are known and the model's is frozen, no tensor of all logits exists.

Shape legend: S supervised tokens of a batch, V vocabulary.
"""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import PreTrainedModel

from hone.data.pack import PackedBatch
from hone.model.attention import packed_attention_enabled, supports_packing
from hone.model.forward import Forward, logits_pass, packed_hidden, packed_logits, packed_logprobs, padded_logits
from hone.model.head import find_frozen_head, find_output_head, reverse_divergences

__all__ = ["divergence_pass"]


def divergence_pass(forward: Forward, teacher: PreTrainedModel) -> Forward:
    """The pass that gives KL(model || teacher) of each supervised token, [S], in nats, on the path of ``forward``.

    Args:
        forward: the packed or the padded pass of log-probabilities.
        teacher: reads the same token ids; it is not trained.

    Source: Agarwal et al. 2024 (arXiv:2306.13649), equation 1 with beta = 1.
    """
    is_packed = supports_packing(teacher)

    def divergences(model: PreTrainedModel, batch: PackedBatch) -> Tensor:
        head = find_frozen_head(model) if forward is packed_logprobs else None
        their_head = find_output_head(teacher) if is_packed else None
        if head is None or their_head is None:
            return _of_logits(logits_pass(forward)(model, batch), _their_logits(teacher, batch, is_packed=is_packed))
        with torch.no_grad(), packed_attention_enabled(teacher):
            theirs_SE = packed_hidden(teacher, batch)
        return reverse_divergences(packed_hidden(model, batch), head, theirs_SE, their_head)

    return divergences


@torch.no_grad()
def _their_logits(teacher: PreTrainedModel, batch: PackedBatch, *, is_packed: bool) -> Tensor:
    if not is_packed:
        return padded_logits(teacher, batch)
    with packed_attention_enabled(teacher):
        return packed_logits(teacher, batch)


def _of_logits(logits_SV: Tensor, theirs_SV: Tensor) -> Tensor:
    size = min(logits_SV.shape[1], theirs_SV.shape[1])
    logs_SV, their_logs_SV = (torch.log_softmax(one[:, :size].float(), dim=-1) for one in (logits_SV, theirs_SV))
    return (logs_SV.exp() * (logs_SV - their_logs_SV)).sum(dim=-1)
