"""Adapters in memory under a limit, and those of them that lie in the model's layers: the least used go first."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Set
from contextlib import contextmanager

from transformers import PreTrainedModel

from hone.errors import ModelError
from hone.model.adapter_bank import AdapterBank
from hone.model.adapter_weights import AdapterWeights
from hone.model.bank_path import adapter_alone
from hone.model.forward import Forward

__all__ = ["AdapterStore"]


class AdapterStore:
    """Adapters by name.

    Args:
        bank: the layers that they are laid into.
        max_bytes: memory that all may take.
        max_live_ranks: ranks of all that are in use at the same time.
        on_drop: told the name of an adapter that goes.
    """

    def __init__(
        self, bank: AdapterBank, *, max_bytes: int, max_live_ranks: int, on_drop: Callable[[str], None]
    ) -> None:
        self.bank = bank
        self.num_bytes = 0
        self._max_bytes = max_bytes
        self._max_live_ranks = max_live_ranks
        self._on_drop = on_drop
        self._weights: OrderedDict[str, AdapterWeights] = OrderedDict()  # the one used last stands last

    def __contains__(self, name: str) -> bool:
        return name in self._weights

    def __len__(self) -> int:
        return len(self._weights)

    def touch(self, name: str) -> None:
        """Count an adapter as used just now.

        Raises:
            ModelError: it is not in memory.
        """
        if name not in self._weights:
            raise ModelError(f"the adapter {name} is not in memory", remedy="load it again")
        self._weights.move_to_end(name)

    def add(self, name: str, weights: AdapterWeights, *, needed: Set[str | None]) -> bool:
        """Take an adapter into memory.

        Args:
            name: a new name for other weights: names are never reused.
            weights: made for the bank's model.
            needed: adapters that must stay.

        Returns:
            Whether there was room; nothing has changed where there was none.

        Raises:
            ModelError: it alone is over the limits.
        """
        if weights.num_bytes > self._max_bytes or weights.rank > self._max_live_ranks:
            raise ModelError(
                f"an adapter of {weights.num_bytes} bytes and rank {weights.rank} cannot be served: {self._max_bytes} "
                f"bytes and rank {self._max_live_ranks} are the most",
                remedy="raise the server's limits on adapters",
            )
        if name in self._weights:
            return True
        excess = self.num_bytes + weights.num_bytes - self._max_bytes
        dropped = []
        for key, kept in self._weights.items():
            if excess > 0 and key not in needed:
                dropped.append(key)
                excess -= kept.num_bytes
        if excess > 0:
            return False
        for key in dropped:
            self.num_bytes -= self._weights.pop(key).num_bytes
            self._on_drop(key)
        self._weights[name] = weights
        self.num_bytes += weights.num_bytes
        return True

    def lay_in(self, name: str, *, used: Set[str | None]) -> bool:
        """Whether an adapter lies in the layers now; those that no row uses make room.

        Args:
            name: of an adapter in memory.
            used: adapters of the rows in work.
        """
        if name in self.bank.keys:
            return True
        weights = self._weights[name]
        live = sum(self.bank.rank_of(key) for key in self.bank.keys if key in used)
        if live + weights.rank > self._max_live_ranks:
            return False
        # the lower the ranks in use, the smaller the products: what is unused is not kept for the next time
        for key in self.bank.keys - used:
            self.bank.take_out(key)
        self.bank.put_in(name, weights)
        return True

    @contextmanager
    def alone(self, model: PreTrainedModel, name: str, *, used: Set[str | None]) -> Iterator[Forward]:
        """The model with one adapter, on the path of its training; see :func:`adapter_alone`.

        Raises:
            ModelError: the adapter is not in memory, or there is no room in the layers while others are in use.
        """
        self.touch(name)
        if not self.lay_in(name, used=used):
            raise ModelError(f"the adapter {name} has no room in the layers", remedy="ask again a little later")
        with adapter_alone(model, self.bank, name) as forward:
            yield forward
