"""What writing answers costs: prompts read once, then one token a row and pass, until the last row has ended.

Batches are those of :mod:`hone.model.generate`: so many rows together, what all prompts begin with read once, a prompt
that stands there several times read once, and a row leaves when it has ended. A pass reads every weight, however few
the rows, and each row reads the keys and values of all that stands before its new token.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hone.model.generate import SHORTEST_OPENING_TOKENS, rows_together, shared_opening
from hone.planning.rates import Rates
from hone.planning.shape import ModelShape

__all__ = ["Decoding", "decoding_bytes", "decoding_of", "decoding_seconds"]

# A cache grows by a copy: its keys and values are read and written for the copy, and read once by attention.
_CACHE_PASSES = 3
# A float32 copy of the logits, their softmax and what stands between, beside the logits of the model's own dtype.
_DRAWN_BYTES = 12
_UNPACKED_BYTES = 2.5  # of a 4-bit value, read and written for a pass (see hone.planning.cost)


@dataclass(frozen=True, slots=True)
class Decoding:
    """Sums over the batches of answers that are written.

    Args:
        read: tokens of prompts computed, with the padding between them.
        read_pairs: products of a query and a key while they are read, in each head of each layer.
        read_rows: rows of logits behind them.
        read_passes: forward passes that read prompts.
        written: tokens computed one a row and pass; the last one of an answer is drawn and not computed.
        passes: forward passes that compute these.
        positions: keys and values that they read, one for each position of a row and pass.
        drawn: tokens drawn.
    """

    read: float = 0.0
    read_pairs: float = 0.0
    read_rows: float = 0.0
    read_passes: float = 0.0
    written: float = 0.0
    passes: float = 0.0
    positions: float = 0.0
    drawn: float = 0.0

    def __add__(self, other: Decoding) -> Decoding:
        return Decoding(
            self.read + other.read,
            self.read_pairs + other.read_pairs,
            self.read_rows + other.read_rows,
            self.read_passes + other.read_passes,
            self.written + other.written,
            self.passes + other.passes,
            self.positions + other.positions,
            self.drawn + other.drawn,
        )

    def times(self, factor: float) -> Decoding:
        """Each sum multiplied."""
        return Decoding(
            self.read * factor,
            self.read_pairs * factor,
            self.read_rows * factor,
            self.read_passes * factor,
            self.written * factor,
            self.passes * factor,
            self.positions * factor,
            self.drawn * factor,
        )


def decoding_of(prompts: Sequence[Sequence[int]], lengths: Sequence[int], *, longest: int) -> Decoding:
    """The work of answering ``prompts``.

    Args:
        prompts: token ids; one that is answered several times stands there as often.
        lengths: tokens of each answer, with the one that ended it; at least 1.
        longest: tokens that an answer may have, which decides how many rows are decoded together.
    """
    order = sorted(range(len(prompts)), key=lambda index: (-len(prompts[index]), index))
    found = Decoding()
    while order:
        size = rows_together(len(prompts[order[0]]) + longest, len(order))
        batch, order = order[:size], order[size:]
        found += _of_batch([tuple(prompts[index]) for index in batch], [lengths[index] for index in batch])
    return found


def _of_batch(prompts: Sequence[tuple[int, ...]], lengths: Sequence[int]) -> Decoding:
    distinct = list(dict.fromkeys(prompts))
    opening = shared_opening(distinct) if len(distinct) > 1 else 0
    if opening < SHORTEST_OPENING_TOKENS:
        opening = 0
    reach = max(map(len, distinct))
    own = reach - opening
    return Decoding(
        read=opening + len(distinct) * own,
        read_pairs=opening * opening + len(distinct) * own * reach,
        read_rows=len(distinct) + (1 if opening else 0),
        read_passes=2 if opening else 1,
        written=sum(lengths) - len(lengths),
        passes=max(lengths) - 1,
        # the k-th pass of a row reads its prompt, padded to the longest, and the k tokens before and at its own
        positions=sum((length - 1) * reach + length * (length - 1) / 2 for length in lengths),
        drawn=sum(lengths),
    )


def decoding_seconds(
    shape: ModelShape, decoding: Decoding, rates: Rates, *, adapter_values: int, is_quantized: bool
) -> dict[str, float]:
    """Seconds of writing answers by what takes them.

    Args:
        shape: of the base.
        decoding: what is computed.
        rates: of the device.
        adapter_values: numbers of an adapter beside the base; 0 for none.
        is_quantized: the linear layers are kept in 4 bits, and unpacked in each pass.
    """
    values = shape.linear_values + adapter_values
    weight_bytes = (shape.linear_values + shape.head_values) * rates.bytes_per_value
    a_pass = weight_bytes / rates.bytes_per_second + shape.num_layers * rates.seconds_a_layer / 3
    if is_quantized:
        a_pass += shape.linear_values * _UNPACKED_BYTES / rates.bytes_per_second
    products = rates.linear_per_second(shape.mean_width)
    attention = 4 * shape.heads * shape.head_width * shape.num_layers / rates.attention_per_second
    read = (
        2 * decoding.read * values / products
        + 2 * decoding.read_rows * shape.head_values / rates.head_per_second
        + decoding.read_pairs * attention
        + decoding.read_passes * a_pass
    )
    written = (
        2 * decoding.written * values / products
        + 2 * decoding.written * shape.head_values / rates.head_per_second
        + _CACHE_PASSES * decoding.positions * shape.cache_values * rates.bytes_per_value / rates.bytes_per_second
        + decoding.passes * a_pass
        + decoding.drawn * shape.vocabulary * rates.seconds_a_drawn_value
    )
    return {"reading prompts": read, "writing answers": written}


def decoding_bytes(shape: ModelShape, prompts: Sequence[Sequence[int]], *, longest: int, bytes_per_value: int) -> int:
    """The most memory that answering ``prompts`` takes beside the weights: keys and values, logits, and their draws.

    Args:
        shape: of the base.
        prompts: token ids; one that is answered several times stands there as often.
        longest: tokens that an answer may have; each is taken to have them.
        bytes_per_value: of the dtype of compute.
    """
    lengths = sorted(map(len, prompts), reverse=True)
    most = 0
    while lengths:
        rows = rows_together(lengths[0] + longest, len(lengths))
        # a layer's cache stands there twice while it grows
        cache = rows * (lengths[0] + longest) * shape.cache_values * (1 + 1 / shape.num_layers) * bytes_per_value
        logits = rows * shape.vocabulary * (bytes_per_value + _DRAWN_BYTES)
        most = max(most, round(cache) + logits)
        lengths = lengths[rows:]
    return most
