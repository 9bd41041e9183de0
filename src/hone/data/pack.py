"""Packing: sequences laid end to end as one row of real tokens, with no padding.

A batch is ``[1, T]`` tokens for every linear layer and norm. For attention the tokens are gathered into a few
right-padded causal groups of similar length and scattered back (``model/attention.py``); a causal, right-padded
group needs no mask. Which token predicts which is settled here, so that the loss touches supervised rows only.

Shape legend: B sequences of a group, L length of its longest, T real tokens of the batch, S supervised tokens.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from hone.types import TokenSequence

__all__ = ["PackedBatch", "pack", "plan_micro_batches", "plan_steps"]

# Two sequences share an attention group while padding stays under this share of the group's longest.
_GROUP_SLACK = 0.25
_GROUP_SLACK_TOKENS = 16


@dataclass(frozen=True, slots=True)
class PackedBatch:
    """Sequences laid end to end, as plain lists; the model layer turns them into tensors.

    Args:
        ids_T: token ids.
        positions_T: position of each token within its own sequence.
        lengths: tokens of each sequence; they sum to T.
        rows: the input row of each sequence.
        groups: indices into ``lengths``, of sequences that attend in one right-padded group.
        predictors_S: for each supervised token, the index in T of the token before it, whose hidden state predicts it.
        targets_S: the supervised token ids, in the same order.
        owners_S: for each supervised token, the sequence it belongs to.
    """

    ids_T: tuple[int, ...]
    positions_T: tuple[int, ...]
    lengths: tuple[int, ...]
    rows: tuple[int, ...]
    groups: tuple[tuple[int, ...], ...]
    predictors_S: tuple[int, ...]
    targets_S: tuple[int, ...]
    owners_S: tuple[int, ...]

    @property
    def num_tokens(self) -> int:
        """Real tokens of the batch (T)."""
        return len(self.ids_T)

    @property
    def num_supervised(self) -> int:
        """Supervised tokens of the batch (S)."""
        return len(self.targets_S)


def pack(sequences: Sequence[TokenSequence]) -> PackedBatch:
    """Lay ``sequences`` end to end.

    The first token of a sequence has no token before it in the same sequence, so it is never a target, whatever its
    mask says: documents do not predict each other.

    Args:
        sequences: at least one, none empty.

    Returns:
        The batch, in the order given.

    Raises:
        ValueError: there is no sequence, or one is empty.
    """
    if not sequences or any(not sequence.ids for sequence in sequences):
        raise ValueError("a batch needs at least one sequence, and none of them empty")
    ids: list[int] = []
    positions: list[int] = []
    predictors: list[int] = []
    targets: list[int] = []
    owners: list[int] = []
    for index, sequence in enumerate(sequences):
        start = len(ids)
        ids.extend(sequence.ids)
        positions.extend(range(len(sequence.ids)))
        for offset in range(1, len(sequence.ids)):
            if sequence.supervised[offset]:
                predictors.append(start + offset - 1)
                targets.append(sequence.ids[offset])
                owners.append(index)
    lengths = tuple(len(sequence.ids) for sequence in sequences)
    return PackedBatch(
        ids_T=tuple(ids),
        positions_T=tuple(positions),
        lengths=lengths,
        rows=tuple(sequence.row for sequence in sequences),
        groups=_group_by_length(lengths),
        predictors_S=tuple(predictors),
        targets_S=tuple(targets),
        owners_S=tuple(owners),
    )


def _group_by_length(lengths: Sequence[int]) -> tuple[tuple[int, ...], ...]:
    groups: list[list[int]] = []
    floor = 0.0
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        if not groups or lengths[index] < floor:
            groups.append([])
            floor = lengths[index] * (1 - _GROUP_SLACK) - _GROUP_SLACK_TOKENS
        groups[-1].append(index)
    return tuple(tuple(group) for group in groups)


def plan_micro_batches(lengths: Sequence[int], *, max_tokens: int) -> list[list[int]]:
    """Split the sequences of one optimizer step into micro-batches of at most ``max_tokens`` real tokens.

    Sorting by length keeps the attention groups tight. A sequence longer than ``max_tokens`` stands alone.

    Args:
        lengths: tokens of each sequence of the step.
        max_tokens: budget of one forward and backward pass, in tokens.

    Returns:
        Lists of indices into ``lengths``; each index stands in exactly one.
    """
    plan: list[list[int]] = []
    used = 0
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        if not plan or used + lengths[index] > max_tokens:
            plan.append([])
            used = 0
        plan[-1].append(index)
        used += lengths[index]
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
