"""Attention of packed segments by torch's kernel for sequences of any length: no groups, and no padding.

Each segment is one sequence of the kernel: its queries are its own tokens, its keys are its path. The kernel lays the
causal mask and the window at the last key (bottom right), so query i of a segment of Q tokens with a path of L sees
keys up to L - Q + i, which is what a token behind a shared prefix sees (FlashAttention 2.1, Dao 2023,
arXiv:2307.08691; ``torch.nn.attention.varlen``).

Shape legend: T tokens of the batch, P tokens of all paths end to end; H query heads, K key-value heads; D width of a
head.
"""

from __future__ import annotations

import functools
import inspect
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention.varlen import varlen_attn

from hone.model.attention_groups import AttentionGroups

__all__ = ["attention_by_varlen", "varlen_refusal"]

_DEVICES = frozenset({"cuda"})
_DTYPES = frozenset({torch.bfloat16, torch.float16})
# What the kernel was compiled for: FlashAttention 2 asks for Ampere, and for heads of whole vectors up to 256.
_LEAST_CAPABILITY = (8, 0)
_WIDEST_HEAD, _HEAD_STEP = 256, 8


@functools.cache
def _takes_groups() -> bool:
    """Whether the kernel shares key-value heads by itself; torch 2.11 has no such argument."""
    return "enable_gqa" in inspect.signature(varlen_attn).parameters


def varlen_refusal(query_THD: Tensor, value_TKD: Tensor, *, plain: bool) -> str:
    """Why the kernel cannot attend with these; an empty string where it can.

    Args:
        query_THD: read for device, dtype and width.
        value_TKD: read for its width.
        plain: neither a bound on the scores nor sinks.
    """
    device, width = query_THD.device, query_THD.shape[2]
    if not plain:
        return "bounded scores and sinks are not in the kernel"
    if device.type not in _DEVICES or torch.version.hip:
        return f"there is no kernel for {device.type if not torch.version.hip else 'ROCm'}"
    if device.type == "cuda" and torch.cuda.get_device_capability(device) < _LEAST_CAPABILITY:
        return "the card is older than compute capability 8.0"
    if query_THD.dtype not in _DTYPES:
        return f"the kernel does not compute in {str(query_THD.dtype).removeprefix('torch.')}"
    if value_TKD.shape[2] != width or width > _WIDEST_HEAD or width % _HEAD_STEP:
        return f"heads of {width} and {value_TKD.shape[2]} values do not fit the kernel"
    return ""


def attention_by_varlen(
    query_THD: Tensor, key_TKD: Tensor, value_TKD: Tensor, groups: AttentionGroups, *, scale: float, window: int | None
) -> Tensor:
    """Attention of every token over its own path, where :func:`varlen_refusal` says nothing against it.

    Args:
        query_THD: after rotary embedding.
        key_TKD: the same of the keys.
        value_TKD: values.
        groups: of the batch; its segments are read.
        scale: factor on the scores.
        window: tokens that a token sees, itself included; all where None.

    Returns:
        [T, H, D].
    """
    starts = groups.starts
    if starts.paths is not None:
        key_TKD, value_TKD = _along(key_TKD, starts.paths), _along(value_TKD, starts.paths)
    heads, kv_heads = query_THD.shape[1], key_TKD.shape[1]
    named: dict[str, Any] = {}
    if heads != kv_heads and _takes_groups():
        named["enable_gqa"] = True
    elif heads != kv_heads:
        key_TKD, value_TKD = (t.repeat_interleave(heads // kv_heads, dim=1) for t in (key_TKD, value_TKD))
    out: Any = varlen_attn(
        query_THD.contiguous(), key_TKD.contiguous(), value_TKD.contiguous(), starts.queries, starts.keys,
        starts.most_queries, starts.longest_path, scale=scale,
        window_size=(-1, 0) if window is None else (window - 1, 0), **named,
    )  # fmt: skip
    result: Tensor = out
    return result


def _along(states_TKD: Tensor, paths_P: Tensor) -> Tensor:
    """The paths' rows; where a token is on many paths, its gradients are added up in float32."""
    wide = states_TKD.to(torch.promote_types(states_TKD.dtype, torch.float32))
    return wide[paths_P].to(states_TKD.dtype)
