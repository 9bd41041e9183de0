"""The rows that stand for all where all would be slow: a short, a middle and the longest one, within a token budget."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from hone.types import TokenSequence

__all__ = ["SAMPLE_TOKENS", "describe_sample", "sample_sequences"]

SAMPLE_TOKENS = 768
"""Tokens of the rows that are sampled, together: a second or two of each pass of the embedded base on two cores."""


def sample_sequences(sequences: Sequence[TokenSequence], *, max_tokens: int = SAMPLE_TOKENS) -> list[TokenSequence]:
    """The shortest row, the median and the longest, of those that carry loss.

    The shortest may take a third of the budget, the median half of what is left, the longest the rest; one that is
    longer is cut to a window around its first supervised token. Where all three have the same number of supervised
    tokens, the middle one gives way to a row that has another: averages of averages would not show otherwise.

    Args:
        sequences: the rendered rows.
        max_tokens: the budget of all rows together.

    Returns:
        Up to three rows, shortest first; none where no row carries loss.
    """
    ordered = sorted((s for s in sequences if any(s.supervised[1:])), key=lambda sequence: len(sequence.ids))
    if len(ordered) > 3:
        short, middle, long = ordered[0], ordered[len(ordered) // 2], ordered[-1]
        if short.num_supervised == middle.num_supervised == long.num_supervised:
            middle = next((s for s in ordered[1:-1] if s.num_supervised != short.num_supervised), middle)
        ordered = [short, middle, long]
    chosen = []
    left = max_tokens
    for place, sequence in enumerate(ordered):
        chosen.append(_window(sequence, left // (len(ordered) - place)))
        left -= len(chosen[-1].ids)
    return chosen


def describe_sample(sample: Sequence[TokenSequence], sequences: Sequence[TokenSequence]) -> str:
    """How many rows, of how many tokens, and how much of the longest was read.

    Args:
        sample: what :func:`sample_sequences` gave.
        sequences: of these.
    """
    longest = max((len(sequence.ids) for sequence in sequences), default=0)
    lengths = ", ".join(str(len(sequence.ids)) for sequence in sample)
    cut = f" (the longest row has {longest})" if sample and len(sample[-1].ids) < longest else ""
    supervised = sum(any_loss for sequence in sample for any_loss in sequence.supervised[1:])
    return f"{len(sample)} rows of {lengths} tokens{cut}, {supervised} supervised tokens"


def _window(sequence: TokenSequence, max_tokens: int) -> TokenSequence:
    if len(sequence.ids) <= max_tokens:
        return sequence
    first = sequence.supervised.index(True, 1)
    start = min(max(0, first - max_tokens // 2), len(sequence.ids) - max_tokens)
    window = slice(start, start + max_tokens)
    return replace(sequence, ids=sequence.ids[window], supervised=sequence.supervised[window])
