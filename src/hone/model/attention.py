"""Attention over packed tokens: gather into right-padded causal groups, attend, scatter back.

transformers lets a caller register an attention function by name (its ``AttentionInterface``); every architecture
that supports the interface hands us query, key and value after rotary embedding. No layer is replaced and nothing is
patched. A function without a registered mask gets no mask, and a causal, right-padded group needs none.

Shape legend: B sequences of a group, L length of its longest, T real tokens, H query heads, K key-value heads,
G = H / K query heads for each key-value head, D width of a head.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, PreTrainedModel

from hone.data.pack import PackedBatch
from hone.model.head import find_output_head

__all__ = [
    "AttentionGroups",
    "attention_groups",
    "packed_attention",
    "packed_attention_enabled",
    "supports_packing",
]

PACKED_ATTENTION = "hone_packed"
# Up to this length the probabilities are cheap to keep, and plain matrix products beat the CPU's fused kernel.
_PRODUCTS_UP_TO_LENGTH = 512
# Architectures that declare support for the interface, and then keep the window or the keywords from the attention
# function (Phi-3.5-MoE, Nemotron), or write a learned bias into the mask that this path has none of (Doge).
_NOT_PACKABLE = frozenset({"doge", "nemotron", "phimoe"})


@dataclass(frozen=True, slots=True)
class AttentionGroups:
    """Index tensors that take T packed tokens to right-padded groups and back.

    Args:
        gather: per group, indices into T, shape [B, L]; padding points at token 0 and is never read back.
        scatter_T: for each packed token, its index in the concatenation of all flattened groups.
    """

    gather: tuple[Tensor, ...]
    scatter_T: Tensor


def attention_groups(batch: PackedBatch, device: torch.device | str) -> AttentionGroups:
    """Index tensors of ``batch`` on ``device``."""
    starts = [0]
    for length in batch.lengths:
        starts.append(starts[-1] + length)
    scatter = [0] * batch.num_tokens
    gather = []
    offset = 0
    for group in batch.groups:
        longest = max(batch.lengths[index] for index in group)
        rows = []
        for place, index in enumerate(group):
            length, start = batch.lengths[index], starts[index]
            rows.append([*range(start, start + length), *([0] * (longest - length))])
            for position in range(length):
                scatter[start + position] = offset + place * longest + position
        offset += longest * len(group)
        gather.append(torch.tensor(rows, device=device))
    return AttentionGroups(tuple(gather), torch.tensor(scatter, device=device))


def packed_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    groups: AttentionGroups,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Causal attention of each packed sequence over itself alone.

    Args:
        module: the attention layer; read for nothing but its kind.
        query: [1, H, T, D].
        key: [1, K, T, D].
        value: [1, K, T, D].
        attention_mask: always None; groups are causal and right-padded.
        groups: index tensors of the batch.
        scaling: factor on the products; 1 / sqrt(D) where None.
        dropout: must be 0: training with attention dropout is not reproducible under packing.
        sliding_window: tokens that a token sees, itself included; all where None.
        softcap: bound of the scores, ``softcap * tanh(scores / softcap)`` (Gemma 2).
        s_aux: [H] attention sinks (gpt-oss).

    Returns:
        [1, T, H, D], as transformers expects, and None in place of probabilities.
    """
    if dropout:
        raise ValueError("packed attention has no dropout")
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    query_THD, key_TKD, value_TKD = (tensor[0].transpose(0, 1) for tensor in (query, key, value))
    outputs = []
    for index_BL in groups.gather:
        length = index_BL.shape[1]
        query_BHLD, key_BKLD, value_BKLD = (
            tensor[index_BL].transpose(1, 2) for tensor in (query_THD, key_TKD, value_TKD)
        )
        window = sliding_window if sliding_window is not None and sliding_window < length else None
        plain = window is None and softcap is None and s_aux is None
        if plain and (query.device.type != "cpu" or length > _PRODUCTS_UP_TO_LENGTH):
            out_BHLD = nn.functional.scaled_dot_product_attention(
                query_BHLD, key_BKLD, value_BKLD, is_causal=True, scale=scale, enable_gqa=query.shape[1] != key.shape[1]
            )
        else:
            out_BHLD = _attention_by_products(query_BHLD, key_BKLD, value_BKLD, scale, window, softcap, s_aux)
        outputs.append(out_BHLD.transpose(1, 2).flatten(0, 1))
    packed_THD = torch.cat(outputs)[groups.scatter_T]
    return packed_THD.unsqueeze(0), None


def _attention_by_products(
    query_BHLD: Tensor,
    key_BKLD: Tensor,
    value_BKLD: Tensor,
    scale: float,
    window: int | None,
    softcap: float | None,
    sinks_H: Tensor | None,
) -> Tensor:
    # The G query heads of a key-value head become rows of one product: [B, K, G * L, D] x [B, K, D, L].
    batch, heads, length, width = query_BHLD.shape
    kv_heads = key_BKLD.shape[1]
    folded = (query_BHLD * scale).reshape(batch, kv_heads, (heads // kv_heads) * length, width)
    scores = (folded @ key_BKLD.transpose(-1, -2)).view(batch, heads, length, length)
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    scores = scores + _causal_bias(length, window, scores)
    if sinks_H is not None:
        sinks = sinks_H.to(scores.dtype).view(1, heads, 1, 1).expand(batch, heads, length, 1)
        scores = torch.cat([scores, sinks], dim=-1)
    # softmax reduces in float32 inside the kernel, whatever the dtype of its input
    probabilities = torch.softmax(scores, dim=-1)[..., :length]
    out = probabilities.reshape(batch, kv_heads, (heads // kv_heads) * length, length) @ value_BKLD
    return out.view(batch, heads, length, value_BKLD.shape[-1])


def _causal_bias(length: int, window: int | None, like: Tensor) -> Tensor:
    bias = torch.full((length, length), float("-inf"), dtype=like.dtype, device=like.device).triu(1)
    if window is not None:
        bias = bias + torch.full_like(bias, float("-inf")).tril(-window)
    return bias


def supports_packing(model: PreTrainedModel) -> bool:
    """Whether ``model`` takes its attention from transformers' interface and knows no other mixing of tokens.

    Layers that mix tokens by convolution or recurrence would let packed documents read each other, so they keep to
    padded batches. The proof's isolation check measures it on the user's own rows as well.
    """
    config = model.config.get_text_config()
    kinds = set(getattr(config, "layer_types", None) or ())
    only_attention = kinds <= {"full_attention", "sliding_attention"}
    return bool(model._supports_attention_backend) and only_attention and config.model_type not in _NOT_PACKABLE


@contextmanager
def packed_attention_enabled(model: PreTrainedModel) -> Iterator[None]:
    """Let ``model`` attend over packed batches inside the block; its own attention is back afterwards."""
    find_output_head(model)  # looked for while the model still takes plain batches
    AttentionInterface.register(PACKED_ATTENTION, packed_attention)
    previous = model.config._attn_implementation
    model.set_attn_implementation(PACKED_ATTENTION)
    try:
        yield
    finally:
        model.set_attn_implementation(previous)
