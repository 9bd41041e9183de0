"""Merging: the adapter's update added to the base's weights, saved as a plain model folder."""

from __future__ import annotations

from pathlib import Path

from safetensors import SafetensorError
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from hone.errors import StorageError
from hone.files import atomic_folder
from hone.model.lora import detach_adapter

__all__ = ["merge_and_save"]


def merge_and_save(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Merge the adapter into ``model`` in place and write it as safetensors with its tokenizer.

    The sum is made in float32 and rounded once to the weights' dtype.

    Args:
        model: has an adapter; it is a plain model afterwards.
        tokenizer: saved beside it, chat template included.
        folder: complete or absent afterwards.

    Raises:
        StorageError: no space or no permission.
    """
    detach_adapter(model, merge=True)
    try:
        with atomic_folder(folder) as temporary:
            model.save_pretrained(temporary)
            tokenizer.save_pretrained(temporary)
    except SafetensorError as error:  # its writer's own form of OSError: no space, no permission
        raise StorageError(f"cannot be written: {error}", where=str(folder)) from error
