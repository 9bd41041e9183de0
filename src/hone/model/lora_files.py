"""Reading a PEFT adapter of kind LORA: its tensors, checked one by one against the layers of a base."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from hone.errors import ModelError, StorageError
from hone.model.score_head import SCORE

__all__ = [
    "ADAPTER_CONFIG",
    "ADAPTER_WEIGHTS",
    "TENSOR_PREFIX",
    "LoraFiles",
    "is_plain_lora",
    "read_json_object",
    "read_lora_files",
]

TENSOR_PREFIX = "base_model.model."
ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
_RESTORE = "restore the adapter's folder from a copy, or train again"
# Variants of PEFT's LORA that plain A and B do not reproduce: they scale otherwise, or act on a part of the tokens.
_VARIANTS = (
    "use_qalora", "use_bdlora", "rank_pattern", "alpha_pattern", "alora_invocation_tokens",
    "layer_replication", "lora_bias", "kasa_config", "monteclora_config", "arrow_config",
)  # fmt: skip
# Starts that leave the base's weights alone. PiSSA, OLoRA, LoftQ and others change them before training.
_PLAIN_STARTS = (None, True, False, "gaussian", "eva", "orthogonal")


@dataclass(frozen=True, slots=True)
class LoraFiles:
    """What a PEFT adapter of kind LORA holds.

    Args:
        rank: R of every layer.
        alpha: the update is scaled by alpha / R, that of rsLoRA too.
        factors: A [R, D_in] and B [D_out, R] by layer.
        lengths: DoRA's lengths [D_out] by layer; None where the adapter has none.
        token_rows: tensors of added tokens.
        token_indices: the ids that they belong to.
        score: the head of a reward model [1, D]; None where there is none.
    """

    rank: int
    alpha: float
    factors: Mapping[str, tuple[Tensor, Tensor]]
    lengths: Mapping[str, Tensor] | None
    token_rows: Mapping[str, Tensor]
    token_indices: Any
    score: Tensor | None = None

    @property
    def is_plain(self) -> bool:
        """Whether A and B are all there is."""
        return self.lengths is None and not self.token_rows and self.score is None


def read_lora_files(folder: Path, widths: Mapping[str, tuple[int, int]]) -> LoraFiles:
    """Read an adapter for a base. Whether its files are those that were saved is not asked here.

    Args:
        folder: a PEFT adapter of kind LORA, with or without rsLoRA and DoRA, without biases.
        widths: (D_in, D_out) of the base's linear layers by name.

    Raises:
        ModelError: it is another kind of adapter, or its tensors do not match the base's layers one by one.
        StorageError: a file is missing or damaged.
    """
    config = read_json_object(folder / ADAPTER_CONFIG)
    _check_kind(config, folder)
    every = _read_tensors(folder / ADAPTER_WEIGHTS)
    score = every.pop(f"{TENSOR_PREFIX}{SCORE}.weight", None)
    tensors = {name: tensor for name, tensor in every.items() if ".token_adapter." not in name}
    layers = sorted({name.removeprefix(TENSOR_PREFIX).rpartition(".lora_")[0] for name in tensors})
    dora, rank, alpha = bool(config.get("use_dora")), config["r"], config["lora_alpha"]
    _check_names_and_shapes(widths, tensors, layers, rank=rank, dora=dora, folder=folder)
    if config.get("use_rslora"):
        alpha *= math.sqrt(rank)  # Kalajdzievski 2023, arXiv:2312.03732: alpha / sqrt(R) in place of alpha / R

    def of(name: str, leaf: str) -> Tensor:
        return tensors[f"{TENSOR_PREFIX}{name}.{leaf}"]

    return LoraFiles(
        rank,
        alpha,
        {name: (of(name, "lora_A.weight"), of(name, "lora_B.weight")) for name in layers},
        {name: of(name, "lora_magnitude_vector") for name in layers} if dora else None,
        {name.removeprefix(TENSOR_PREFIX): tensor for name, tensor in every.items() if name not in tensors},
        config.get("trainable_token_indices"),
        score,
    )


def is_plain_lora(folder: Path) -> bool:
    """Whether an adapter is A and B on linear layers and nothing else: no DoRA, tokens, reward head or other method.

    Raises:
        StorageError: its config is damaged.
    """
    path = folder / ADAPTER_CONFIG
    if not path.exists():
        return False
    config = read_json_object(path)
    further = ("use_dora", "trainable_token_indices", "modules_to_save")
    return config.get("peft_type") == "LORA" and not any(config.get(key) for key in further)


def _check_kind(config: Mapping[str, Any], folder: Path) -> None:
    if config.get("peft_type") is None:
        raise StorageError(
            "is damaged or incomplete: it does not say what kind of adapter it describes (peft_type)",
            where=str(folder / ADAPTER_CONFIG),
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
        raise StorageError(what, where=str(folder / ADAPTER_CONFIG), remedy=_RESTORE)


def _check_names_and_shapes(
    widths: Mapping[str, tuple[int, int]], tensors: Mapping[str, Tensor], layers: list[str], *, rank: int, dora: bool,
    folder: Path,
) -> None:  # fmt: skip
    expected: dict[str, tuple[int, ...]] = {}
    for name in layers:
        if name in widths:
            in_features, out_features = widths[name]
            expected[f"{TENSOR_PREFIX}{name}.lora_A.weight"] = (rank, in_features)
            expected[f"{TENSOR_PREFIX}{name}.lora_B.weight"] = (out_features, rank)
            if dora:
                expected[f"{TENSOR_PREFIX}{name}.lora_magnitude_vector"] = (out_features,)
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


def read_json_object(path: Path) -> dict[str, Any]:
    """A file of an adapter that holds one JSON object.

    Raises:
        StorageError: it is missing, cannot be read, or holds something else.
    """
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
