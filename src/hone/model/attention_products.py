"""Attention of packed groups by plain matrix products, with its backward pass written out.

The query heads of a key-value head become rows of one product, so that short sequences fill the processor's matrix
units; softmax and its derivative are single fused kernels that reduce in float32. Probabilities are kept for the
backward pass while they are few, and computed again where they are many, as FlashAttention does (Dao et al. 2022,
arXiv:2205.14135).

Shape legend: T tokens of the batch; H query heads, K key-value heads, G = H / K; D width of a query and key head, E of
a value head; B rows of a group, Q most queries, L longest path; N = B K, R = G Q.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from hone.model.attention_groups import AttentionGroup, AttentionGroups

__all__ = ["KEPT_PROBABILITIES", "attention_by_products"]

# Probabilities of one layer that are kept; those of further groups are computed again.
KEPT_PROBABILITIES = 1 << 22


def attention_by_products(
    query_THD: Tensor, key_TKD: Tensor, value_TKE: Tensor, groups: AttentionGroups, *, scale: float, window: int | None
) -> Tensor:
    """Attention of every token over its own path.

    Args:
        query_THD: after rotary embedding.
        key_TKD: the same of the keys.
        value_TKE: values.
        groups: index tensors of the batch.
        scale: factor on the scores.
        window: tokens that a token sees, itself included; all where None.

    Returns:
        [T, H, E], contiguous.
    """
    out_THE: Tensor = _Attention.apply(  # type: ignore[no-untyped-call]
        query_THD, key_TKD, value_TKE, groups, scale, window
    )
    return out_THE


class _Attention(torch.autograd.Function):
    """See the module."""

    @staticmethod
    def forward(
        ctx: Any, query_THD: Tensor, key_TKD: Tensor, value_TKE: Tensor, groups: AttentionGroups, scale: float,
        window: int | None,
    ) -> Tensor:  # fmt: skip
        ctx.groups, ctx.scale, ctx.window = groups, scale, window
        ctx.shapes = query_THD.shape, key_TKD.shape, value_TKE.shape
        saved: list[Tensor | None] = []
        outputs, room = [], KEPT_PROBABILITIES
        kv_heads = key_TKD.shape[1]
        for group in groups.groups:
            query_NRD = _fold(query_THD, group.queries_BQ, kv_heads) * scale
            key_NLD, value_NLE = _fold(key_TKD, group.keys_BL, kv_heads), _fold(value_TKE, group.keys_BL, kv_heads)
            weights_NRL = _probabilities(query_NRD, key_NLD, group, window)
            outputs.append(_unfold(weights_NRL @ value_NLE, group.queries_BQ, kv_heads))
            keep = weights_NRL.numel() <= room
            room -= weights_NRL.numel() if keep else 0
            saved += [query_NRD, weights_NRL if keep else None]
        # keys and values once, not in each group that gathers them; values are part of a wider tensor until copied
        ctx.save_for_backward(key_TKD, value_TKE.contiguous(), *saved)
        return _put_back(outputs, groups.queries_T).view(*query_THD.shape[:2], value_TKE.shape[2])

    @staticmethod
    def backward(ctx: Any, grad_THE: Tensor) -> tuple[Tensor | None, ...]:
        groups: AttentionGroups = ctx.groups
        (query_shape, key_shape, value_shape), (key_TKD, value_TKE, *saved) = ctx.shapes, ctx.saved_tensors
        kv_heads = key_shape[1]
        grads: tuple[list[Tensor], ...] = ([], [], [])
        for index, group in enumerate(groups.groups):
            query_NRD, weights_NRL = saved[2 * index : 2 * index + 2]
            key_NLD, value_NLE = _fold(key_TKD, group.keys_BL, kv_heads), _fold(value_TKE, group.keys_BL, kv_heads)
            if weights_NRL is None:
                weights_NRL = _probabilities(query_NRD, key_NLD, group, ctx.window)
            grad_NRE = _fold(grad_THE, group.queries_BQ, kv_heads, zero_BQ=group.padding_BQ)
            slope_NRL = torch._softmax_backward_data(
                grad_NRE @ value_NLE.transpose(1, 2), weights_NRL, -1, weights_NRL.dtype
            )
            grads[0].append(_unfold((slope_NRL @ key_NLD).mul_(ctx.scale), group.queries_BQ, kv_heads))
            grads[1].append(_unfold(slope_NRL.transpose(1, 2) @ query_NRD, group.keys_BL, kv_heads))
            grads[2].append(_unfold(weights_NRL.transpose(1, 2) @ grad_NRE, group.keys_BL, kv_heads))
        return (
            _put_back(grads[0], groups.queries_T).view(query_shape),
            _sum_back(grads[1], groups, key_shape[0]).view(key_shape),
            _sum_back(grads[2], groups, key_shape[0]).view(value_shape),
            None, None, None,
        )  # fmt: skip


def _fold(states_THD: Tensor, index_BQ: Tensor, kv_heads: int, zero_BQ: Tensor | None = None) -> Tensor:
    """Gathered rows [N, R, D] of a group, the heads of a key-value head below each other."""
    rows, most = index_BQ.shape
    heads, width = states_THD.shape[1:]
    taken = states_THD.index_select(0, index_BQ.flatten())
    if zero_BQ is not None:
        taken.masked_fill_(zero_BQ.view(-1, 1, 1), 0)
    taken = taken.view(rows, most, kv_heads, heads // kv_heads, width)
    return taken.permute(0, 2, 3, 1, 4).reshape(rows * kv_heads, heads // kv_heads * most, width)


def _unfold(folded_NRD: Tensor, index_BQ: Tensor, kv_heads: int) -> Tensor:
    """The way back: [B Q, H D], token by token."""
    rows, most = index_BQ.shape
    width = folded_NRD.shape[2]
    heads = folded_NRD.view(rows, kv_heads, -1, most, width).permute(0, 3, 1, 2, 4)
    return heads.reshape(rows * most, -1)


def _put_back(parts: list[Tensor], index_T: Tensor) -> Tensor:
    return (parts[0] if len(parts) == 1 else torch.cat(parts)).index_select(0, index_T)


def _sum_back(parts: list[Tensor], groups: AttentionGroups, tokens: int) -> Tensor:
    """Gradients of keys or values; those of a token that several rows see are added up, in float32."""
    if groups.keys_T is not None:
        return _put_back(parts, groups.keys_T)
    dtype = torch.promote_types(parts[0].dtype, torch.float32)
    total = torch.zeros(tokens, parts[0].shape[1], dtype=dtype, device=parts[0].device)
    for part, group in zip(parts, groups.groups, strict=True):
        total.index_add_(0, group.keys_BL.flatten(), part.to(dtype))
    return total.to(parts[0].dtype)


def _probabilities(query_NRD: Tensor, key_NLD: Tensor, group: AttentionGroup, window: int | None) -> Tensor:
    rows, most = group.queries_BQ.shape
    scores_NRL = query_NRD @ key_NLD.transpose(1, 2)
    # of each key-value head and each of its query heads the same
    shape = (rows, scores_NRL.shape[0] // rows * scores_NRL.shape[1] // most, most, scores_NRL.shape[2])
    scores_NRL.view(shape).add_(group.bias(window, scores_NRL.dtype).unsqueeze(1))
    return torch.softmax(scores_NRL, dim=-1)
