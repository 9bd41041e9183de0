"""LoRA (Hu et al. 2021, arXiv:2106.09685): low-rank updates around frozen linear layers, in PEFT's file format.

    y = W x + strength * (alpha / R) * B (A x)

A layer is wrapped, never subclassed: :meth:`LoraLinear.from_base` takes the frozen one in, :meth:`LoraLinear.merge`
gives a plain one back. A and B are kept in float32 and rounded to the layer's dtype inside the product, so that the
optimizer's small steps are never lost to bfloat16.

Shape legend: R rank, D_in and D_out widths of a layer.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import ClassVar, Protocol, Self

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from hone.errors import ModelError
from hone.model.quantize import QuantizedLinear
from hone.model.switch import Switch

__all__ = [
    "FusedGroup",
    "LinearLayer",
    "LoraLinear",
    "adapted_layers",
    "adapter_disabled",
    "adapter_parameters",
    "attach_adapter",
    "detach_adapter",
    "find_linear_layers",
    "layer_widths",
]


LinearLayer = nn.Linear | Conv1D | QuantizedLinear


class FusedGroup(Protocol):
    """Layers that are computed together (fused_lora.py)."""

    def __call__(self, member: LoraLinear, x: Tensor) -> Tensor:
        """The output of ``member`` for ``x``."""
        ...

    def release(self) -> None:
        """Let every member compute for itself again, with a weight of its own."""
        ...


class LoraLinear(nn.Module):
    """A frozen linear layer with a trainable low-rank update.

    Args:
        base: an ``nn.Linear``, transformers' ``Conv1D`` or a 4-bit layer; frozen here.
        rank: R, at least 1.
        alpha: the update is scaled by alpha / R.
        seed: A is drawn from it; B starts at zero, so the wrapped layer equals its base at first.
    """

    is_one_product: ClassVar[bool] = True
    """Whether it computes ``W x`` plus one product of two factors, and nothing else."""

    def __init__(self, base: LinearLayer, *, rank: int, alpha: float, seed: int) -> None:
        super().__init__()
        in_features, out_features = layer_widths(base)
        self.base = base.requires_grad_(False)
        self.rank = rank
        self.scaling = alpha / rank
        self.strength = 1.0
        self.enabled = True
        # set while layers with the same input are computed together (fused_lora.py)
        self.fused: FusedGroup | None = None
        device = base.weight.device
        # Kaiming-uniform with a = sqrt(5), as PEFT: bound 1 / sqrt(D_in). Drawn on the CPU, so alike on every device.
        bound = 1 / math.sqrt(in_features)
        generator = torch.Generator().manual_seed(seed)
        start = (torch.rand(rank, in_features, generator=generator) * 2 - 1) * bound
        self.lora_A = nn.Parameter(start.to(device))
        self.lora_B = nn.Parameter(torch.zeros(out_features, rank, device=device))

    @classmethod
    def from_base(cls, base: LinearLayer, *, rank: int, alpha: float, seed: int) -> Self:
        """Wrap ``base``; see the class for the arguments."""
        return cls(base, rank=rank, alpha=alpha, seed=seed)

    def forward(self, x: Tensor) -> Tensor:
        """``x`` [..., D_in] to [..., D_out]."""
        return self.plain_forward(x) if self.fused is None else self.fused(self, x)

    def plain_forward(self, x: Tensor) -> Tensor:
        """The same, of this layer alone: the reference path."""
        y: Tensor = self.base(x)
        if not self.enabled:
            return y
        low_rank = nn.functional.linear(x, self.lora_A.to(x.dtype))
        return y + nn.functional.linear(low_rank, (self.lora_B * self.scale).to(x.dtype))

    def factors(self) -> tuple[Tensor, Tensor]:
        """([R, D_in], [D_out, R]), float32, differentiable: the two whose product is the update but for ``scale``."""
        return self.lora_A, self.lora_B

    @property
    def scale(self) -> float:
        """Factor on B A at the present strength."""
        return self.scaling * self.strength

    def trainable(self) -> dict[str, nn.Parameter]:
        """The tensors that are trained, by their names within the layer."""
        return {"lora_A": self.lora_A, "lora_B": self.lora_B}

    def has_moved(self) -> bool:
        """Whether training has taken the layer away from its base."""
        return bool(self.lora_B.detach().abs().max() > 0)

    def stored(self) -> dict[str, Tensor]:
        """The layer by PEFT's names; A has as many rows as the stored rank. The strength belongs to the scaling."""
        return {"lora_A.weight": self.lora_A.detach(), "lora_B.weight": self.lora_B.detach()}

    def delta(self) -> Tensor:
        """The update as a float32 matrix [D_out, D_in], at the present strength."""
        return (self.lora_B.float() @ self.lora_A.float()) * self.scale

    @torch.no_grad()
    def merge(self) -> nn.Module:
        """Add the update to the frozen weight, in float32 with one rounding, and give the plain layer back.

        Raises:
            ModelError: the base is in 4 bits, which cannot hold the sum.
        """
        if isinstance(self.base, QuantizedLinear):
            raise ModelError(
                "an update cannot be merged into a 4-bit layer",
                why="its 4 bits would round the update away",
                remedy="keep the adapter beside its base",
            )
        delta = self.delta()
        weight = self.base.weight
        weight.copy_((weight.float() + (delta.T if isinstance(self.base, Conv1D) else delta)).to(weight.dtype))
        return self.base


