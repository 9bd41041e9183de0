"""Attention of rows of any length over their own cached tokens, in one forward pass without padding.

Every linear layer sees the concatenation of all rows' new tokens. Here each row's new keys and values go to its place
in the cache, and its queries attend to that place alone: rows that add one token together, by pools; rows that read a
prompt one by one. As in ``attention.py``, the function is registered by name and no layer is replaced.

Shape legend: T new tokens of all rows; H query heads, K key-value heads; D width of a head; B rows of a pool, P its
places in use; Q new tokens of a row; L tokens that are seen.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, PreTrainedModel

from hone.model.attention import capped_attention
from hone.model.row_cache import CachePool, CacheSlot

__all__ = ["RowPlan", "RowSpan", "rows_attention", "use_row_attention"]

_NAME = "hone_rows"


@dataclass(frozen=True, slots=True)
class RowSpan:
    """New tokens of one row.

    Args:
        slot: where the row's earlier tokens lie, and these will.
        count: how many tokens are new.
    """

    slot: CacheSlot
    count: int


class RowPlan:
    """Index tensors of one forward pass, made once and used by every layer.

    Args:
        spans: in the order of the tokens.
        device: of the model.
    """

    def __init__(self, spans: Sequence[RowSpan], device: torch.device) -> None:
        self.spans = list(spans)
        positions: list[int] = []
        singles: dict[CachePool, list[tuple[int, CacheSlot]]] = {}
        self.prompts: list[_Prompt] = []
        for span in self.spans:
            start, before = len(positions), span.slot.length
            positions += range(before, before + span.count)
            if span.count == 1:
                singles.setdefault(span.slot.pool, []).append((start, span.slot))
            else:
                self.prompts.append(_Prompt(span.slot, start, span.count, before, device))
        self.positions_T = torch.tensor(positions, device=device)
        self.pools = [_PoolRows(pool, members, device) for pool, members in singles.items()]

    def advance(self) -> None:
        """Count the new tokens as cached; after the pass."""
        for span in self.spans:
            span.slot.length += span.count


@dataclass(slots=True)
class _Prompt:
    """Tokens ``start`` to ``start + count``, which follow ``before`` cached ones of the same row."""

    slot: CacheSlot
    start: int
    count: int
    before: int
    device: torch.device
    biases: dict[tuple[int | None, torch.dtype], Tensor] = field(default_factory=dict)

    def bias(self, window: int | None, dtype: torch.dtype) -> Tensor:
        """[Q, L], 0 where a query sees a key, else minus infinity."""
        if (window, dtype) not in self.biases:
            seen = self.before + self.count
            queries = torch.arange(self.before, seen, device=self.device).unsqueeze(1)
            self.biases[window, dtype] = _bias(queries, seen, window, dtype)
        return self.biases[window, dtype]


class _PoolRows:
    """Rows of one pool that add one token each."""

    def __init__(self, pool: CachePool, members: Sequence[tuple[int, CacheSlot]], device: torch.device) -> None:
        members = sorted(members, key=lambda member: member[1].place)
        self.pool = pool
        self.num_places = len(pool.slots)
        self.longest = max(slot.length for _, slot in members) + 1
        self.whole = len(members) == self.num_places
        self.tokens_B = torch.tensor([start for start, _ in members], device=device)
        self.places_B = torch.tensor([slot.place for _, slot in members], device=device)
        self.positions_B = torch.tensor([slot.length for _, slot in members], device=device)
        self._biases: dict[tuple[int | None, torch.dtype], Tensor] = {}

    def bias(self, window: int | None, dtype: torch.dtype) -> Tensor:
        """[P, 1, L]; a place whose row adds nothing now sees its first token, and its output is not read."""
        if (window, dtype) not in self._biases:
            positions_P = self.positions_B.new_zeros(self.num_places)
            positions_P[self.places_B] = self.positions_B
            self._biases[window, dtype] = _bias(positions_P.view(-1, 1, 1), self.longest, window, dtype)
        return self._biases[window, dtype]


def _bias(query_positions: Tensor, keys: int, window: int | None, dtype: torch.dtype) -> Tensor:
    ahead = torch.arange(keys, device=query_positions.device) - query_positions
    hidden = ahead > 0 if window is None else (ahead > 0) | (ahead <= -window)
    return torch.zeros(hidden.shape, dtype=dtype, device=hidden.device).masked_fill_(hidden, float("-inf"))


@dataclass(frozen=True, slots=True)
class _Form:
    """How a layer scores: factor, window, bound of the scores (Gemma 2), sinks (gpt-oss)."""

    scale: float
    window: int | None
    softcap: float | None
    sinks_H: Tensor | None

    @property
    def is_plain(self) -> bool:
        return self.softcap is None and self.sinks_H is None


def rows_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    rows: RowPlan,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Causal attention of each row over its cached and new tokens.

    Args:
        module: the attention layer, which knows its ``layer_idx``.
        query: [1, H, T, D].
        key: [1, K, T, D].
        value: [1, K, T, D].
        attention_mask: always None; the plan knows what sees what.
        rows: the plan of this pass.
        scaling: factor on the products; 1 / sqrt(D) where None.
        dropout: 0, as the model is in evaluation mode.
        sliding_window: tokens that a token sees, itself included; all where None.
        softcap: bound of the scores.
        s_aux: [H] attention sinks.

    Returns:
        [1, T, H, D], and None in place of probabilities.
    """
    query_THD, key_TKD, value_TKD = (tensor[0].transpose(0, 1) for tensor in (query, key, value))
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    form = _Form(scale, sliding_window, softcap, s_aux)
    layer: Any = module.layer_idx
    out_THD = query.new_empty(*query_THD.shape[:2], value.shape[-1])
    for pool in rows.pools:
        out_THD[pool.tokens_B] = _attend_pool(pool, layer, query_THD, key_TKD, value_TKD, form)
    for prompt in rows.prompts:
        window = slice(prompt.start, prompt.start + prompt.count)
        out_THD[window] = _attend_prompt(prompt, layer, query_THD[window], key_TKD[window], value_TKD[window], form)
    return out_THD.unsqueeze(0), None


