"""A base without its weights, for planning: its layers from ``config.json`` alone, its tokenizer where one is there.

Nothing is fetched: of a hub id, what lies in the hub's cache is read. So an 8B model can be planned for on a laptop
that could not hold it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import try_to_load_from_cache
from transformers import PreTrainedModel

from hone.errors import ModelError
from hone.model.catalog import resolve_model
from hone.model.load import LoadedModel, load_base, outline_of_config
from hone.model.model_folder import inspect_model_folder

__all__ = ["Outline", "load_outline"]


@dataclass(frozen=True, slots=True)
class Outline:
    """What planning needs of a base.

    Args:
        model: on torch's meta device.
        context_length: tokens that it can see.
        base: with its tokenizer, where the model can be loaded; None where there is a config alone.
    """

    model: PreTrainedModel
    context_length: int
    base: LoadedModel | None


def load_outline(name: str, *, home: Path, dtype: str | None, note: Callable[[str], None]) -> Outline:
    """The outline of a base by any of its names.

    Args:
        name: see :func:`hone.model.catalog.resolve_model`; also a folder with ``config.json`` alone.
        home: hone's home folder.
        dtype: that the user asked for.
        note: receives sentences for the user.

    Raises:
        ModelError: there is no such model, its config is damaged or of an unsupported kind, or a hub id is not cached.
        StorageError: a GGUF file cannot be converted.
    """
    source = resolve_model(name, home=home)
    folder = source.path if source.kind == "folder" else None
    if source.kind == "hub":
        folder = _cached_folder(source.name)
    if folder is not None:
        try:
            inspect_model_folder(folder, name=source.name)
        except ModelError as error:
            # a config that is wrong is told below; what else is missing, a plan can do without
            model, context_length = outline_of_config(folder, source.name, note)
            note(f"planned from config.json alone: {error.what}")
            return Outline(model, context_length, None)
        name = str(folder)
    base = load_base(name, home=home, device="cpu", dtype=dtype, note=note, weights=False)
    return Outline(base.model, base.context_length, base)


def _cached_folder(repository: str) -> Path:
    found = try_to_load_from_cache(repository, "config.json")
    if not isinstance(found, str):
        raise ModelError(
            f"{repository} is not in the hub's cache",
            where="model",
            why="a plan fetches nothing",
            remedy=f"fetch its config alone with `hf download {repository} config.json`, or name a folder that has it",
        )
    return Path(found).parent