def layer_widths(layer: LinearLayer) -> tuple[int, int]:
    """(D_in, D_out) of a linear layer; Conv1D stores its weight transposed."""
    first, second = layer.weight.shape
    return (first, second) if isinstance(layer, Conv1D) else (second, first)


def find_linear_layers(model: nn.Module) -> list[str]:
    """Names of all linear layers but the output head, in the model's order.

    The head is left out because it is tied to the embeddings in many models and its update would be the largest of
    all; so does PEFT's ``all-linear``.
    """
    get_head: Callable[[], nn.Module | None] = getattr(model, "get_output_embeddings", lambda: None)
    head = get_head()
    # a subclass with a forward of its own, such as a router that returns a tuple, is no plain linear layer
    plain = (nn.Linear.forward, Conv1D.forward, QuantizedLinear.forward)
    return [
        name
        for name, module in model.named_modules()
        if isinstance(module, LinearLayer) and type(module).forward in plain and module is not head
    ]


def attach_adapter(
    model: nn.Module,
    *,
    rank: int,
    alpha: float,
    seed: int = 0,
    layers: Sequence[str] | None = None,
    kind: type[LoraLinear] = LoraLinear,
) -> list[str]:
    """Wrap linear layers of ``model`` in place.

    Args:
        model: its parameters are frozen; the adapter's alone are trainable afterwards.
        rank: R of every layer.
        alpha: scaling numerator.
        seed: each layer draws from (seed, its name), whatever order the layers come in.
        layers: names of the layers; all linear layers but the head where None.
        kind: the class that wraps a layer.

    Returns:
        Names of the wrapped layers.

    Raises:
        ModelError: no layer can be wrapped, or a named one does not exist or is not linear.
    """
    names = find_linear_layers(model) if layers is None else list(layers)
    modules = dict(model.named_modules())
    wrong = [name for name in names if not isinstance(modules.get(name), LinearLayer)]
    if wrong or not names:
        raise ModelError(
            f"no adapter can be put on {len(wrong)} of {len(names)} layers" if names else "no linear layer was found",
            details=wrong,
            why="an adapter that matches no layer would train nothing and load as the base model",
            remedy="check that the adapter belongs to this base model",
        )
    model.requires_grad_(False)
    for name in names:
        base = modules[name]
        layer_seed = zlib.crc32(f"{seed}:{name}".encode())
        _replace(model, name, kind.from_base(base, rank=rank, alpha=alpha, seed=layer_seed))
    return names


def detach_adapter(model: nn.Module, *, merge: bool) -> None:
    """Put plain layers back in place, with the update merged in or dropped."""
    for name, layer in list(adapted_layers(model)):
        if layer.fused is not None:
            layer.fused.release()
        _replace(model, name, layer.merge() if merge else layer.base)


def _replace(model: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, leaf = name.rpartition(".")
    setattr(model.get_submodule(parent), leaf, module)


def adapted_layers(model: nn.Module) -> Iterator[tuple[str, LoraLinear]]:
    """(name, layer) of every wrapped layer, in the model's order."""
    for name, module in model.named_modules():
        if isinstance(module, LoraLinear):
            yield name, module


def adapter_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """The trainable tensors by name, as ``<layer>.lora_A`` and ``<layer>.lora_B``."""
    parameters: dict[str, nn.Parameter] = {}
    for name, layer in adapted_layers(model):
        parameters |= {f"{name}.{leaf}": tensor for leaf, tensor in layer.trainable().items()}
    return parameters


@contextmanager
def adapter_disabled(model: nn.Module) -> Iterator[None]:
    """The base model inside the block, whatever was trained on it; an adapter costs nothing, as nothing is unloaded."""
    layers = [module for module in model.modules() if isinstance(module, LoraLinear | Switch)]
    before = [layer.enabled for layer in layers]
    for layer in layers:
        layer.enabled = False
    try:
        yield
    finally:
        for layer, enabled in zip(layers, before, strict=True):
            layer.enabled = enabled
