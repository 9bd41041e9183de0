"""Merging: what was trained becomes part of the base's weights, saved as a plain model folder."""

from __future__ import annotations

from pathlib import Path

from safetensors import SafetensorError
from transformers import PreTrainedTokenizerBase

from hone.errors import ModelError, StorageError
from hone.files import atomic_folder
from hone.model.adaptation import Adaptation
from hone.model.quiet import quiet_transformers
from hone.model.score_head import score_head_of

__all__ = ["merge_and_save"]


def merge_and_save(adaptation: Adaptation, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Merge an adaptation into its model in place and write the model as safetensors with its tokenizer.

    The sum is made in float32 and rounded once to the weights' dtype.

    Args:
        adaptation: what was trained; its model is a plain one afterwards.
        tokenizer: saved beside it, chat template included.
        folder: complete or absent afterwards.

    Raises:
        ModelError: it is a reward model.
        StorageError: no space or no permission.
    """
    if score_head_of(adaptation.model) is not None:
        raise ModelError(
            "the head of a reward model has no place in a merged model",
            remedy="load its adapter folder with PEFT on transformers' sequence classification (docs/preferences.md)",
        )
    adaptation.merge()
    try:
        with atomic_folder(folder) as temporary, quiet_transformers():
            adaptation.model.save_pretrained(temporary)
            tokenizer.save_pretrained(temporary)
    except SafetensorError as error:  # its writer's own form of OSError: no space, no permission
        raise StorageError(f"cannot be written: {error}", where=str(folder)) from error
