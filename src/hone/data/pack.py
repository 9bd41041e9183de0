"""Packing: sequences laid end to end as one row of real tokens, with no padding and no prefix twice.

A batch is ``[1, T]`` tokens for every linear layer and norm. A prefix that several sequences share (a system prompt,
the prompt of a chosen and a rejected answer, the prompt of a group of samples) stands in it once: the batch is a
forest of segments, and a sequence is the path from a root to its last segment. For attention, the queries of a
segment are gathered with the keys of its path (``model/attention.py``). Which token predicts which is settled here,
so that the loss touches supervised rows only.

Shape legend: T tokens of the batch, a shared prefix counted once; S supervised tokens.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from hone.types import TokenSequence

__all__ = ["PackedBatch", "Segment", "pack", "plan_micro_batches", "plan_steps", "shared_length"]

# A shared prefix shorter than this is laid down for each sequence: one more group of attention would cost more.
_MIN_SHARED_TOKENS = 16


@dataclass(frozen=True, slots=True)
class Segment:
    """A run of tokens that belong to the same sequences.

    Args:
        start: index of its first token in T.
        length: its tokens, at least 1.
        offset: tokens before it in its sequences; the position of its first token.
        parent: the segment before it; None for a root.
    """

    start: int
    length: int
    offset: int
    parent: int | None


@dataclass(frozen=True, slots=True)
class PackedBatch:
    """Sequences without padding, as plain lists; the model layer turns them into tensors.

    Args:
        ids_T: token ids.
        positions_T: position of each token within its own sequence.
        segments: runs of T, each after its parent.
        leaves: for each sequence, the segment that it ends with.
        rows: for each sequence, its input row.
        predictors_S: for each supervised token, the index in T of the token before it, whose hidden state predicts it.
        targets_S: the supervised token ids, in the same order.
        owners_S: for each supervised token, the sequence it belongs to.
    """

    ids_T: tuple[int, ...]
    positions_T: tuple[int, ...]
    segments: tuple[Segment, ...]
    leaves: tuple[int, ...]
    rows: tuple[int, ...]
    predictors_S: tuple[int, ...]
    targets_S: tuple[int, ...]
    owners_S: tuple[int, ...]

    @property
    def num_tokens(self) -> int:
        """Real tokens of the sequences; those of a shared prefix count for each of them."""
        return sum(self.segments[leaf].offset + self.segments[leaf].length for leaf in self.leaves)

    @property
    def num_supervised(self) -> int:
        """Supervised tokens of the batch (S)."""
        return len(self.targets_S)

    @property
    def weight(self) -> int:
        """What its loss is divided by, with the other batches of its step: supervised tokens."""
        return self.num_supervised

    @property
    def beside(self) -> tuple[Any, ...]:
        """What the objective is given beside the values of the forward pass: nothing."""
        return ()

    def path(self, segment: int) -> list[int]:
        """Indices in T of all tokens up to the end of ``segment``, from its root on."""
        return _path(self.segments, segment)


def _path(segments: Sequence[Segment], last: int) -> list[int]:
    parts: list[range] = []
    at: int | None = last
    while at is not None:
        here = segments[at]
        parts.append(range(here.start, here.start + here.length))
        at = here.parent
    return [index for part in reversed(parts) for index in part]


def pack(sequences: Sequence[TokenSequence], *, share_prefixes: bool = True) -> PackedBatch:
    """Lay ``sequences`` end to end, shared prefixes once.

    The first token of a sequence has no token before it in the same sequence, so it is never a target, whatever its
    mask says: documents do not predict each other.

    Args:
        sequences: at least one, none empty.
        share_prefixes: False lays every sequence down whole, for comparison.

    Returns:
        The batch; its sequences are in the order given.

    Raises:
        ValueError: there is no sequence, or one is empty.
    """
    if not sequences or any(not sequence.ids for sequence in sequences):
        raise ValueError("a batch needs at least one sequence, and none of them empty")
    forest = _Forest([sequence.ids for sequence in sequences])
    if share_prefixes:
        forest.grow(_lexicographic(sequences), depth=0, parent=None)
    else:
        for index in range(len(sequences)):
            forest.grow([index], depth=0, parent=None)
    predictors: list[int] = []
    targets: list[int] = []
    owners: list[int] = []
    for owner, sequence in enumerate(sequences):
        if True in sequence.supervised:
            path = _path(forest.segments, forest.leaves[owner])
            for offset in range(1, len(sequence.ids)):
                if sequence.supervised[offset]:
                    predictors.append(path[offset - 1])
                    targets.append(sequence.ids[offset])
                    owners.append(owner)
    return PackedBatch(
        ids_T=tuple(forest.ids),
        positions_T=tuple(forest.positions),
        segments=tuple(forest.segments),
        leaves=tuple(forest.leaves),
        rows=tuple(sequence.row for sequence in sequences),
        predictors_S=tuple(predictors),
        targets_S=tuple(targets),
        owners_S=tuple(owners),
    )


class _Forest:
    """Segments as they are laid down: a trie of the sequences with edges of many tokens."""

    def __init__(self, sequences: Sequence[tuple[int, ...]]) -> None:
        self.sequences = sequences
        self.ids: list[int] = []
        self.positions: list[int] = []
        self.segments: list[Segment] = []
        self.leaves = [0] * len(sequences)

    def grow(self, indices: Sequence[int], *, depth: int, parent: int | None) -> None:
        """Lay down what ``indices``, in lexicographic order, have beyond their first ``depth`` tokens."""
        for branch, shared in self._branches(indices, depth):
            here = self._lay(branch[0], depth, shared, parent)
            ending = [index for index in branch if len(self.sequences[index]) == shared]
            for index in ending:
                self.leaves[index] = here
            going_on = branch[len(ending) :]  # a prefix sorts before what it is a prefix of
            if going_on:
                self.grow(going_on, depth=shared, parent=here)

    def _branches(self, indices: Sequence[int], depth: int) -> list[tuple[list[int], int]]:
        """Neighbours that share enough beyond ``depth``, each with the length that all of them share."""
        branches: list[tuple[list[int], int]] = []
        for index in indices:
            sequence = self.sequences[index]
            if branches:
                branch, shared = branches[-1]
                common = min(shared, _common_length(self.sequences[branch[-1]], sequence, depth))
                if common - depth >= _MIN_SHARED_TOKENS or common == shared == len(sequence):
                    branch.append(index)
                    branches[-1] = (branch, common)
                    continue
            branches.append(([index], len(sequence)))
        return branches

    def _lay(self, index: int, start: int, end: int, parent: int | None) -> int:
        self.segments.append(Segment(len(self.ids), end - start, start, parent))
        self.ids.extend(self.sequences[index][start:end])
        self.positions.extend(range(start, end))
        return len(self.segments) - 1


def _lexicographic(sequences: Sequence[TokenSequence]) -> list[int]:
    return sorted(range(len(sequences)), key=lambda index: (sequences[index].ids, index))


def _common_length(one: tuple[int, ...], other: tuple[int, ...], start: int) -> int:
    """Length of the common prefix of two sequences that agree up to ``start``."""
    end = min(len(one), len(other))
    if one[start:end] == other[start:end]:
        return end
    return next(index for index in range(start, end) if one[index] != other[index])


def shared_length(sequences: Sequence[TokenSequence]) -> int:
    """Tokens that all ``sequences`` begin with, if packing shares them; at least one sequence."""
    first, last = (extreme(sequence.ids for sequence in sequences) for extreme in (min, max))
    shared = _common_length(first, last, 0)  # whatever stands between the two, in lexicographic order, begins alike
    return shared if shared >= _MIN_SHARED_TOKENS else 0


def plan_micro_batches(sequences: Sequence[TokenSequence], *, max_tokens: int, padded: bool = False) -> list[list[int]]:
    """Split the sequences of one optimizer step into micro-batches of at most ``max_tokens`` tokens to compute.

    Neighbours in lexicographic order stand together, so that a shared prefix is computed once for as many of them as
    fit. A sequence longer than ``max_tokens`` stands alone. Where rows are padded, those of like length stand together.

    Args:
        sequences: of the step.
        max_tokens: budget of one forward and backward pass, in tokens, shared prefixes counted once.
        padded: whether each row is computed by itself, as long as the longest of its micro-batch.

    Returns:
        Lists of indices into ``sequences``; each index stands in exactly one.
    """
    if padded:
        return _plan_padded([len(sequence.ids) for sequence in sequences], max_tokens)
    plan: list[list[int]] = []
    used = 0
    previous: tuple[int, ...] = ()
    for index in _lexicographic(sequences):
        ids = sequences[index].ids
        shared = _common_length(previous, ids, 0)
        new = len(ids) - (shared if shared >= _MIN_SHARED_TOKENS else 0)
        if not plan or used + new > max_tokens:
            plan.append([])
            used, new = 0, len(ids)
        plan[-1].append(index)
        used += new
        previous = ids
    return plan


def _plan_padded(lengths: Sequence[int], max_tokens: int) -> list[list[int]]:
    plan: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda index: (lengths[index], index)):
        if not plan or (len(plan[-1]) + 1) * lengths[index] > max_tokens:  # this one is the longest so far
            plan.append([])
        plan[-1].append(index)
    return plan


def plan_steps(
    num_sequences: int, *, batch_size: int, epochs: int, seed: int, start_step: int = 0
) -> Iterator[tuple[int, int, list[int]]]:
    """The order of training, as a pure function of (seed, step): a resumed run goes on exactly where it was.

    Every epoch is a new permutation of all sequences; its last step may be smaller, and no sequence is left out.

    Args:
        num_sequences: sequences to train on.
        batch_size: sequences per optimizer step.
        epochs: passes over the data.
        seed: of the permutations.
        start_step: optimizer steps already done; they are skipped.

    Yields:
        (step, epoch, indices): step counts from 1, epoch from 0.
    """
    steps_per_epoch = -(-num_sequences // batch_size)
    for epoch in range(start_step // steps_per_epoch, epochs):
        order = _permutation(num_sequences, seed, epoch)
        for position in range(steps_per_epoch):
            step = epoch * steps_per_epoch + position + 1
            if step > start_step:
                yield step, epoch, order[position * batch_size : (position + 1) * batch_size]


def _permutation(size: int, seed: int, epoch: int) -> list[int]:
    # Mersenne Twister seeded by a string is specified by Python (random.seed, version 2) and the same everywhere.
    order = list(range(size))
    random.Random(f"hone-order-{seed}-{epoch}").shuffle(order)
    return order
