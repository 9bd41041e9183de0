"""Adapters on disk, in PEFT's format: ``adapter_config.json`` and ``adapter_model.safetensors``.

Whatever loads a PEFT adapter loads ours. Reading is strict: an adapter whose tensors do not match the model one by one
is refused with the name of each, because an adapter that matches nothing loads as the base model without a word.
An adapter of our own has a manifest of SHA-256 sums beside it, and is refused where a single bit has changed.
Format: huggingface/peft, docs/source/developer_guides/checkpoint.md.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.pytorch_utils import Conv1D

from hone.errors import ModelError, StorageError
from hone.files import atomic_folder, write_atomically, write_json
from hone.model.added_tokens import added_tokens_of, attach_tokens
from hone.model.dora import DoraLinear
from hone.model.lora import LinearLayer, LoraLinear, adapted_layers, attach_adapter, layer_widths
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

_PREFIX = "base_model.model."
_CONFIG = "adapter_config.json"
_WEIGHTS = "adapter_model.safetensors"
NOTES_FILE = "hone.json"
_RESTORE = "restore the adapter's folder from a copy, or train again"
_SEALED = "sealed"  # in the notes: a manifest of sums belongs to this adapter, and its absence is damage
# Variants of PEFT's LORA that plain A and B do not reproduce: they scale otherwise, or act on a part of the tokens.
_VARIANTS = (
    "use_qalora", "use_bdlora", "rank_pattern", "alpha_pattern", "alora_invocation_tokens",
    "layer_replication", "lora_bias", "kasa_config", "monteclora_config", "arrow_config",
)  # fmt: skip
# Starts that leave the base's weights alone. PiSSA, OLoRA, LoftQ and others change them before training.
_PLAIN_STARTS = (None, True, False, "gaussian", "eva", "orthogonal")


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
        f"{_PREFIX}{name}.{leaf}": tensor.float().cpu().contiguous()
        for name, layer in layers.items()
        for leaf, tensor in layer.stored().items()
    }
    tokens = added_tokens_of(model)
    if tokens is not None:
        tensors |= {f"{_PREFIX}{name}": rows.float().cpu().contiguous() for name, rows in tokens.stored().items()}
    head = score_head_of(model)
    if head is not None:
        tensors[f"{_PREFIX}{SCORE}.weight"] = head.weight.detach().float().cpu().contiguous()
    broken = [name for name, tensor in tensors.items() if not torch.isfinite(tensor).all()]
    if broken or not tensors:
        raise ModelError(
            f"{len(broken)} of {len(tensors)} adapter tensors are not finite",
            details=broken,
            remedy="train again with a lower --learning-rate or --dtype float32",
        )
    config = _peft_config(model, layers, base_name, rank=next(iter(tensors.values())).shape[0])
    with atomic_folder(folder) as temporary:
        write_atomically(temporary / _WEIGHTS, save(tensors, metadata={"format": "pt"}))
        write_json(temporary / _CONFIG, config)
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
    return str(_read_json(folder / _CONFIG).get("peft_type"))


def read_adapter_notes(folder: Path) -> dict[str, Any]:
    """What hone wrote beside the adapter; empty for an adapter made elsewhere.

    Raises:
        StorageError: a file of the adapter is not what was written; each is named.
    """
    check_seal(folder)
    path = folder / NOTES_FILE
    return {key: value for key, value in _read_json(path).items() if key != _SEALED} if path.exists() else {}


def check_seal(folder: Path) -> None:
    """Compare a result of our own with its sums; one made elsewhere has none. Files that were added do not matter.

    Raises:
        StorageError: a file is missing or differs; each is named.
    """
    sealed = (folder / MANIFEST_NAME).exists()
    if not sealed and not ((folder / NOTES_FILE).exists() and _read_json(folder / NOTES_FILE).get(_SEALED)):
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
    check_seal(folder)
    config = _read_json(folder / _CONFIG)
    if config.get("peft_type") is None:
        raise StorageError(
            "is damaged or incomplete: it does not say what kind of adapter it describes (peft_type)",
            where=str(folder / _CONFIG),
            remedy=_RESTORE,
        )
    unsupported = [key for key in _VARIANTS if config.get(key)]
    unsupported += ["init_lora_weights"] if config.get("init_lora_weights") not in _PLAIN_STARTS else []
    unsupported += ["bias"] if config.get("bias", "none") != "none" else []
    if config.get("peft_type") != "LORA" or unsupported:
        settings = ", ".join(f"{key} = {config[key]}" for key in unsupported) or "settings of its own"
        raise ModelError(
            f"{folder} is a {config.get('peft_type')} adapter with {settings}, which hone does not load",
            remedy="merge it into its base with PEFT and use the merged folder as the model",
        )
    if missing := [key for key in ("r", "lora_alpha") if not isinstance(config.get(key), int | float)]:
        what = f"is damaged or incomplete: it gives no {' and no '.join(missing)}"
        raise StorageError(what, where=str(folder / _CONFIG), remedy=_RESTORE)
    every = _read_tensors(folder / _WEIGHTS)
    score = every.pop(f"{_PREFIX}{SCORE}.weight", None)
    tensors = {name: tensor for name, tensor in every.items() if ".token_adapter." not in name}
    layers = sorted({name.removeprefix(_PREFIX).rpartition(".lora_")[0] for name in tensors})
    dora, rank, alpha = bool(config.get("use_dora")), config["r"], config["lora_alpha"]
    _check_names_and_shapes(model, tensors, layers, rank=rank, dora=dora, folder=folder)
    if config.get("use_rslora"):
        alpha *= math.sqrt(rank)  # Kalajdzievski 2023, arXiv:2312.03732: alpha / sqrt(R) in place of alpha / R
    attach_adapter(model, rank=rank, alpha=alpha, layers=layers, kind=DoraLinear if dora else LoraLinear)
    with torch.no_grad():
        for name, layer in adapted_layers(model):
            layer.lora_A.copy_(tensors[f"{_PREFIX}{name}.lora_A.weight"])
            layer.lora_B.copy_(tensors[f"{_PREFIX}{name}.lora_B.weight"])
            if isinstance(layer, DoraLinear):
                layer.magnitude.copy_(tensors[f"{_PREFIX}{name}.lora_magnitude_vector"])
    if score is not None:
        _load_head(model, score, folder)
    if len(every) > len(tensors):
        rows = {name.removeprefix(_PREFIX): tensor for name, tensor in every.items() if name not in tensors}
        _load_tokens(model, rows, config.get("trainable_token_indices"), folder)
    return layers


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


def _check_names_and_shapes(
    model: nn.Module, tensors: Mapping[str, Tensor], layers: list[str], *, rank: int, dora: bool, folder: Path
) -> None:
    modules = dict(model.named_modules())
    expected: dict[str, tuple[int, ...]] = {}
    for name in layers:
        module = modules.get(name)
        if isinstance(module, LinearLayer):
            in_features, out_features = layer_widths(module)
            expected[f"{_PREFIX}{name}.lora_A.weight"] = (rank, in_features)
            expected[f"{_PREFIX}{name}.lora_B.weight"] = (out_features, rank)
            if dora:
                expected[f"{_PREFIX}{name}.lora_magnitude_vector"] = (out_features,)
    problems = [f"{name}: the model has no such linear layer" for name in tensors if name not in expected]
    problems += [f"{name}: missing in the adapter" for name in expected if name not in tensors]
    problems += [
        f"{name}: {tuple(tensors[name].shape)} in the adapter, {shape} in the model"
        for name, shape in expected.items()
        if name in tensors and tuple(tensors[name].shape) != shape
    ]
    problems += [f"{name}: not finite" for name, tensor in tensors.items() if not torch.isfinite(tensor).all()]
    if problems or not layers:
        raise ModelError(
            f"the adapter in {folder} does not fit this model: {len(problems)} tensors do not match",
            details=problems,
            why="layers without their tensors would answer as the base model does",
            remedy="use the base that the adapter was trained on (base_model_name_or_path in adapter_config.json)",
        )


def _read_tensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise _unreadable(path, error) from error


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise _unreadable(path, error) from error
    if not isinstance(value, dict):
        raise StorageError("is damaged: it holds no JSON object", where=str(path), remedy=_RESTORE)
    return value


def _unreadable(path: Path, error: Exception) -> StorageError:
    """One sentence, the path once; the library's own words only where they say more."""
    if isinstance(error, FileNotFoundError):
        what = "is missing"
    elif isinstance(error, OSError):
        what = f"cannot be read: {error.strerror or type(error).__name__}"
    else:
        what = f"is damaged or cut short ({str(error).splitlines()[0]})"
    return StorageError(what, where=str(path), remedy=_RESTORE)
