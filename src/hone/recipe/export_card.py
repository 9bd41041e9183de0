"""The model card of an export: the version's own, with how to use this format in place of how to use the adapter."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from hone.errors import StorageError
from hone.files import write_atomically
from hone.model.catalog import ModelSource
from hone.recipe.model_card import TASK_OF_REWARD_MODELS, write_model_card
from hone.registry.versions import MODEL_CARD, Version

__all__ = ["write_export_card"]

_LIBRARIES = {"peft": "peft", "vllm": "peft", "merged": "transformers", "gguf": "gguf", "ollama": "gguf"}
_RELATIONS = {"peft": "adapter", "vllm": "adapter", "merged": "finetune", "gguf": "quantized", "ollama": "quantized"}
_USE = "\n## Use\n"


def write_export_card(
    version: Version,
    folder: Path,
    *,
    target: str,
    source: ModelSource,
    use: Sequence[str],
    scores_answers: bool = False,
) -> None:
    """Write ``README.md``, with the hub's metadata, into an export's folder.

    Args:
        version: its own card is taken, as its user may have edited it; else it is written from the run's result.
        folder: of the export.
        target: the format.
        source: what the base's name means.
        use: lines on how to use this format.
        scores_answers: whether it is a reward model; older cards of these named another task.

    Raises:
        StorageError: the card cannot be read or written.
    """
    from huggingface_hub import ModelCard

    try:
        card = ModelCard(_own_text(version, folder, source), ignore_metadata_errors=True)
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise StorageError(
            f"the model card cannot be read: {error}",
            where=str(version.adapter / MODEL_CARD),
            remedy="mend or remove it",
        ) from error
    metadata: Any = card.data
    metadata.library_name = _LIBRARIES[target]
    if metadata.get("base_model"):
        metadata.base_model_relation = _RELATIONS[target]
    if scores_answers:
        metadata.pipeline_tag = TASK_OF_REWARD_MODELS
        for one in metadata.eval_results or ():
            one.task_type = TASK_OF_REWARD_MODELS
    body = card.text.partition(_USE)[0].strip()
    more = "`export.json` says how these files were compared with the version, and in which programs."
    text = "\n".join([body, _USE, *use, "", more])
    write_atomically(folder / MODEL_CARD, f"---\n{metadata.to_yaml()}\n---\n\n{text}\n")


def _own_text(version: Version, folder: Path, source: ModelSource) -> str:
    card = version.adapter / MODEL_CARD
    if card.is_file():
        return card.read_text(encoding="utf-8")
    result = version.run_folder / "result.json"
    if result.is_file():
        found: Mapping[str, Any] = json.loads(result.read_text(encoding="utf-8"))
        return write_model_card(folder, version.reference, found, source=source).read_text(encoding="utf-8")
    return f"---\ntags:\n- hone\n---\n\n# {version.reference}\n\nNo result of the run is left to describe it by.\n"
