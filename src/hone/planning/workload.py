"""What a run has to compute: tokens, supervised tokens and pairs of attention, from the packing plan of its rows.

The same functions that pack the rows in training plan them here, so that a prefix that rows share counts once for each
micro-batch that it stands in, as it is computed. Of a long run a sample of steps, evenly spread, stands for all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hone.data.pack import PackedBatch, pack, plan_micro_batches, plan_steps
from hone.planning.decoding import Decoding
from hone.types import TokenSequence

__all__ = ["Load", "RolloutWork", "Workload", "load_of", "plan_workload"]

_MOST_STEPS = 240


@dataclass(frozen=True, slots=True)
class Load:
    """Sums over micro-batches.

    Args:
        tokens: real tokens of the rows, a shared one for each row that has it.
        computed: tokens that pass through the linear layers.
        supervised: tokens that carry loss.
        pairs: products of a query and a key in each head of each layer.
        micro_batches: forward and backward passes.
    """

    tokens: float = 0.0
    computed: float = 0.0
    supervised: float = 0.0
    pairs: float = 0.0
    micro_batches: float = 0.0

    def __add__(self, other: Load) -> Load:
        return Load(
            self.tokens + other.tokens,
            self.computed + other.computed,
            self.supervised + other.supervised,
            self.pairs + other.pairs,
            self.micro_batches + other.micro_batches,
        )

    def times(self, factor: float) -> Load:
        """Each sum multiplied."""
        return Load(
            self.tokens * factor,
            self.computed * factor,
            self.supervised * factor,
            self.pairs * factor,
            self.micro_batches * factor,
        )


@dataclass(frozen=True, slots=True)
class RolloutWork:
    """The work of steps that write their own answers, before they train on them.

    Args:
        answers: that are written.
        tokens: of all answers together.
        decoding: of writing them.
        base: forward passes alone under the base.
        policy: forward passes alone under what is trained.
        decoding_bytes: the most memory that writing takes beside the weights.
    """

    answers: float
    tokens: float
    decoding: Decoding
    base: Load
    policy: Load
    decoding_bytes: int


@dataclass(frozen=True, slots=True)
class Workload:
    """The work of a run.

    Args:
        rows: sequences trained on.
        steps: optimizer steps, at most.
        training: of all steps together.
        validation: of all validations together.
        largest: the micro-batch with most tokens computed.
        sampled_steps: steps that were planned; the others are taken to be like them.
        rollouts: of methods that write their own answers; None for others.
    """

    rows: int
    steps: int
    training: Load
    validation: Load
    largest: Load
    sampled_steps: int
    rollouts: RolloutWork | None = None


def load_of(batch: PackedBatch, *, block_queries: int) -> Load:
    """The work of one packed batch.

    Args:
        batch: as it is computed.
        block_queries: queries that are multiplied with the same keys; 1 where a kernel skips every key after a query.
    """
    pairs = 0
    for segment in batch.segments:
        for start in range(0, segment.length, block_queries):
            end = min(start + block_queries, segment.length)
            pairs += (end - start) * (segment.offset + end)
    return Load(batch.num_tokens, len(batch.ids_T), batch.num_supervised, pairs, 1)


def plan_workload(
    sequences: Sequence[TokenSequence],
    validation: Sequence[TokenSequence],
    *,
    batch_size: int,
    epochs: int,
    max_steps: int | None,
    micro_batch_tokens: int,
    seed: int,
    block_queries: int,
) -> Workload:
    """Plan a run as the loop will do it.

    Args:
        sequences: rows trained on.
        validation: rows that choose the best step, computed after each pass.
        batch_size: rows of an optimizer step.
        epochs: passes over the rows.
        max_steps: bound on the steps; None for none.
        micro_batch_tokens: tokens computed at once.
        seed: of the order.
        block_queries: see :func:`load_of`.
    """
    steps_of_pass = -(-len(sequences) // batch_size)
    total = steps_of_pass * epochs if max_steps is None else min(steps_of_pass * epochs, max_steps)
    stride = max(1, total // _MOST_STEPS)
    sampled, training, largest = 0, Load(), Load()
    for step, _, indices in plan_steps(len(sequences), batch_size=batch_size, epochs=epochs, seed=seed):
        if step > total:
            break
        if (step - 1) % stride:
            continue
        sampled += 1
        for load in _loads([sequences[index] for index in indices], micro_batch_tokens, block_queries):
            training += load
            largest = max(largest, load, key=lambda one: (one.computed, one.pairs))
    # the longest row may stand in a step that was not planned
    longest = max(sequences, key=lambda sequence: len(sequence.ids))
    [alone] = _loads([longest], len(longest.ids), block_queries)
    largest = max(largest, alone, key=lambda one: (one.computed, one.pairs))
    held = sum(_loads(validation, micro_batch_tokens, block_queries), Load()) if validation else Load()
    validations = -(-total // steps_of_pass)
    return Workload(
        rows=len(sequences),
        steps=total,
        training=training.times(total / sampled),
        validation=held.times(validations),
        largest=largest,
        sampled_steps=sampled,
    )


def _loads(sequences: Sequence[TokenSequence], micro_batch_tokens: int, block_queries: int) -> list[Load]:
    plan = plan_micro_batches(sequences, max_tokens=micro_batch_tokens)
    return [load_of(pack([sequences[index] for index in part]), block_queries=block_queries) for part in plan]
