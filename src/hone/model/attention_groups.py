"""Which queries attend together over which keys: index tensors of a packed batch, made once and used by every layer.

A segment's queries see the tokens of its path, up to themselves. Segments of similar size are padded on the right to
one group, so that each group is a few plain matrix products.

Shape legend: T tokens of the batch, N segments, B segments (or blocks of them) of a group, Q most queries of one,
L longest path.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import accumulate

import torch
from torch import Tensor

from hone.data.pack import PackedBatch

__all__ = ["BLOCK_QUERIES", "AttentionGroup", "AttentionGroups", "SegmentStarts"]

# Queries of a block: a long segment is cut, so that its blocks skip the keys after them, half of all products.
BLOCK_QUERIES = 128
# Pairs of query and key of a group at most, unless one block alone has more: scores are gone over several times, and
# those of larger groups leave the cache in between (1,024-token rows took 1.7 times as long).
_MOST_PAIRS = 1 << 18
# A group may cost this much more than its members alone, in pairs of query and key; a group costs calls, too.
_PADDING_SHARE = 0.25
_PADDING_PAIRS = 1 << 14


@dataclass(frozen=True, slots=True)
class AttentionGroup:
    """Queries and keys that are multiplied together.

    Args:
        queries_BQ: indices into T; padding points at token 0 and is never read back.
        keys_BL: indices into T, in the order of positions; padding points at token 0, after every query's own position.
        offsets_B: position of each row's first query.
        padding_BQ: True where ``queries_BQ`` is padding; None where nothing is.
        biases: the masks made so far, by window and dtype.
    """

    queries_BQ: Tensor
    keys_BL: Tensor
    offsets_B: Tensor
    padding_BQ: Tensor | None
    biases: dict[tuple[int | None, torch.dtype], Tensor] = field(default_factory=dict)

    @property
    def is_causal(self) -> bool:
        """Whether queries and keys are the same tokens, from position 0 on."""
        return self.queries_BQ is self.keys_BL

    def bias(self, window: int | None, dtype: torch.dtype) -> Tensor:
        """[B, Q, L], or [1, Q, L] where all rows agree: 0 where a query sees a key, else minus infinity.

        Args:
            window: tokens that a token sees, itself included; all where None.
            dtype: of the result.
        """
        if (window, dtype) not in self.biases:
            device, queries, keys = self.keys_BL.device, self.queries_BQ.shape[1], self.keys_BL.shape[1]
            offsets_B = self.offsets_B[:1] if bool((self.offsets_B == self.offsets_B[0]).all()) else self.offsets_B
            query_positions = offsets_B.view(-1, 1, 1) + torch.arange(queries, device=device).view(1, -1, 1)
            # a padding query takes the last key's place: a row of nothing but minus infinity would give NaN
            query_positions = query_positions.clamp(max=keys - 1)
            ahead = torch.arange(keys, device=device).view(1, 1, -1) - query_positions
            hidden = ahead > 0 if window is None else (ahead > 0) | (ahead <= -window)
            bias = torch.zeros(hidden.shape, dtype=dtype, device=device).masked_fill_(hidden, float("-inf"))
            self.biases[window, dtype] = bias
        return self.biases[window, dtype]


@dataclass(frozen=True, slots=True)
class SegmentStarts:
    """The segments of a batch as a kernel for sequences of any length takes them: end to end, with their beginnings.

    Tokens of a segment lie beside each other in T, so the queries are T as it is.

    Args:
        queries: [N + 1] int32; where each segment begins in T, and the end.
        keys: [N + 1] int32; the same in the concatenation of all paths.
        most_queries: tokens of the longest segment.
        longest_path: tokens of the longest path.
        paths: indices into T of all paths, end to end; None where each path is its segment, so that keys are T as well.
    """

    queries: Tensor
    keys: Tensor
    most_queries: int
    longest_path: int
    paths: Tensor | None


class AttentionGroups:
    """All groups of a batch, and the way back; or its segments for a kernel that needs no groups.

    Each of the two is made when it is first asked for, and then used by every layer.

    Args:
        batch: what is to be attended over.
        device: of the index tensors.
    """

    def __init__(self, batch: PackedBatch, device: torch.device | str) -> None:
        self._batch, self._device = batch, device

    @property
    def groups(self) -> tuple[AttentionGroup, ...]:
        """Every token is a query in exactly one place of one of them."""
        return self._grouped[0]

    @property
    def queries_T(self) -> Tensor:
        """For each token, its index in the concatenation of all flattened ``queries_BQ``."""
        return self._grouped[1]

    @property
    def keys_T(self) -> Tensor | None:
        """The same for ``keys_BL``; None where some token is a key in several places."""
        return self._grouped[2]

    @cached_property
    def starts(self) -> SegmentStarts:
        """The segments, end to end."""
        batch, device = self._batch, self._device
        paths = [batch.path(index) for index in range(len(batch.segments))]
        lengths = [segment.length for segment in batch.segments]
        alone = all(segment.parent is None for segment in batch.segments)
        ends = [accumulate(lengths), accumulate(map(len, paths))]
        queries, keys = (torch.tensor([0, *each], dtype=torch.int32, device=device) for each in ends)
        return SegmentStarts(
            queries=queries,
            keys=keys,
            most_queries=max(lengths),
            longest_path=max(map(len, paths)),
            paths=None if alone else torch.tensor([token for path in paths for token in path], device=device),
        )

    @cached_property
    def _grouped(self) -> tuple[tuple[AttentionGroup, ...], Tensor, Tensor | None]:
        batch, device = self._batch, self._device
        # elsewhere than on the CPU the fused kernels skip by themselves what a query does not see
        by_hand = torch.device(device).type == "cpu"
        block_queries = BLOCK_QUERIES if by_hand else batch.num_tokens
        blocks = []
        for index, segment in enumerate(batch.segments):
            path = batch.path(index)
            for start in range(0, segment.length, block_queries):
                end = min(start + block_queries, segment.length)
                own = range(segment.start + start, segment.start + end)
                blocks.append(_Block(own, path[: segment.offset + end], segment.offset + start))
        parts = [_group(members, device) for members in _similar(blocks, _MOST_PAIRS if by_hand else None)]
        queries = torch.cat([group.queries_BQ[_real(group)] for group, _ in parts])
        places = torch.cat([places for _, places in parts])
        offsets = _flat_offsets([group.queries_BQ.numel() for group, _ in parts], [len(p) for _, p in parts], device)
        queries_T = torch.empty(len(batch.ids_T), dtype=torch.long, device=device)
        queries_T[queries] = places + offsets
        same = all(group.is_causal for group, _ in parts)
        return tuple(group for group, _ in parts), queries_T, queries_T if same else None


@dataclass(frozen=True, slots=True)
class _Block:
    """Consecutive queries of a segment and their keys."""

    queries: range
    keys: list[int]
    offset: int

    @property
    def pairs(self) -> int:
        return len(self.queries) * len(self.keys)


def _real(group: AttentionGroup) -> Tensor:
    shape = group.queries_BQ
    return torch.ones_like(shape, dtype=torch.bool) if group.padding_BQ is None else ~group.padding_BQ


def _flat_offsets(sizes: list[int], counts: list[int], device: torch.device | str) -> Tensor:
    starts = [sum(sizes[:index]) for index in range(len(sizes))]
    return torch.tensor(
        [start for start, count in zip(starts, counts, strict=True) for _ in range(count)], device=device
    )


def _similar(blocks: list[_Block], most_pairs: int | None) -> list[list[_Block]]:
    """Blocks that share a group while padding costs little and the group has at most so many pairs."""
    groups: list[list[_Block]] = []
    pairs = 0
    for block in sorted(blocks, key=lambda b: (-len(b.keys), -len(b.queries), b.queries.start)):
        if groups:
            members = groups[-1]
            most = max(len(block.queries), *(len(member.queries) for member in members))
            padded = (len(members) + 1) * most * len(members[0].keys)
            cheap = padded <= (1 + _PADDING_SHARE) * (pairs + block.pairs) + _PADDING_PAIRS
            if cheap and (most_pairs is None or padded <= most_pairs):
                members.append(block)
                pairs += block.pairs
                continue
        groups.append([block])
        pairs = block.pairs
    return groups


def _group(members: list[_Block], device: torch.device | str) -> tuple[AttentionGroup, Tensor]:
    """A group, and the places of its real queries in its flattened ``queries_BQ``."""
    most, longest = max(len(block.queries) for block in members), max(len(block.keys) for block in members)
    queries_BQ = torch.tensor(
        [[*block.queries, *[0] * (most - len(block.queries))] for block in members], device=device
    )
    lengths_B = torch.tensor([len(block.queries) for block in members], device=device)
    padding_BQ = torch.arange(most, device=device) >= lengths_B.unsqueeze(1)
    if all(block.offset == 0 and len(block.queries) == len(block.keys) for block in members):
        keys_BL = queries_BQ
    else:
        keys_BL = _padded([block.keys for block in members], longest, device)
    offsets_B = torch.tensor([block.offset for block in members], device=device)
    padding = padding_BQ if bool(padding_BQ.any()) else None
    return AttentionGroup(queries_BQ, keys_BL, offsets_B, padding), (~padding_BQ).flatten().nonzero().squeeze(1)


def _padded(rows: Sequence[Sequence[int]], length: int, device: torch.device | str) -> Tensor:
    return torch.tensor([[*row, *[0] * (length - len(row))] for row in rows], device=device)
