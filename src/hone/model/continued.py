"""An adapter that was trained before and is trained further."""

from __future__ import annotations

import torch
from transformers import PreTrainedModel

from hone.model.lora import adapted_layers
from hone.model.low_rank import LowRankAdaptation

__all__ = ["ContinuedAdaptation"]


class ContinuedAdaptation(LowRankAdaptation):
    """Low-rank updates that begin where a version ended; what has moved is told from there, not from the base.

    Args:
        model: has wrapped layers, filled with the version's tensors.
        title: how the method is called.
    """

    def __init__(self, model: PreTrainedModel, *, title: str) -> None:
        super().__init__(model, title=title)
        self.summary = f"{title}, continued, on {self.num_parts} linear layers"
        self._start = {name: layer.lora_B.detach().clone() for name, layer in adapted_layers(model)}

    def parts(self) -> dict[str, tuple[bool, bool]]:
        """(moved away from the version it began with, finite) of each layer."""
        return {
            name: (
                not torch.equal(layer.lora_B.detach(), self._start[name].to(layer.lora_B.device)),
                bool(torch.isfinite(layer.delta()).all()),
            )
            for name, layer in adapted_layers(self.model)
        }
