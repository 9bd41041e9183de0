"""A 4-bit base: frozen linear layers stored in 4 bits, as QLoRA does (Dettmers et al. 2023, arXiv:2305.14314).

bitsandbytes packs and unpacks (blocks of 64 values, their scales in 8 bits); the product is torch's own. A layer is
unpacked when it is used, forwards and backwards, so that no more than one is whole at a time. Embeddings, norms and the
head stay as they are.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from hone.errors import MissingDependencyError, ModelError

__all__ = ["QuantizedLinear", "QuantizedType", "count_parameters", "quantize_linear_layers"]

QuantizedType = Literal["nf4", "fp4"]


class QuantizedLinear(nn.Module):
    """A frozen linear layer in 4 bits.

    Args:
        base: the layer, on the device that it is to be used on.
        kind: ``nf4`` has its 16 values at the quantiles of a normal distribution, ``fp4`` is a 4-bit float.
    """

    def __init__(self, base: nn.Linear, *, kind: QuantizedType) -> None:
        super().__init__()
        functional = _bitsandbytes()
        self.in_features, self.out_features = base.in_features, base.out_features
        packed, self._state = functional.quantize_4bit(
            base.weight.detach().contiguous(), quant_type=kind, compress_statistics=True
        )
        # not saved with the model: it follows from the base
        self.register_buffer("packed", packed, persistent=False)
        self.bias: nn.Parameter | None = base.bias
        self._unpack = functional.dequantize_4bit

    @property
    def weight(self) -> Tensor:
        """The weight [D_out, D_in] that the 4 bits stand for, unpacked at each reading."""
        return self._unpack(self.packed, self._state)  # type: ignore[no-any-return]

    def forward(self, x: Tensor) -> Tensor:
        """``x`` [..., D_in] to [..., D_out]."""
        y: Tensor = _UnpackedProduct.apply(x, self)  # type: ignore[no-untyped-call]
        return y if self.bias is None else y + self.bias


class _UnpackedProduct(torch.autograd.Function):
    """x W^T, with W unpacked again for the backward pass instead of kept."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: QuantizedLinear) -> Tensor:
        ctx.layer = layer
        return nn.functional.linear(x, layer.weight.to(x.dtype))

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient @ ctx.layer.weight.to(gradient.dtype), None


def quantize_linear_layers(model: PreTrainedModel, *, kind: QuantizedType, device: str) -> int:
    """Replace the linear layers of ``model`` by 4-bit ones, one after the other, and move the rest to ``device``.

    Args:
        model: the frozen base, in main memory.
        kind: see :class:`QuantizedLinear`.
        device: where it is to be used.

    Returns:
        How many layers were replaced; all plain linear layers but the head.

    Raises:
        MissingDependencyError: bitsandbytes is not installed.
        ModelError: there is no plain linear layer.
    """
    head: Any = model.get_output_embeddings()
    layers = [
        (name, module) for name, module in model.named_modules() if type(module) is nn.Linear and module is not head
    ]
    if not layers:
        raise ModelError(
            f"{type(model).__name__} has no plain linear layer to quantise", remedy="train without --quantize"
        )
    for name, layer in layers:
        parent, _, leaf = name.rpartition(".")
        setattr(model.get_submodule(parent), leaf, QuantizedLinear(layer.to(device), kind=kind))
    whole: Any = model  # transformers declares `to` without its arguments
    whole.to(torch.device(device))
    return len(layers)


def count_parameters(model: nn.Module) -> int:
    """Parameters of ``model``; a layer in 4 bits counts as what it stands for."""
    packed = (module for module in model.modules() if isinstance(module, QuantizedLinear))
    return sum(parameter.numel() for parameter in model.parameters()) + sum(
        layer.in_features * layer.out_features for layer in packed
    )


def _bitsandbytes() -> Any:
    try:
        import bitsandbytes.functional as functional
    except ImportError as error:
        raise MissingDependencyError(
            "a 4-bit base needs the package bitsandbytes",
            where="--quantize",
            remedy="pip install 'hone-llm[4bit]'",
        ) from error
    return functional