def _attend_pool(
    pool: _PoolRows, layer: int, query_THD: Tensor, key_TKD: Tensor, value_TKD: Tensor, form: _Form
) -> Tensor:
    """[B, H, D] of one new token a row."""
    keys, values = pool.pool.layer(layer, key_TKD, value_TKD)
    keys[pool.places_B, :, pool.positions_B] = key_TKD[pool.tokens_B]
    values[pool.places_B, :, pool.positions_B] = value_TKD[pool.tokens_B]
    query_PHD = query_THD[pool.tokens_B]
    if not pool.whole:
        some = query_PHD
        query_PHD = some.new_zeros(pool.num_places, *some.shape[1:])
        query_PHD[pool.places_B] = some
    places = slice(pool.num_places)
    key_PKLD, value_PKLD = keys[places, :, : pool.longest], values[places, :, : pool.longest]
    bias = pool.bias(form.window, query_THD.dtype)
    count, heads, width = query_PHD.shape
    if form.is_plain:
        # a row's one query sees all that its heads see: the query heads of a key-value head become its queries
        folded = query_PHD.view(count, keys.shape[1], -1, width)
        out = nn.functional.scaled_dot_product_attention(
            folded, key_PKLD, value_PKLD, attn_mask=bias.unsqueeze(1), scale=form.scale
        )
    else:
        out = capped_attention(
            query_PHD.unsqueeze(2), key_PKLD, value_PKLD, bias, form.scale, form.softcap, form.sinks_H
        )
    out_PHD = out.reshape(count, heads, -1)
    return out_PHD if pool.whole else out_PHD[pool.places_B]


def _attend_prompt(
    prompt: _Prompt, layer: int, query_QHD: Tensor, key_QKD: Tensor, value_QKD: Tensor, form: _Form
) -> Tensor:
    """[Q, H, D] of several new tokens of one row."""
    keys, values = prompt.slot.pool.layer(layer, key_QKD, value_QKD)
    place, seen = prompt.slot.place, prompt.before + prompt.count
    keys[place, :, prompt.before : seen] = key_QKD.transpose(0, 1)
    values[place, :, prompt.before : seen] = value_QKD.transpose(0, 1)
    query_1HQD = query_QHD.transpose(0, 1).unsqueeze(0)
    key_1KLD, value_1KLD = keys[place : place + 1, :, :seen], values[place : place + 1, :, :seen]
    bias = prompt.bias(form.window, query_QHD.dtype)
    if not form.is_plain:
        out = capped_attention(
            query_1HQD, key_1KLD, value_1KLD, bias.unsqueeze(0), form.scale, form.softcap, form.sinks_H
        )
    else:
        grouped = query_1HQD.shape[1] != key_1KLD.shape[1]
        out = nn.functional.scaled_dot_product_attention(
            query_1HQD, key_1KLD, value_1KLD, attn_mask=bias, scale=form.scale, enable_gqa=grouped
        )
    return out[0].transpose(0, 1)


def use_row_attention(model: PreTrainedModel) -> None:
    """Let ``model`` attend over cached rows from now on; every pass must then be given its plan as ``rows``."""
    AttentionInterface.register(_NAME, rows_attention)
    model.set_attn_implementation(_NAME)
