"""Invariant 7: the longest batch fits in memory, by a step of it that is really computed, without its update."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import nn
from transformers import PreTrainedModel

from hone.data.pack import PackedBatch, pack, plan_micro_batches
from hone.engine.step import accumulate_gradients
from hone.model.forward import Forward, padded_logprobs
from hone.model.peak_memory import PeakMemory, watched_memory
from hone.objective.supervised import supervised_loss
from hone.proof.invariant import Invariant
from hone.types import TokenSequence

__all__ = ["check_memory", "longest_batch"]

# AdamW's two moments and the best weights so far, float32: they come after the first step, and stay.
_STATE_BYTES = 12
# A batch with more tokens is computed in part first: where the whole would not fit, it is not tried.
_TRIED_AT_ONCE_TOKENS = 1024
_PART = 0.25
_CANDIDATES = 200
_GIGABYTE = 1e9


def check_memory(
    model: PreTrainedModel,
    sequences: Sequence[TokenSequence],
    *,
    parameters: Mapping[str, nn.Parameter],
    forward: Forward,
    batch_size: int,
    micro_batch_tokens: int,
    free_bytes: int | None = None,
) -> Invariant:
    """Invariant 7: a forward and backward pass of the longest micro-batch, with the memory it takes.

    The weights do not move. A batch of more than 1,024 tokens is computed in part first; where the whole would take
    more than is free, reckoned from that part, it is not tried, so that the check itself does not end the process.

    Args:
        model: with a fresh adapter attached, inside the blocks that training runs in; as it was, afterwards.
        sequences: the rendered rows.
        parameters: the trained tensors by name.
        forward: the path that training takes.
        batch_size: rows of an optimizer step.
        micro_batch_tokens: tokens that training computes at once.
        free_bytes: what can still be had; asked of the system unless given.
    """
    rows = longest_batch(
        sequences, batch_size=batch_size, max_tokens=micro_batch_tokens, padded=forward is padded_logprobs
    )
    batch = pack(rows)
    tokens = len(batch.ids_T)
    state = _STATE_BYTES * sum(parameter.numel() for parameter in parameters.values())
    part = _part(rows) if tokens > _TRIED_AT_ONCE_TOKENS else None
    memory, failure = _measured(model, part or batch, parameters, forward)
    free = memory.free if free_bytes is None else free_bytes
    needed, how = memory.peak - memory.before + state, "measured"
    if part is not None and not failure:
        gradients = sum(parameter.numel() * 4 for parameter in parameters.values())
        growth = max(0, memory.peak - memory.before - gradients)
        reckoned = gradients + growth * tokens // len(part.ids_T) + state
        if free is not None and reckoned > free:
            needed, how = reckoned, f"reckoned from {len(part.ids_T)} tokens, not tried"
        else:
            memory, failure = _measured(model, batch, parameters, forward)
            needed = max(needed, memory.peak - memory.before + state)
    holds = not failure and (free is None or needed <= free)
    longest = max(len(row.ids) for row in rows)
    bound = "it is computed" if free is None else f"<= {free / _GIGABYTE:.2f} GB that are free"
    return Invariant(
        7, "the longest batch fits in memory", holds, round(needed / _GIGABYTE, 3), bound,
        f"GB for one step and the optimizer; {len(rows)} rows of up to {longest} tokens, {tokens} at once; {how}",
        "give a smaller --micro-batch-tokens, a shorter --max-length, or --recompute-layers",
        "" if holds else failure or f"the rows {', '.join(str(row.row) for row in rows)}",
    )  # fmt: skip


def longest_batch(
    sequences: Sequence[TokenSequence], *, batch_size: int, max_tokens: int, padded: bool = False
) -> list[TokenSequence]:
    """The rows of the largest micro-batch that training could meet: the longest, and what else fits beside it.

    Args:
        sequences: the rendered rows.
        batch_size: rows of an optimizer step.
        max_tokens: tokens computed at once; a longer row stands alone.
        padded: as :func:`hone.data.pack.plan_micro_batches` has it.
    """
    ordered = sorted((s for s in sequences if any(s.supervised[1:])), key=lambda one: -len(one.ids))
    chosen = ordered[:1]
    for candidate in ordered[1 :: max(1, len(ordered) // _CANDIDATES)]:
        if len(chosen) == batch_size:
            break
        if len(plan_micro_batches([*chosen, candidate], max_tokens=max_tokens, padded=padded)) == 1:
            chosen.append(candidate)
    return chosen


def _part(rows: Sequence[TokenSequence]) -> PackedBatch:
    """The first quarter of each row."""
    cut = []
    for row in rows:
        length = max(2, round(_PART * len(row.ids)))
        # as many supervised tokens as the whole row has, in proportion: they take memory in the head
        wanted = max(1, round(_PART * row.num_supervised))
        flags = (False,) * (length - min(wanted, length - 1)) + (True,) * min(wanted, length - 1)
        cut.append(TokenSequence(row.ids[:length], flags, row.row))
    return pack(cut)


def _measured(
    model: PreTrainedModel, batch: PackedBatch, parameters: Mapping[str, nn.Parameter], forward: Forward
) -> tuple[PeakMemory, str]:
    """The memory of one step, and the words of the system where it did not get enough."""
    failure = ""
    with watched_memory(str(model.device)) as memory:
        try:
            accumulate_gradients(model, [batch], forward=forward, objective=supervised_loss)
        except (MemoryError, torch.OutOfMemoryError) as error:
            failure = f"the memory is not enough: {str(error).splitlines()[0]}"
        except RuntimeError as error:
            if "can't allocate memory" not in str(error) and "not enough memory" not in str(error):
                raise
            failure = f"the memory is not enough: {str(error).splitlines()[0]}"
    for parameter in parameters.values():
        parameter.grad = None
    return memory, failure
