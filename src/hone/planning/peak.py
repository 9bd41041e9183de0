"""Peak memory of a training run, part by part.

Parameters, gradients, moments and copies are exact: so many numbers of so many bytes. Activations are counted from the
tensors that hone's layers keep for the backward pass: for a token and a decoder layer of width D with inner width I
and key-value width K these are seven of D, four of I and two of K, and for attention the folded queries, keys and
values of each block and the probabilities. What the allocator loses between blocks is a share that was measured.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

from hone.model.attention_groups import BLOCK_QUERIES
from hone.model.attention_products import KEPT_PROBABILITIES
from hone.planning.cost import Training
from hone.planning.shape import ModelShape
from hone.planning.workload import Load
from hone.types import JsonDict

__all__ = ["PeakMemory", "peak_memory", "weight_bytes"]

_QUANTIZED_BYTES_PER_VALUE = 0.53  # half a byte, and the blocks' scales
# The optimizer's state is put into one buffer to be written, and read back in parts.
_STORED_BYTES_PER_VALUE = 8
# Tensors of a chunk of logits: in the model's dtype, in float32, and their gradient (see hone.model.head).
_CHUNK_VALUES = 1 << 23
# The proof computes a few rows on the reference path, one at a time, with all their logits and probabilities.
_LOGIT_BYTES = 16
_PROOF_VALUES = 27  # kept for a token and a layer, in units of the width
_PROBABILITY_BYTES = 8
# What the allocator loses between the blocks of steps that are all of another size, and what libraries take when they
# are first used (tokenizer, matrix kernels, autograd's threads): both measured over runs of two to four GB on a CPU.
_LOST_SHARE = 0.65
_FIRST_USE_BYTES = 80 << 20


@dataclass(frozen=True, slots=True)
class PeakMemory:
    """Bytes by what they hold; :attr:`total` is the peak.

    Args:
        process: Python and the libraries, before a model is loaded; none on a card.
        weights: the base, as the training computes with it.
        state: trained values with their gradients, moments and best copies.
        activations: kept for the backward pass of the largest micro-batch, or by the proof or by writing answers where
            that takes more.
        saving: buffers while a checkpoint is written.
        libraries: what they take when they are first used.
    """

    process: int
    weights: int
    state: int
    activations: int
    saving: int
    libraries: int = 0

    @property
    def total(self) -> int:
        """All parts; activations and saving are not there at once, but freed memory is kept by the process."""
        return self.process + self.weights + self.state + self.activations + self.saving + self.libraries

    def to_json(self) -> JsonDict:
        """All parts and the total."""
        return {**asdict(self), "total": self.total}


def peak_memory(
    shape: ModelShape,
    training: Training,
    *,
    largest: Load,
    sampled_rows: tuple[int, ...],
    bytes_per_value: int,
    process_bytes: int,
    on_host: bool,
    adapted_values: int | None = None,
    decoding_bytes: int = 0,
) -> PeakMemory:
    """The peak of a run.

    Args:
        shape: of the base.
        training: what is trained.
        largest: the micro-batch with most tokens.
        sampled_rows: tokens of the rows that the proof computes.
        bytes_per_value: of the dtype of compute.
        process_bytes: of the process before it loads the base.
        on_host: the weights lie in main memory, where files are mapped and freed memory is kept.
        adapted_values: numbers in the layers that have an adapter; those of all linear layers where None.
        decoding_bytes: keys, values and logits of answers that are written; 0 where none are.
    """
    adapted = shape.linear_values if adapted_values is None else adapted_values
    weights = weight_bytes(shape, bytes_per_value, is_quantized=training.is_quantized)
    is_mapped = on_host and shape.stored_bytes_per_value == bytes_per_value
    if is_mapped and not training.is_quantized and not training.is_full:
        # adapted layers are laid together in tensors of their own; the mapped file stays where more is left in it
        weights += adapted * bytes_per_value if 2 * adapted <= shape.num_parameters else 0
    best = 4 if training.has_validation else 0
    copy = 0 if training.is_full and bytes_per_value == 4 else 4
    state = training.trained_values * (12 + copy + best)
    if training.is_full:
        state += shape.num_parameters * bytes_per_value  # gradients before they are summed in float32, in the proof
    kept = _kept_bytes(shape, training, largest, bytes_per_value)
    proof = _proof_bytes(shape, max(sampled_rows, default=0), bytes_per_value)
    saving = training.trained_values * _STORED_BYTES_PER_VALUE if on_host else 0
    if training.is_full and on_host:
        saving += shape.num_parameters * (shape.stored_bytes_per_value + bytes_per_value)  # the base is read again
    if not on_host:
        return PeakMemory(0, weights, state, max(kept, proof, decoding_bytes), saving)
    kept = round(max(kept, decoding_bytes) * (1 + _LOST_SHARE))
    return PeakMemory(process_bytes, weights, state, max(kept, proof), saving, _FIRST_USE_BYTES)


def weight_bytes(shape: ModelShape, bytes_per_value: int, *, is_quantized: bool) -> int:
    """What the base's weights take.

    Args:
        shape: of the base.
        bytes_per_value: of the dtype of compute.
        is_quantized: whether its linear layers are held in 4 bits.
    """
    saved = round(shape.linear_values * (bytes_per_value - _QUANTIZED_BYTES_PER_VALUE)) if is_quantized else 0
    return shape.num_parameters * bytes_per_value - saved


def _kept_bytes(shape: ModelShape, training: Training, largest: Load, bytes_per_value: int) -> int:
    chunk = min(_CHUNK_VALUES, round(largest.supervised) * shape.vocabulary)
    head = chunk * (bytes_per_value + 8) + round(largest.supervised) * shape.width * bytes_per_value
    whole = _bytes_of_layer(shape, training, largest, bytes_per_value)
    recomputed = min(training.recompute_layers, shape.num_layers)
    # one recomputed layer at a time is whole; the backward pass of any layer makes gradients as large as its tensors
    layers = shape.num_layers - recomputed + (2 if recomputed else 1)
    inputs = recomputed * largest.computed * shape.width * bytes_per_value
    return head + round(inputs + layers * whole)


def _bytes_of_layer(shape: ModelShape, training: Training, load: Load, bytes_per_value: int) -> float:
    """What one decoder layer keeps for ``load``."""
    width, keys = shape.heads * shape.head_width, shape.kv_heads * shape.head_width
    inner = max((shape.linear_values / shape.num_layers - 2 * shape.width * (width + keys)) / (3 * shape.width), 0)
    values = load.computed * (7 * shape.width + 4 * inner + 2 * keys + 7 * training.rank)
    rows = load.pairs / max(1.0, load.computed)  # keys that a query is multiplied with, on average
    blocks = max(1.0, load.computed / BLOCK_QUERIES)
    probabilities = min(load.pairs * shape.heads, KEPT_PROBABILITIES)  # further ones are computed again
    folded = load.computed * width + 2 * keys * rows * blocks
    return bytes_per_value * (values + probabilities + folded)


def _proof_bytes(shape: ModelShape, tokens: int, bytes_per_value: int) -> int:
    """What the reference path keeps for a row of so many tokens."""
    logits = tokens * shape.vocabulary * _LOGIT_BYTES
    values = tokens * _PROOF_VALUES * shape.width * bytes_per_value
    return logits + shape.num_layers * (values + tokens * tokens * shape.heads * _PROBABILITY_BYTES)
