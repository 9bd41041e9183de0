"""Fast layers in place of plain ones, where they give the plain ones' numbers; and a record of what was replaced."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from torch import nn
from transformers import PreTrainedModel

from hone.model.fused_lora import fused_lora_enabled
from hone.model.fused_norm import fused_norms_enabled
from hone.model.lora import LoraLinear, adapted_layers

__all__ = ["FastLayers", "fast_layers_enabled", "fast_layers_paused"]


@dataclass(frozen=True, slots=True)
class FastLayers:
    """What was replaced.

    Args:
        adapted: adapted layers that are computed in groups.
        groups: groups of them, by the input they read.
        norms: norms computed by hand.
        left: what stayed as it was, each with the reason.
        attention: how packed tokens attend; empty where they do not.
    """

    adapted: int
    groups: int
    norms: int
    left: tuple[str, ...]
    attention: str = ""

    def describe(self) -> str:
        """One line for a person."""
        text = f"{self.adapted} adapted layers in {self.groups} groups, {self.norms} norms"
        text += f", attention by {self.attention}" if self.attention else ""
        return text if not self.left else f"{text}; left as they are: {'; '.join(self.left)}"


@contextmanager
def fast_layers_enabled(model: PreTrainedModel) -> Iterator[FastLayers]:
    """Fast layers inside the block; the model is as it was afterwards.

    Must be entered while the model still takes plain batches.
    """
    with fused_lora_enabled(model) as groups, fused_norms_enabled(model) as norms:
        adapted = sum(len(group.members) for group in groups)
        left = []
        alone = sum(1 for _ in adapted_layers(model)) - adapted
        if alone:
            left.append(f"{alone} adapted layers (not plain LoRA, or not called exactly once in a forward pass)")
        if norms["left"]:
            left.append(f"{len(norms['left'])} norms (no root-mean-square norm of a known form)")
        yield FastLayers(adapted, len(groups), len(norms["replaced"]), tuple(left))


@contextmanager
def fast_layers_paused(model: nn.Module) -> Iterator[None]:
    """The plain layers inside the block, wherever it stands; for the reference of the proof."""
    fused = [(layer, layer.fused) for layer in model.modules() if isinstance(layer, LoraLinear)]
    forwards = [(vars(module), vars(module).pop("forward")) for module in model.modules() if "forward" in vars(module)]
    for layer, _ in fused:
        layer.fused = None
    try:
        yield
    finally:
        for layer, group in fused:
            layer.fused = group
        for attributes, forward in forwards:
            attributes["forward"] = forward
