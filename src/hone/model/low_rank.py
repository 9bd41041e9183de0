"""The LoRA family as one kind of adaptation: wrapped linear layers and added tokens, stored in PEFT's format."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from hone.model.adapter_files import save_adapter
from hone.model.added_tokens import added_tokens_of, merge_tokens
from hone.model.lora import adapted_layers, adapter_parameters, detach_adapter
from hone.model.score_head import SCORE, score_head_of

__all__ = ["LowRankAdaptation"]


class LowRankAdaptation:
    """Low-rank updates on linear layers; see :class:`hone.model.adaptation.Adaptation` for what each method gives.

    Args:
        model: has wrapped layers.
        title: how the method is called.
    """

    def __init__(self, model: PreTrainedModel, *, title: str) -> None:
        self.model = model
        self.num_parts = sum(1 for _ in adapted_layers(model))
        self.has_strength = True
        self.summary = f"{title} on {self.num_parts} linear layers"

    def parameters(self) -> dict[str, nn.Parameter]:
        """A and B of each layer, what else its kind trains, the rows of added tokens, and a reward model's head."""
        tokens, head = added_tokens_of(self.model), score_head_of(self.model)
        found = adapter_parameters(self.model) | ({} if tokens is None else tokens.parameters_by_name())
        if head is not None:
            found |= {f"{SCORE}.{name}": parameter for name, parameter in head.named_parameters()}
        return found

    def rate_factors(self, ratio: float) -> dict[str, float]:
        """LoRA+ (Hayou et al. 2024, arXiv:2402.12354): B learns ``ratio`` times as fast as A."""
        names = self.parameters()
        return {name: ratio for name in names if name.endswith(".lora_B")} if ratio != 1.0 else {}

    def refresh(self) -> None:
        """Nothing follows from the parameters."""

    def set_strength(self, strength: float) -> None:
        """Scale the update of every layer; the rows of added tokens, which the base does not have, stay."""
        for _, layer in adapted_layers(self.model):
            layer.strength = strength

    def parts(self) -> dict[str, tuple[bool, bool]]:
        """(moved, finite) of each layer, of the rows of added tokens, and of a reward model's head."""
        layers = {
            name: (layer.has_moved(), bool(torch.isfinite(layer.delta()).all()))
            for name, layer in adapted_layers(self.model)
        }
        tokens = added_tokens_of(self.model)
        if (head := score_head_of(self.model)) is not None:
            layers[SCORE] = (bool(head.weight.any()), bool(torch.isfinite(head.weight).all()))
        return layers | ({} if tokens is None else tokens.parts())

    def save(
        self,
        folder: Path,
        *,
        tokenizer: PreTrainedTokenizerBase,
        base_name: str,
        notes: Mapping[str, Any],
        files: Mapping[str, bytes] | None = None,
    ) -> None:
        """Write a PEFT adapter; with added tokens, the tokenizer that has them beside it."""
        extended = tokenizer if added_tokens_of(self.model) is not None else None
        save_adapter(self.model, folder, base_name=base_name, notes=notes, tokenizer=extended, files=files)

    def merge(self) -> None:
        """Add the updates to the weights; the model is a plain one afterwards."""
        detach_adapter(self.model, merge=True)
        merge_tokens(self.model)
