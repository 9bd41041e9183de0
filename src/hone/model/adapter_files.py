"""Adapters on disk, in PEFT's format: ``adapter_config.json`` and ``adapter_model.safetensors``.

Whatever loads a PEFT adapter loads ours. Reading is strict: an adapter whose tensors do not match the model one by one
is refused with the name of each, because an adapter that matches nothing loads as the base model without a word.
An adapter of our own has a manifest of SHA-256 sums beside it, and is refused where a single bit has changed.
Format: huggingface/peft, docs/source/developer_guides/checkpoint.md.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.pytorch_utils import Conv1D

from hone.errors import ModelError, StorageError
from hone.files import atomic_folder, write_atomically, write_json
from hone.model.added_tokens import added_tokens_of, attach_tokens
from hone.model.dora import DoraLinear
from hone.model.lora import LinearLayer, LoraLinear, adapted_layers, attach_adapter, layer_widths
from hone.model.lora_files import ADAPTER_CONFIG, ADAPTER_WEIGHTS, TENSOR_PREFIX, read_json_object, read_lora_files
from hone.model.score_head import SCORE, attach_score_head, score_head_of
from hone.model.sealed_folder import MANIFEST_NAME, problems_of_seal, seal_folder

__all__ = [
    "NOTES_FILE",
    "adapter_kind",
    "check_seal",
    "load_adapter",
    "read_adapter_notes",
    "save_adapter",
    "seal_adapter",
]

NOTES_FILE = "hone.json"
_SEALED = "sealed"  # in the notes: a manifest of sums belongs to this adapter, and its absence is damage


def save_adapter(
    model: nn.Module,
    folder: Path,
    *,
    base_name: str,
    notes: Mapping[str, Any],
    tokenizer: PreTrainedTokenizerBase | None = None,
    files: Mapping[str, bytes] | None = None,
) -> None:
    """Write the adapter of ``model`` as ``folder``: whole, with its sums, or not at all.

    Args:
        model: has wrapped layers.
        folder: a folder of that name is replaced.
        base_name: recorded as ``base_model_name_or_path``.
        notes: what hone needs to load it safely (hash of the base, template); stands in ``hone.json`` beside it.
        tokenizer: written beside it, where it has tokens that the base's has not.
        files: content of further files beside it, by name.

    Raises:
        ModelError: the adapter holds a value that is not finite; nothing is written.
        StorageError: no space or no permission; a folder that was there before is untouched.
    """
    layers = dict(adapted_layers(model))
    strengths = {layer.strength for layer in layers.values()}
    assert len(strengths) <= 1, "one alpha belongs to all layers, and so does one strength"
    tensors = {
        f"{TENSOR_PREFIX}{name}.{leaf}": tensor.float().cpu().contiguous()
        for name, layer in layers.items()
        for leaf, tensor in layer.stored().items()
    }
    tokens = added_tokens_of(model)
    if tokens is not None:
        tensors |= {f"{TENSOR_PREFIX}{name}": rows.float().cpu().contiguous() for name, rows in tokens.stored().items()}
    head = score_head_of(model)
    if head is not None:
        tensors[f"{TENSOR_PREFIX}{SCORE}.weight"] = head.weight.detach().float().cpu().contiguous()
    broken = [name for name, tensor in tensors.items() if not torch.isfinite(tensor).all()]
    if broken or not tensors:
        raise ModelError(
            f"{len(broken)} of {len(tensors)} adapter tensors are not finite",
            details=broken,
            remedy="train again with a lower --learning-rate or --dtype float32",
        )
    config = _peft_config(model, layers, base_name, rank=next(iter(tensors.values())).shape[0])
    with atomic_folder(folder) as temporary:
        write_atomically(temporary / ADAPTER_WEIGHTS, save(tensors, metadata={"format": "pt"}))
        write_json(temporary / ADAPTER_CONFIG, config)
        if tokenizer is not None:
            tokenizer.save_pretrained(temporary)
        seal_adapter(temporary, notes, files or {})


def seal_adapter(folder: Path, notes: Mapping[str, Any], files: Mapping[str, bytes]) -> None:
    """Write notes and further files beside a trained result, and the sums of all, which each load compares."""
    for name, content in files.items():
        write_atomically(folder / name, content)
    write_json(folder / NOTES_FILE, {**notes, _SEALED: True})
    seal_folder(folder, facts={})


def _peft_config(model: nn.Module, layers: Mapping[str, LoraLinear], base_name: str, *, rank: int) -> dict[str, Any]:
    first = next(iter(layers.values()))
    tokens = added_tokens_of(model)
    scores = score_head_of(model) is not None
    return {
        "peft_type": "LORA",
        "task_type": "SEQ_CLS" if scores else "CAUSAL_LM",
        "base_model_name_or_path": base_name,
        "r": rank,
        # the strength is a part of it, so that whatever loads the adapter scales it as it was measured
        "lora_alpha": _number(first.scale * rank),
        "lora_dropout": 0.0,
        "target_modules": _target_modules(model, set(layers)),
        "bias": "none",
        "fan_in_fan_out": isinstance(first.base, Conv1D),
        "inference_mode": True,
        "use_rslora": False,
        "use_dora": isinstance(first, DoraLinear),
        **({} if tokens is None else {"trainable_token_indices": tokens.stored_indices()}),
        **({"modules_to_save": [SCORE]} if scores else {}),
    }


def _number(value: float) -> float | int:
    return round(value) if math.isclose(value, round(value)) else value


def _target_modules(model: nn.Module, names: set[str]) -> list[str]:
    """Leaf names where they select exactly the adapted layers, as PEFT and servers prefer; else full names."""
    leaves = {name.rpartition(".")[2] for name in names}
    selected = {
        name.removesuffix(".base")
        for name, module in model.named_modules()
        if isinstance(module, LinearLayer) and name.removesuffix(".base").rpartition(".")[2] in leaves
    }
    return sorted(leaves if selected == names else names)


def adapter_kind(folder: Path) -> str:
    """PEFT's name of the method, as ``LORA``.

    Raises:
        StorageError: the config is missing or damaged.
    """
    return str(read_json_object(folder / ADAPTER_CONFIG).get("peft_type"))


def read_adapter_notes(folder: Path) -> dict[str, Any]:
    """What hone wrote beside the adapter; empty for an adapter made elsewhere.

    Raises:
        StorageError: a file of the adapter is not what was written; each is named.
    """
    check_seal(folder)
    path = folder / NOTES_FILE
    return {key: value for key, value in read_json_object(path).items() if key != _SEALED} if path.exists() else {}


def check_seal(folder: Path) -> None:
    """Compare a result of our own with its sums; one made elsewhere has none. Files that were added do not matter.

    Raises:
        StorageError: a file is missing or differs; each is named.
    """
    sealed = (folder / MANIFEST_NAME).exists()
    if not sealed and not ((folder / NOTES_FILE).exists() and read_json_object(folder / NOTES_FILE).get(_SEALED)):
        return
    if problems := problems_of_seal(folder, additions=False):
        raise StorageError(
            "the adapter is damaged: its files are not those that were saved",
            where=str(folder),
            details=problems,
            why="a changed adapter gives other answers than the one that was trained",
            remedy="restore the folder from a copy, or train again",
        )


def load_adapter(model: PreTrainedModel, folder: Path) -> list[str]:
    """Wrap the layers that the adapter in ``folder`` names, and fill them.

    Args:
        model: the plain base.
        folder: a PEFT adapter of kind LORA, with or without rsLoRA and DoRA, without biases.

    Returns:
        Names of the wrapped layers.

    Raises:
        ModelError: it is another kind of adapter, or its tensors do not match the model's layers one by one.
        StorageError: a file is missing or damaged.
    """
    modules = model.named_modules()
    widths = {name: layer_widths(module) for name, module in modules if isinstance(module, LinearLayer)}
    check_seal(folder)
    files = read_lora_files(folder, widths)
    kind = LoraLinear if files.lengths is None else DoraLinear
    attach_adapter(model, rank=files.rank, alpha=files.alpha, layers=list(files.factors), kind=kind)
    with torch.no_grad():
        for name, layer in adapted_layers(model):
            layer.lora_A.copy_(files.factors[name][0])
            layer.lora_B.copy_(files.factors[name][1])
            if isinstance(layer, DoraLinear) and files.lengths is not None:
                layer.magnitude.copy_(files.lengths[name])
    if files.score is not None:
        _load_head(model, files.score, folder)
    if files.token_rows:
        _load_tokens(model, files.token_rows, files.token_indices, folder)
    return list(files.factors)


def _load_head(model: PreTrainedModel, score: Tensor, folder: Path) -> None:
    head = attach_score_head(model)
    if score.shape != head.weight.shape:
        raise ModelError(
            f"the head in {folder} gives {tuple(score.shape)} numbers, and a reward model {tuple(head.weight.shape)}",
            remedy="use an adapter with one label",
        )
    with torch.no_grad():
        head.weight.copy_(score)


def _load_tokens(model: PreTrainedModel, rows: Mapping[str, Tensor], indices: Any, folder: Path) -> None:
    lists = list(indices.values()) if isinstance(indices, dict) else [indices or []]
    ids = lists[0]
    if any(one != ids for one in lists) or ids != list(range(ids[0], ids[0] + len(ids))):
        raise ModelError(
            f"the adapter in {folder} trains tokens that do not follow each other, which hone does not load",
            remedy="merge it into its base with PEFT and use the merged folder as the model",
        )
    embeddings: Any = model.get_input_embeddings()
    known = len(embeddings.weight)
    # tokens that hone added do not exist for the base; others start, and are switched off, as the base has them
    added = bool(read_adapter_notes(folder).get("added_tokens"))
    pieces = [[token if token < known else 0] for token in ids]
    attach_tokens(model, pieces, first_id=ids[0], hidden_from_base=added).load(rows)
