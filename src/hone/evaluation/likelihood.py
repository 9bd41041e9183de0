"""Likelihood of the reference answers, in bits: what a model would need to write them down.

Bits per byte compares models with different tokenizers, and moves where a task's own metric stands still.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from transformers import PreTrainedModel

from hone.data.pack import pack, plan_micro_batches
from hone.model.forward import Forward
from hone.types import TokenSequence

__all__ = ["answer_bits"]


@torch.inference_mode()
def answer_bits(
    model: PreTrainedModel,
    sequences: Sequence[TokenSequence],
    *,
    forward: Forward,
    max_tokens: int = 2048,
    on_done: Callable[[int], None] = lambda count: None,
) -> list[float]:
    """Bits of the supervised tokens of each sequence: the sum of -log2 p(token | tokens before it).

    Args:
        model: in evaluation mode.
        sequences: rendered rows in which the reference answer alone is supervised.
        forward: gives log-probabilities of the supervised tokens.
        max_tokens: real tokens of one forward pass.
        on_done: called with the number of sequences scored so far.

    Returns:
        One figure a sequence, in order.
    """
    bits = [0.0] * len(sequences)
    done = 0
    for indices in plan_micro_batches(sequences, max_tokens=max_tokens):
        batch = pack([sequences[index] for index in indices])
        for owner, logprob in zip(batch.owners_S, forward(model, batch).tolist(), strict=True):
            bits[indices[owner]] -= logprob / math.log(2)
        done += len(indices)
        on_done(done)
    return bits
