"""Activation recomputation for the first decoder layers: their inner values are computed again in the backward pass.

A layer that is recomputed keeps its input alone, and costs one more forward pass. Only as many layers do it as the
memory asks for. Gradients are those of the plain layers to the last bit, since the same operations run on the same
values (torch.utils.checkpoint, non-reentrant).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from hone.errors import ModelError

__all__ = ["decoder_layers", "recompute_enabled"]


class _RecomputedLayer(nn.Module):
    """Stands in for a decoder layer inside the block; what the model reads from the layer, it finds here too."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("layer"), name)

    def forward(self, *given: Any, **named: Any) -> Any:
        if not torch.is_grad_enabled():
            return self.layer(*given, **named)
        # nothing in a layer draws random numbers: models are trained in evaluation mode
        return checkpoint(self.layer, *given, use_reentrant=False, preserve_rng_state=False, **named)


def decoder_layers(model: PreTrainedModel) -> nn.ModuleList:
    """The list of decoder layers, found by its length.

    Raises:
        ModelError: the model has no such list, or several.
    """
    count = model.config.get_text_config().num_hidden_layers
    decoder: Any = model.get_decoder()
    found = [module for module in decoder.children() if isinstance(module, nn.ModuleList) and len(module) == count]
    if len(found) != 1:
        raise ModelError(
            f"{type(model).__name__} has no one list of {count} decoder layers, so they cannot be recomputed",
            remedy="train without --memory-budget, with shorter rows or a smaller --micro-batch-tokens",
        )
    return found[0]


@contextmanager
def recompute_enabled(model: PreTrainedModel, num_layers: int) -> Iterator[None]:
    """Recompute the first ``num_layers`` decoder layers inside the block; the model is as it was afterwards.

    The names of layers differ inside the block, so parameters are to be collected before.

    Raises:
        ModelError: the model's layers were not found, and ``num_layers`` is not 0.
    """
    layers = decoder_layers(model) if num_layers else nn.ModuleList()
    originals = list(layers[:num_layers])
    for index, layer in enumerate(originals):
        layers[index] = _RecomputedLayer(layer)
    try:
        yield
    finally:
        for index, layer in enumerate(originals):
            layers[index] = layer
