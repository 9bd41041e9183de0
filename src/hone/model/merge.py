"""Merging: what was trained becomes part of the base's weights, saved as a plain model folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from hone.errors import ModelError, StorageError
from hone.files import atomic_folder
from hone.model.adaptation import Adaptation
from hone.model.quiet import quiet_transformers
from hone.model.score_head import score_head_of

__all__ = ["merge_and_save", "save_whole"]


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
    with atomic_folder(folder) as temporary:
        save_whole(adaptation.model, tokenizer, temporary)


def save_whole(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path, *, dtype: torch.dtype | None = None
) -> None:
    """Write a plain model as safetensors with its config and tokenizer.

    Args:
        model: with nothing attached; in ``dtype`` afterwards.
        tokenizer: saved beside it, chat template included.
        folder: one that takes its name when all of it is written.
        dtype: of the weights, rounded once; the model's own unless given.

    Raises:
        StorageError: no space or no permission.
    """
    whole: Any = model  # transformers declares `to` without its arguments
    try:
        with quiet_transformers():
            (whole if dtype is None else whole.to(dtype=dtype)).save_pretrained(folder)
            tokenizer.save_pretrained(folder)
    except SafetensorError as error:  # its writer's own form of OSError: no space, no permission
        raise StorageError(f"cannot be written: {error}", where=str(folder)) from error
