"""Keys and values of texts that were read, kept for the next one that begins alike: the least used go first.

A system prompt, or the earlier turns of a conversation, is then read once. Keys and values follow from the tokens and
from the adapter, so each adapter has its own.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

from hone.model.row_cache import CachedTokens

__all__ = ["PrefixStore", "common_length"]


def common_length(one: Sequence[int], other: Sequence[int]) -> int:
    """How many tokens two texts begin with alike."""
    limit = min(len(one), len(other))
    if tuple(one[:limit]) == tuple(other[:limit]):
        return limit
    return next(index for index in range(limit) if one[index] != other[index])


@dataclass(frozen=True, slots=True)
class _Entry:
    tokens: CachedTokens
    num_bytes: int


class PrefixStore:
    """Read texts under a limit of memory.

    Args:
        max_bytes: 0 keeps nothing.
    """

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.num_bytes = 0
        # the one used last stands last
        self._entries: OrderedDict[tuple[str | None, tuple[int, ...]], _Entry] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def find(self, adapter: str | None, ids: Sequence[int]) -> tuple[int, CachedTokens | None]:
        """The longest beginning of ``ids`` that is kept: its length, and an entry that begins with it.

        Args:
            adapter: whose keys and values.
            ids: a prompt.
        """
        best: tuple[str | None, tuple[int, ...]] | None = None
        longest = 0
        for key in self._entries:
            if key[0] == adapter and (shared := common_length(key[1], ids)) > longest:
                longest, best = shared, key
        if best is None:
            return 0, None
        self._entries.move_to_end(best)
        return longest, self._entries[best].tokens

    def fits(self, adapter: str | None, ids: Sequence[int], num_bytes: int) -> bool:
        """Whether :meth:`add` would keep it: it is not there yet, and not larger than the limit."""
        known = any(key[0] == adapter and common_length(key[1], ids) == len(ids) for key in self._entries)
        return not known and 0 < num_bytes <= self.max_bytes

    def add(self, adapter: str | None, ids: Sequence[int], tokens: CachedTokens) -> None:
        """Keep a text; what it begins with, where that is kept, is in it and goes."""
        ids = tuple(ids)
        for key in [key for key in self._entries if key[0] == adapter and ids[: len(key[1])] == key[1]]:
            self._drop(key)
        entry = _Entry(tokens, tokens.num_bytes)
        self._entries[adapter, ids] = entry
        self.num_bytes += entry.num_bytes
        while self.num_bytes > self.max_bytes:
            self._drop(next(iter(self._entries)))

    def forget(self, adapter: str) -> None:
        """Drop what belongs to an adapter."""
        for key in [key for key in self._entries if key[0] == adapter]:
            self._drop(key)

    def _drop(self, key: tuple[str | None, tuple[int, ...]]) -> None:
        self.num_bytes -= self._entries.pop(key).num_bytes
