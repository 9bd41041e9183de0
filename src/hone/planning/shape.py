"""The figures of a base that its cost follows from: counted on an outline without weights, whatever the architecture.

Nothing is estimated here. An outline on torch's meta device has every layer with its widths, so that an 8B model is
counted on a laptop from its ``config.json`` alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn
from transformers import PreTrainedModel

from hone.errors import ModelError
from hone.model.lora import LinearLayer, find_linear_layers, layer_widths
from hone.model.quantize import QuantizedLinear, count_parameters
from hone.model.select import select_names

__all__ = ["LayerWidths", "ModelShape", "shape_of"]


@dataclass(frozen=True, slots=True)
class LayerWidths:
    """One linear layer.

    Args:
        name: in the model.
        inputs: values that it reads for a token.
        outputs: values that it gives.
    """

    name: str
    inputs: int
    outputs: int

    @property
    def values(self) -> int:
        """Numbers of its weight, without the bias."""
        return self.inputs * self.outputs


@dataclass(frozen=True, slots=True)
class ModelShape:
    """What of a base decides about memory and time.

    Args:
        num_parameters: all of them; shared ones once.
        layers: linear layers but the output head.
        vocabulary: rows of the head (V).
        width: of the hidden states (D).
        num_layers: decoder layers.
        heads: query heads (H).
        kv_heads: key-value heads (K).
        head_width: values of a head.
        context_length: tokens that it can see.
        architecture: the model's class.
        stored_bytes_per_value: of its files' dtype.
    """

    num_parameters: int
    layers: tuple[LayerWidths, ...]
    vocabulary: int
    width: int
    num_layers: int
    heads: int
    kv_heads: int
    head_width: int
    context_length: int
    architecture: str
    stored_bytes_per_value: int = 2

    @property
    def linear_values(self) -> int:
        """Numbers in all linear layers but the head (Nb of the formulas)."""
        return sum(layer.values for layer in self.layers)

    @property
    def head_values(self) -> int:
        """Numbers in the head (Nh)."""
        return self.vocabulary * self.width

    @property
    def mean_width(self) -> float:
        """The width of a linear layer, between those that it reads and gives: what products are as fast as."""
        return math.sqrt(self.linear_values / sum(layer.inputs for layer in self.layers) * self.width)

    @property
    def cache_values(self) -> int:
        """Numbers of keys and values that are kept of a token."""
        return 2 * self.kv_heads * self.head_width * self.num_layers

    def adapted(self, patterns: Sequence[str] | None) -> tuple[LayerWidths, ...]:
        """The linear layers that ``patterns`` name; all where None.

        Raises:
            ModelError: a pattern fits nothing.
        """
        if patterns is None:
            return self.layers
        names = set(select_names(patterns, [layer.name for layer in self.layers], what="linear layer"))
        return tuple(layer for layer in self.layers if layer.name in names)

    def adapter_values(self, rank: int, patterns: Sequence[str] | None = None) -> int:
        """Numbers in A and B of an adapter of ``rank``."""
        return rank * sum(layer.inputs + layer.outputs for layer in self.adapted(patterns))


def shape_of(model: PreTrainedModel, *, context_length: int) -> ModelShape:
    """Count ``model``, which may be an outline on the meta device.

    Args:
        model: plain, without an adapter.
        context_length: tokens that it can see.

    Raises:
        ModelError: no linear layer is found in it.
    """
    config = model.config.get_text_config()
    modules: dict[str, nn.Module] = dict(model.named_modules())
    layers = []
    for name in find_linear_layers(model):
        layer = modules[name]
        assert isinstance(layer, LinearLayer), "find_linear_layers gives names of linear layers"
        # the weight of a 4-bit layer is unpacked at each reading
        if isinstance(layer, QuantizedLinear):
            layers.append(LayerWidths(name, layer.in_features, layer.out_features))
        else:
            layers.append(LayerWidths(name, *layer_widths(layer)))
    if not layers:
        raise ModelError(f"{type(model).__name__} has no plain linear layer that could be trained or counted")
    heads = int(getattr(config, "num_attention_heads", None) or 1)
    stored = getattr(model.config, "dtype", None)
    return ModelShape(
        num_parameters=count_parameters(model),
        layers=tuple(layers),
        vocabulary=int(config.vocab_size),
        width=int(config.hidden_size),
        num_layers=int(config.num_hidden_layers),
        heads=heads,
        kv_heads=int(getattr(config, "num_key_value_heads", None) or heads),
        head_width=int(getattr(config, "head_dim", None) or config.hidden_size // heads),
        context_length=context_length,
        architecture=type(model).__name__,
        stored_bytes_per_value=getattr(stored, "itemsize", 4),
    )
