"""One adapter of a bank as if it were attached to the model alone, on the packed path of training and its checks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor
from transformers import PreTrainedModel

from hone.data.pack import PackedBatch
from hone.model.adapter_bank import AdapterBank
from hone.model.attention import packed_attention_enabled
from hone.model.forward import Forward, packed_logits
from hone.model.switch import Switch

__all__ = ["adapter_alone"]


@contextmanager
def adapter_alone(model: PreTrainedModel, bank: AdapterBank, key: str) -> Iterator[Forward]:
    """Inside the block, ``model`` answers as with this adapter attached; ``adapter_disabled`` gives the base.

    Args:
        model: whose layers the bank wraps.
        bank: holds the adapter.
        key: the adapter's name in the bank.

    Yields:
        The pass that gives logits [S, V] of the supervised tokens.
    """
    switch = _BankSwitch()
    model.add_module("hone_bank_switch", switch)

    def logits(model: PreTrainedModel, batch: PackedBatch) -> Tensor:
        bank.select([(key if switch.enabled else None, len(batch.ids_T))])
        return packed_logits(model, batch)

    try:
        with packed_attention_enabled(model):
            yield logits
    finally:
        del model.hone_bank_switch


class _BankSwitch(Switch):
    """Whether the next pass takes the adapter."""

    def turn(self, enabled: bool) -> None:
        """The state is asked for in each pass; nothing is to be moved."""
