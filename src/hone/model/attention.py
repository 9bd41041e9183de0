"""Attention over packed tokens: gather segments and their paths into groups, attend, scatter back.

transformers lets a caller register an attention function by name (its ``AttentionInterface``); every architecture
that supports the interface hands us query, key and value after rotary embedding. No layer is replaced and nothing is
patched. On the CPU the groups are multiplied by hand (``attention_products.py``); elsewhere by fused kernels, or, where
that is asked for and CUDA's kernel can, as segments of any length without groups (``attention_varlen.py``).

Shape legend: T tokens of the batch; H query heads, K key-value heads; D width of a head; B rows of a group, Q most
queries of one, L longest path.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, PreTrainedModel

from hone.data.pack import pack
from hone.model.attention_groups import AttentionGroup, AttentionGroups
from hone.model.attention_products import attention_by_products
from hone.model.attention_varlen import attention_by_varlen, varlen_refusal
from hone.model.head import find_output_head
from hone.types import TokenSequence

__all__ = [
    "attention_in_words",
    "attention_named",
    "capped_attention",
    "packed_attention",
    "packed_attention_enabled",
    "supports_packing",
]

PACKED_ATTENTION = "hone_packed"
_PACKED_VARLEN = "hone_packed_varlen"
_PROBE = "hone_packed_probe"
# Architectures that declare support for the interface, and then keep the window or the keywords from the attention
# function (Phi-3.5-MoE, Nemotron), or write a learned bias into the mask that this path has none of (Doge), or, in
# older releases, do not say that some of their layers are recurrent (RecurrentGemma).
_NOT_PACKABLE = frozenset({"doge", "nemotron", "phimoe", "recurrent_gemma"})
# Devices on which products by hand are faster than the fused kernels.
_BY_PRODUCTS = frozenset({"cpu"})


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
    varlen: bool = False,
    **_: Any,
) -> tuple[Tensor, None]:
    """Causal attention of each packed sequence over itself alone.

    Args:
        module: the attention layer; read for nothing but its kind.
        query: [1, H, T, D].
        key: [1, K, T, D].
        value: [1, K, T, D].
        attention_mask: always None; the groups know what sees what.
        groups: index tensors of the batch.
        scaling: factor on the products; 1 / sqrt(D) where None.
        dropout: must be 0: training with attention dropout is not reproducible under packing.
        sliding_window: tokens that a token sees, itself included; all where None.
        softcap: bound of the scores, ``softcap * tanh(scores / softcap)`` (Gemma 2).
        s_aux: [H] attention sinks (gpt-oss).
        varlen: without groups where the kernel for segments of any length can.

    Returns:
        [1, T, H, D], as transformers expects, and None in place of probabilities.
    """
    if dropout:
        raise ValueError("packed attention has no dropout")
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    query_THD, key_TKD, value_TKD = (tensor[0].transpose(0, 1) for tensor in (query, key, value))
    plain = softcap is None and s_aux is None
    if varlen and not varlen_refusal(query_THD, value_TKD, plain=plain):
        out_THD = attention_by_varlen(query_THD, key_TKD, value_TKD, groups, scale=scale, window=sliding_window)
        return out_THD.unsqueeze(0), None
    if plain and query.device.type in _BY_PRODUCTS:
        out_THD = attention_by_products(query_THD, key_TKD, value_TKD, groups, scale=scale, window=sliding_window)
        return out_THD.unsqueeze(0), None
    outputs = []
    for group in groups.groups:
        query_BHQD = query_THD[group.queries_BQ].transpose(1, 2)
        key_BKLD, value_BKLD = (states[group.keys_BL].transpose(1, 2) for states in (key_TKD, value_TKD))
        if plain:
            out_BHQD = _fused_attention(query_BHQD, key_BKLD, value_BKLD, group, scale, sliding_window)
        else:
            bias = group.bias(sliding_window, query.dtype)
            out_BHQD = capped_attention(query_BHQD, key_BKLD, value_BKLD, bias, scale, softcap, s_aux)
        outputs.append(out_BHQD.transpose(1, 2).flatten(0, 1))
    return torch.cat(outputs)[groups.queries_T].unsqueeze(0), None


def _fused_attention(
    query_BHQD: Tensor, key_BKLD: Tensor, value_BKLD: Tensor, group: AttentionGroup, scale: float, window: int | None
) -> Tensor:
    grouped = query_BHQD.shape[1] != key_BKLD.shape[1]
    if group.is_causal and (window is None or window >= key_BKLD.shape[2]):
        # causal and right-padded: the padding comes after every query's own position, so no mask is needed
        return nn.functional.scaled_dot_product_attention(
            query_BHQD, key_BKLD, value_BKLD, is_causal=True, scale=scale, enable_gqa=grouped
        )
    bias = group.bias(window, query_BHQD.dtype).unsqueeze(1)
    return nn.functional.scaled_dot_product_attention(
        query_BHQD, key_BKLD, value_BKLD, attn_mask=bias, scale=scale, enable_gqa=grouped
    )


def capped_attention(
    query_BHQD: Tensor, key_BKLD: Tensor, value_BKLD: Tensor, bias: Tensor, scale: float,
    softcap: float | None, sinks_H: Tensor | None,
) -> Tensor:  # fmt: skip
    """Attention with a bound on the scores or with sinks, which no fused kernel has.

    Args:
        query_BHQD: queries.
        key_BKLD: keys.
        value_BKLD: values.
        bias: [B, Q, L], 0 where a query sees a key, else minus infinity.
        scale: factor on the products.
        softcap: see :func:`packed_attention`.
        sinks_H: see ``s_aux`` there.

    Returns:
        [B, H, Q, D].
    """
    batch, heads, queries, width = query_BHQD.shape
    kv_heads, keys = key_BKLD.shape[1:3]
    folded = (query_BHQD * scale).reshape(batch, kv_heads, heads // kv_heads * queries, width)
    scores = (folded @ key_BKLD.transpose(-1, -2)).view(batch, heads, queries, keys)
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    scores = scores + bias.unsqueeze(1)
    if sinks_H is not None:
        sinks = sinks_H.to(scores.dtype).view(1, heads, 1, 1).expand(batch, heads, queries, 1)
        scores = torch.cat([scores, sinks], dim=-1)
    # softmax reduces in float32 inside the kernel, whatever the dtype of its input
    weights = torch.softmax(scores, dim=-1)[..., :keys]
    out = weights.reshape(batch, kv_heads, heads // kv_heads * queries, keys) @ value_BKLD
    return out.view(batch, heads, queries, value_BKLD.shape[-1])


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
def packed_attention_enabled(model: PreTrainedModel, *, varlen: bool = False) -> Iterator[None]:
    """Let ``model`` attend over packed batches inside the block; its own attention is back afterwards.

    Args:
        model: see :func:`supports_packing`.
        varlen: let CUDA's kernel for segments of any length attend where it can. Not measured on a GPU yet, so
            nothing asks for it by itself; ``benchmarks/gpu.py`` compares it with the oracle and then times it.
    """
    find_output_head(model)  # looked for while the model still takes plain batches
    AttentionInterface.register(PACKED_ATTENTION, packed_attention)
    AttentionInterface.register(_PACKED_VARLEN, partial(packed_attention, varlen=True))
    with attention_named(model, _PACKED_VARLEN if varlen else PACKED_ATTENTION):
        yield


@contextmanager
def attention_named(model: PreTrainedModel, name: str) -> Iterator[None]:
    """Let ``model`` attend in another way inside the block.

    Args:
        model: any.
        name: of transformers' attention interface, as ``model.config._attn_implementation`` gave it elsewhere.
    """
    previous = model.config._attn_implementation
    model.set_attn_implementation(name)
    try:
        yield
    finally:
        model.set_attn_implementation(previous)


@torch.no_grad()
def attention_in_words(model: PreTrainedModel, *, varlen: bool = False) -> str:
    """How ``model`` attends on packed batches, for a person; seen in a forward pass of two tokens.

    Args:
        model: inside :func:`packed_attention_enabled`.
        varlen: as it was given there; where the kernel refuses some layers, the reason is told.
    """
    ways: dict[str, None] = {}

    def note(module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, **named: Any) -> Any:
        plain = named.get("softcap") is None and named.get("s_aux") is None
        refusal = varlen_refusal(query[0].transpose(0, 1), value[0].transpose(0, 1), plain=plain) if varlen else "-"
        way = "matrix products" if query.device.type in _BY_PRODUCTS else "SDPA on padded groups"
        way = way if plain else "plain softmax on padded groups"
        ways.setdefault("the varlen kernel" if not refusal else way if refusal == "-" else f"{way} ({refusal})")
        return packed_attention(module, query, key, value, mask, varlen=varlen, **named)

    AttentionInterface.register(_PROBE, note)
    batch = pack([TokenSequence((0, 0), (False, True), 1)])
    with attention_named(model, _PROBE):
        model(
            input_ids=torch.tensor([batch.ids_T], device=model.device),
            position_ids=torch.tensor([batch.positions_T], device=model.device),
            groups=AttentionGroups(batch, model.device),
            use_cache=False,
        )
    return " and ".join(ways)
