"""Trained weights on disk: a whole model folder after full fine-tuning, the changed tensors alone after partial.

A model folder is what every tool loads. The changed tensors stand in ``changed_weights.safetensors`` by the names that
transformers gives the parameters, in the dtype they were computed in, so that a reload gives the same logits.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase

from hone.errors import ModelError, StorageError
from hone.files import atomic_folder, write_atomically
from hone.model.adapter_files import seal_adapter
from hone.model.full import Originals, TrainedWeights
from hone.model.quiet import quiet_transformers
from hone.model.select import select_names

__all__ = ["CHANGED_WEIGHTS_FILE", "WeightAdaptation", "attach_weights", "load_changed_weights", "load_whole_model"]

CHANGED_WEIGHTS_FILE = "changed_weights.safetensors"


class WeightAdaptation:
    """Weights of the base that are trained; see :class:`hone.model.adaptation.Adaptation` for what each method gives.

    Args:
        model: the weights' model.
        weights: those that are trained or were.
        whole: all of them, so that a model folder is saved.
    """

    def __init__(self, model: PreTrainedModel, weights: TrainedWeights, *, whole: bool) -> None:
        self.model = model
        self.num_parts = len(weights.weights)
        self.has_strength = False
        values = sum(weight.numel() for weight in weights.weights.values())
        kind = "full fine-tuning" if whole else "partial fine-tuning"
        self.summary = f"{kind} of {values / 1e6:.1f}M weights in {self.num_parts} tensors"
        self._weights = weights
        self._whole = whole

    def parameters(self) -> dict[str, nn.Parameter]:
        """The tensors that the optimizer works on, in float32."""
        return dict(self._weights.copies)

    def rate_factors(self, ratio: float) -> dict[str, float]:
        """None: there is no A and no B."""
        del ratio
        return {}

    def refresh(self) -> None:
        """Round the optimizer's copies into the model."""
        self._weights.refresh()

    def set_strength(self, strength: float) -> None:
        """The weights themselves were trained; there is no update beside them to scale."""
        raise AssertionError(f"no strength can be set ({strength}); has_strength says so")

    def parts(self) -> dict[str, tuple[bool, bool]]:
        """(moved, finite) of each tensor."""
        return self._weights.parts()

    def save(
        self,
        folder: Path,
        *,
        tokenizer: PreTrainedTokenizerBase,
        base_name: str,
        notes: Mapping[str, Any],
        files: Mapping[str, bytes] | None = None,
    ) -> None:
        """Write a model folder, or the changed tensors."""
        del base_name  # stands in the notes
        tensors = self._weights.stored()
        if broken := [name for name, tensor in tensors.items() if not torch.isfinite(tensor).all()]:
            raise ModelError(
                f"{len(broken)} of {len(tensors)} trained tensors are not finite",
                details=broken,
                remedy="train again with a lower --learning-rate or --dtype float32",
            )
        try:
            with atomic_folder(folder) as temporary:
                if self._whole:
                    with quiet_transformers():
                        self.model.save_pretrained(temporary)
                        tokenizer.save_pretrained(temporary)
                else:
                    write_atomically(temporary / CHANGED_WEIGHTS_FILE, save(tensors, metadata={"format": "pt"}))
                seal_adapter(temporary, notes, files or {})
        except SafetensorError as error:  # its writer's own form of OSError: no space, no permission
            raise StorageError(f"cannot be written: {error}", where=str(folder)) from error

    def merge(self) -> None:
        """Nothing is to be added: the model's weights are the trained ones."""
        self._weights.enabled = True


def attach_weights(
    model: PreTrainedModel, *, patterns: tuple[str, ...] | None, originals: Originals
) -> WeightAdaptation:
    """Make weights of ``model`` trainable.

    Args:
        model: the base, frozen.
        patterns: see :func:`hone.model.select.select_names`; None for all weights.
        originals: gives the base's tensors again.

    Raises:
        ModelError: a pattern fits no parameter, or a tensor cannot be trained.
    """
    names = [name for name, _ in model.named_parameters()]
    if patterns is not None:
        names = select_names(patterns, names, what="parameter")
    weights = TrainedWeights(model, names, originals=originals)
    weights.train_in_place()
    return WeightAdaptation(model, weights, whole=patterns is None)


def load_whole_model(model: PreTrainedModel, folder: Path) -> WeightAdaptation:
    """Put the weights of the fully fine-tuned model in ``folder`` into ``model``, its base.

    Raises:
        ModelError: it is another model than the base.
        StorageError: a file is missing or damaged.
    """
    try:
        with quiet_transformers():
            # no device map and no remote code; on a CPU the tensors stay mapped from their file until they are read
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                folder, dtype=model.dtype, use_safetensors=True, trust_remote_code=False, local_files_only=True
            )
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise StorageError(f"the fine-tuned model cannot be read: {error}", where=str(folder)) from error
    return _swapped(model, {name: tensor.detach() for name, tensor in loaded.named_parameters()}, folder, whole=True)


def load_changed_weights(model: PreTrainedModel, folder: Path) -> WeightAdaptation:
    """Put the changed tensors in ``folder`` into ``model``, their base.

    Raises:
        ModelError: a tensor has no counterpart in the model, or another shape.
        StorageError: the file is missing or damaged.
    """
    path = folder / CHANGED_WEIGHTS_FILE
    try:
        tensors = load_file(path)
    except (OSError, SafetensorError) as error:
        raise StorageError(f"{path.name} cannot be read: {error}", where=str(path)) from error
    return _swapped(model, tensors, folder, whole=False)


def _swapped(model: PreTrainedModel, tensors: Mapping[str, Tensor], folder: Path, *, whole: bool) -> WeightAdaptation:
    expected = dict(model.named_parameters())
    problems = [f"{name}: the model has no such parameter" for name in tensors if name not in expected]
    problems += [f"{name}: missing in the files" for name in expected if whole and name not in tensors]
    problems += [
        f"{name}: {tuple(tensor.shape)} in the files, {tuple(expected[name].shape)} in the model"
        for name, tensor in tensors.items()
        if name in expected and tensor.shape != expected[name].shape
    ]
    problems += [f"{name}: not finite" for name, tensor in tensors.items() if not torch.isfinite(tensor).all()]
    if problems or not tensors:
        raise ModelError(
            f"the trained weights in {folder} do not fit this model: {len(problems)} tensors do not match",
            details=problems,
            why="the model would answer as a mixture of two models",
            remedy="use the base that they were trained on (base_name in hone.json)",
        )
    base = {name: expected[name].data for name in tensors}
    weights = TrainedWeights(model, tensors, originals=lambda: base)
    weights.replace(tensors)
    return WeightAdaptation(model, weights, whole=whole)
