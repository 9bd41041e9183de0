"""A model's folder as it lies on disk: whether hone can use it, said before anything is loaded."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import transformers
from safetensors import SafetensorError, safe_open
from transformers import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_MASKED_LM_MAPPING_NAMES,
    MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
)

from hone.errors import ModelError

__all__ = ["ModelFolder", "check_architecture", "inspect_model_folder", "read_config", "weight_file_names"]

_WEIGHTS = "model.safetensors"
_INDEX = "model.safetensors.index.json"
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")
_NOT_WEIGHTS = frozenset({"training_args.bin", "optimizer.pt", "scheduler.pt", "scaler.pt"})
_DECODER_SUFFIXES = ("ForCausalLM", "LMHeadModel")
_TOKENIZER_PATTERNS = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "chat_template.jinja",
    "vocab.json", "vocab.txt", "merges.txt", "tokenizer.model", "spiece.model", "sentencepiece.bpe.model", "*.tiktoken",
)  # fmt: skip
_TOKENIZER_SETTINGS = frozenset(
    {"tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "chat_template.jinja"}
)


@dataclass(frozen=True, slots=True)
class ModelFolder:
    """What a usable folder holds.

    Args:
        path: the folder.
        config: ``config.json``.
        weight_files: the safetensors files that make up the model, in order of their names.
        tokenizer_files: vocabulary, merges, settings and chat template.
        num_weights: values in all tensors of the weight files.
    """

    path: Path
    config: Mapping[str, Any]
    weight_files: tuple[Path, ...]
    tokenizer_files: tuple[Path, ...]
    num_weights: int


def read_config(folder: Path) -> Mapping[str, Any]:
    """A folder's ``config.json``.

    Raises:
        ModelError: it is missing or damaged.
    """
    return _read_object(folder / "config.json")


def inspect_model_folder(folder: Path, *, name: str) -> ModelFolder:
    """Read a folder's config, index and safetensors headers; no weight is read.

    Args:
        folder: the folder.
        name: the model's name for messages.

    Raises:
        ModelError: the config is missing or damaged, the architecture is not a decoder-only language model or needs
            code of its own, weights are missing, cut short, quantised or pickles alone, or there is no tokenizer.
    """
    config = read_config(folder)
    check_architecture(config, where=name)
    names = weight_file_names(folder)
    if not names:
        raise _no_weights(folder, name)
    problems, num_weights = [], 0
    for file in names:
        try:
            num_weights += _count_weights(folder / file)
        except FileNotFoundError:
            problems.append(f"{file} is missing")
        except (SafetensorError, OSError) as error:
            problems.append(f"{file} is damaged or cut short: {error}")
    if problems:
        raise ModelError(
            f"{len(problems)} of {len(names)} weight files cannot be used",
            where=str(folder),
            details=problems,
            remedy="fetch or copy these files again",
        )
    tokenizer_files = sorted({path for pattern in _TOKENIZER_PATTERNS for path in folder.glob(pattern)})
    if all(path.name in _TOKENIZER_SETTINGS for path in tokenizer_files):
        raise ModelError(
            "has no tokenizer (tokenizer.json, tokenizer.model or vocab.json)",
            where=str(folder),
            remedy="copy the tokenizer's files of the same model into the folder",
        )
    return ModelFolder(folder, config, tuple(folder / file for file in names), tuple(tokenizer_files), num_weights)


def weight_file_names(folder: Path) -> list[str]:
    """The names of a folder's safetensors files, as transformers would choose them; empty where there are none.

    Raises:
        ModelError: the index is damaged, or names a file outside the folder.
    """
    if (folder / _WEIGHTS).is_file() or not (folder / _INDEX).is_file():
        return [_WEIGHTS] if (folder / _WEIGHTS).is_file() else []
    shards = _read_object(folder / _INDEX).get("weight_map")
    files = sorted({str(file) for file in shards.values()}) if isinstance(shards, dict) else []
    odd = [file for file in files if Path(file).name != file or not file.endswith(".safetensors")]
    if not files or odd:
        raise ModelError(
            "is damaged: its weight_map " + (f"names {odd[0]!r}" if odd else "is missing or empty"),
            where=str(folder / _INDEX),
            remedy="fetch or copy the file again",
        )
    return files


def check_architecture(config: Mapping[str, Any], *, where: str) -> None:
    """Refuse what is not a decoder-only language model that the installed transformers knows by itself.

    Raises:
        ModelError: see above; the message says which architecture it is and what hone can use.
    """
    model_type = config.get("model_type")
    named = config.get("architectures")
    architectures = [str(item) for item in named] if isinstance(named, list) else []
    shown = architectures[0] if architectures else str(model_type)
    if not isinstance(model_type, str) or not model_type:
        raise ModelError("config.json names no model_type", where=where, remedy="fetch or copy config.json again")
    if config.get("quantization_config"):
        raise ModelError(
            "its weights are quantised (config.json has quantization_config)",
            where=where,
            why="a quantised base cannot be tuned, merged or exported exactly",
            remedy="name the model's unquantised original, or a GGUF file, which is converted",
        )
    if model_type not in CONFIG_MAPPING:
        if config.get("auto_map"):
            raise ModelError(
                f"its architecture ({shown}) runs on Python code that comes with the model, which is never run",
                where=where,
                why="code from a model's repository can do anything on this machine",
                remedy="look for a version of the model that transformers supports by itself",
            )
        raise ModelError(
            f"its model_type {model_type!r} is not known to transformers {transformers.__version__}",
            where=where,
            remedy="pip install --upgrade transformers",
        )
    if not _is_decoder(config, model_type, architectures):
        raise ModelError(
            f"{shown} (model_type {model_type}) is not a decoder-only language model",
            where=where,
            why="hone tunes models that write text from left to right, of one text input",
            remedy="name a causal language model; its config.json names an architecture that ends in ForCausalLM",
        )


def _is_decoder(config: Mapping[str, Any], model_type: str, architectures: list[str]) -> bool:
    if config.get("is_encoder_decoder") or model_type in MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES:
        return False
    if model_type in MODEL_FOR_MASKED_LM_MAPPING_NAMES:
        return False  # transformers would load an encoder as a decoder, and it would write noise
    known = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.get(model_type, "")
    if not known.endswith(_DECODER_SUFFIXES):
        return False
    return not architectures or any(name.endswith(_DECODER_SUFFIXES) for name in architectures)


def _count_weights(path: Path) -> int:
    """Values in one safetensors file; its header and its length are checked by the safetensors library."""
    if not path.is_file():
        raise FileNotFoundError(path)
    with safe_open(path, framework="pt") as tensors:
        return sum(math.prod(tensors.get_slice(key).get_shape()) for key in tensors.keys())  # noqa: SIM118


def _no_weights(folder: Path, name: str) -> ModelError:
    pickles = sorted({p.name for pattern in _PICKLES for p in folder.glob(pattern)} - _NOT_WEIGHTS)
    if not pickles:
        return ModelError(
            f"has no weights: neither {_WEIGHTS} nor {_INDEX}",
            where=str(folder),
            remedy="fetch or copy the weight files into the folder",
        )
    return ModelError(
        f"has weights as pickles only ({', '.join(pickles[:3])}), which are never loaded",
        where=str(folder),
        why="a pickle can run any code when it is loaded",
        remedy='convert it where you trust it: python -c "from transformers import AutoModelForCausalLM as M; '
        f"M.from_pretrained('{name}', use_safetensors=False).save_pretrained('converted')\"",
    )


def _read_object(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ModelError(
            f"cannot be read: {error.strerror or error}", where=str(path), remedy="check that it is there and readable"
        ) from error
    except (ValueError, RecursionError) as error:
        raise ModelError(
            f"is not JSON: {error}", where=str(path), remedy="fetch or copy the file again; it is damaged or cut short"
        ) from error
    if not isinstance(value, dict):
        raise ModelError(
            f"holds a {type(value).__name__}, not a JSON object", where=str(path), remedy="fetch or copy the file again"
        )
    return value
