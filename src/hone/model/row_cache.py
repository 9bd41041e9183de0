"""Keys and values of rows that are being answered, each row at its own length.

Rows of similar length lie together in a pool, side by side from its first place on, so that one product serves all of
them and a long row does not make the short ones longer. A row that outgrows its pool moves to the next.

Shape legend: P places of a pool, K key-value heads, L tokens that a pool's place holds, D width of a head.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

__all__ = ["CachePool", "CacheSlot", "CachedTokens", "RowCache"]

_SHORTEST = 128
_STEP = 4
_FIRST_PLACES = 4


@dataclass(eq=False, slots=True)
class CacheSlot:
    """Where a row's keys and values lie.

    Args:
        pool: the pool.
        place: the place within it; changes when other rows leave.
        length: tokens whose keys and values are there.
    """

    pool: CachePool
    place: int
    length: int = 0


@dataclass(frozen=True, slots=True)
class CachedTokens:
    """Keys and values of a prefix, by layer, each [K, tokens, D]."""

    layers: Mapping[int, tuple[Tensor, Tensor]]

    @property
    def num_bytes(self) -> int:
        """Memory that they take."""
        return sum(keys.nbytes + values.nbytes for keys, values in self.layers.values())


class CachePool:
    """Rows of at most ``capacity`` tokens.

    Args:
        capacity: L.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.slots: list[CacheSlot] = []
        self._layers: dict[int, tuple[Tensor, Tensor]] = {}

    def layer(self, index: int, key_TKD: Tensor, value_TKD: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values [P, K, L, D] of a layer, with a place for every row of the pool.

        Args:
            index: of the layer.
            key_TKD: keys of some tokens; their shape, dtype and device are taken.
            value_TKD: the same of the values.
        """
        places = self._places()
        found = self._layers.get(index)
        if found is None or found[0].shape[0] < places:
            # zeros, because what a product masks out must still be finite
            new = tuple(
                like.new_zeros(places, like.shape[1], self.capacity, like.shape[2]) for like in (key_TKD, value_TKD)
            )
            for old, tensor in zip(found or (), new, strict=False):
                tensor[: len(old)] = old
            self._layers[index] = found = (new[0], new[1])
        return found

    def add(self) -> CacheSlot:
        """A place for one more row."""
        slot = CacheSlot(self, len(self.slots))
        self.slots.append(slot)
        return slot

    def remove(self, slot: CacheSlot) -> None:
        """Free a place; the row of the last place takes it."""
        last = self.slots.pop()
        if last is not slot:
            # a row that has read nothing yet may have no memory either
            for keys, values in self._layers.values() if last.length else ():
                for states in (keys, values):
                    states[slot.place, :, : last.length] = states[last.place, :, : last.length]
            last.place = slot.place
            self.slots[last.place] = last
        if not self.slots:
            self._layers.clear()

    def read(self, slot: CacheSlot, length: int) -> CachedTokens:
        """The first ``length`` tokens of a row, as views."""
        layers = self._layers.items() if length else ()
        place = slot.place
        return CachedTokens(
            {index: (keys[place, :, :length], values[place, :, :length]) for index, (keys, values) in layers}
        )

    def write(self, slot: CacheSlot, tokens: CachedTokens, length: int) -> None:
        """Begin a row with the first ``length`` tokens of ``tokens``."""
        for index, (keys, values) in tokens.layers.items():
            own = self.layer(index, keys.transpose(0, 1), values.transpose(0, 1))
            own[0][slot.place, :, :length] = keys[:, :length]
            own[1][slot.place, :, :length] = values[:, :length]
        slot.length = length

    def _places(self) -> int:
        places = _FIRST_PLACES
        while places < len(self.slots):
            places *= 2
        return places


class RowCache:
    """The pools, by length.

    Args:
        context_length: most tokens of a row.
    """

    def __init__(self, context_length: int) -> None:
        self._pools: list[CachePool] = []
        capacity = _SHORTEST
        while not self._pools or self._pools[-1].capacity < context_length:
            self._pools.append(CachePool(min(capacity, context_length)))
            capacity *= _STEP

    def add(self, length: int) -> CacheSlot:
        """A place for a row that will soon have ``length`` tokens."""
        return self._pool_for(length).add()

    def grown(self, slot: CacheSlot, length: int) -> CacheSlot:
        """The row's place, or a new one where it needs room for ``length`` tokens."""
        if length <= slot.pool.capacity:
            return slot
        moved = self._pool_for(length).add()
        moved.pool.write(moved, slot.pool.read(slot, slot.length), slot.length)
        self.remove(slot)
        return moved

    def remove(self, slot: CacheSlot) -> None:
        """Forget a row."""
        slot.pool.remove(slot)

    def begin(self, slot: CacheSlot, tokens: CachedTokens, length: int) -> None:
        """Begin a row with a prefix that was read before."""
        slot.pool.write(slot, tokens, length)

    def view(self, slot: CacheSlot, length: int) -> CachedTokens:
        """The first tokens of a row, valid until the next pass."""
        return slot.pool.read(slot, length)

    def copied(self, slot: CacheSlot, length: int) -> CachedTokens:
        """The first tokens of a row, in memory of their own."""
        layers = self.view(slot, length).layers
        return CachedTokens({index: (keys.clone(), values.clone()) for index, (keys, values) in layers.items()})

    def _pool_for(self, length: int) -> CachePool:
        return next(pool for pool in self._pools if pool.capacity >= length)
