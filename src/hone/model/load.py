"""Load a base: any accepted name to a frozen model in evaluation mode, its tokenizer, and a hash of what was loaded."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import transformers
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from hone.errors import ModelError
from hone.model.catalog import EMBEDDED_INSTALL, ModelSource, embedded_sha256, resolve_model
from hone.model.device import check_device, check_dtype, pick_device, pick_dtype
from hone.model.gguf import converted_folder
from hone.model.hashing import cached_sha256, hash_of_files
from hone.model.hub import hub_folder
from hone.model.machine import available_memory_bytes
from hone.model.model_folder import ModelFolder, check_architecture, inspect_model_folder, read_config
from hone.model.quiet import quiet_transformers
from hone.model.sealed_folder import read_seal

__all__ = ["LoadedModel", "load_base", "outline_of_config", "pick_device", "pick_dtype"]

_CONTEXT_KEYS = ("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len", "seq_length")
_CONTEXT_WHERE_UNKNOWN = 2048
# What transformers raises for models that it cannot make sense of; there is no class of its own to catch.
_LOAD_ERRORS = (
    OSError, ValueError, RuntimeError, KeyError, IndexError, TypeError, AttributeError, ImportError, ArithmeticError,
    SafetensorError, StrictDataclassError,
)  # fmt: skip


@dataclass(frozen=True)
class LoadedModel:
    """A base, ready to be read: in evaluation mode, no parameter requires a gradient.

    Args:
        model: on ``device``, in ``dtype``; its attention is sdpa, or eager where the architecture lacks that.
        tokenizer: with its chat template, or without one where the model has none; no token is added to it.
        name: the name as the user gave it, embedded default in its own spelling.
        source: what the name meant.
        folder: where config, weights and tokenizer lie.
        base_hash: identity of config and weights; of a converted GGUF, the identity of its conversion.
        tokenizer_hash: SHA-256 over the tokenizer's files, chat template included.
        dtype: of the weights and of the computation.
        device: such as ``cpu`` or ``cuda``.
        context_length: tokens that the model can read and write together.
        generation_stop_ids: tokens that end an answer, from the generation config.
        notes: what the user was told while loading, one sentence each.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    name: str
    source: ModelSource
    folder: Path
    base_hash: str
    tokenizer_hash: str
    dtype: torch.dtype
    device: str
    context_length: int
    generation_stop_ids: tuple[int, ...]
    notes: list[str] = field(default_factory=list)

    @property
    def on_card(self) -> bool:
        """Whether it lies in the memory of a graphics card, and not in main memory."""
        return torch.device(self.device).type == "cuda"


def _say(text: str) -> None:
    sys.stderr.write(text + "\n")


def load_base(
    name: str,
    *,
    home: Path,
    device: str | None = None,
    dtype: str | torch.dtype | None = None,
    note: Callable[[str], None] = _say,
    weights: bool = True,
) -> LoadedModel:
    """Load a base by any of its names.

    Args:
        name: see :func:`hone.model.catalog.resolve_model`.
        home: hone's home folder, for converted models and remembered hashes.
        device: such as ``cpu``, ``cuda:1``; None for the machine's best.
        dtype: ``float32`` or ``bfloat16``; None for what the device computes fast.
        note: receives what the user should know, one sentence each; standard error by default.
        weights: whether to read them. Without, the model is an outline on torch's meta device and ``base_hash`` is
            empty: enough to render rows, whatever the size of the model.

    Raises:
        ModelError: not found, offline, gated, damaged, incomplete, pickled, of an unsupported kind, or too big for the
            memory that is free. Every missing or misshapen weight is listed.
        ConfigError: no such device or dtype.
        StorageError: no space for, or no right to write, a converted or fetched model.
        MissingDependencyError: a package needed to read GGUF is not installed.
    """
    device = check_device(device)
    torch_dtype = check_dtype(dtype, device)
    source = resolve_model(name, home=home)
    notes: list[str] = []

    def tell(text: str) -> None:
        notes.append(text)
        note(text)

    folder = _folder_of(source, home, tell)
    facts = inspect_model_folder(folder, name=source.name)
    if weights:
        _require_memory(facts, torch_dtype, device, source.name)
        model = _move(_load_model(facts, torch_dtype, source.name, tell), device, source.name)
    else:
        model = _outline(facts.path, source.name)
    tokenizer = _load_tokenizer(facts, model, source.name, tell)
    return LoadedModel(
        model=model,
        tokenizer=tokenizer,
        name=source.name,
        source=source,
        folder=folder,
        base_hash=_base_hash(source, facts, home) if weights else "",
        tokenizer_hash=hash_of_files(facts.tokenizer_files, home=home),
        dtype=torch_dtype,
        device=device,
        context_length=_context_length(model, tokenizer, tell),
        generation_stop_ids=_stop_ids(model, tokenizer),
        notes=notes,
    )


def _folder_of(source: ModelSource, home: Path, tell: Callable[[str], None]) -> Path:
    if source.path is None:
        return hub_folder(source.name)
    if source.kind == "folder":
        return source.path
    if source.kind == "embedded":
        recorded = embedded_sha256()
        if recorded is not None and cached_sha256(source.path, home=home) != recorded:
            raise ModelError(
                "the embedded base's file is damaged: its content is not what its package recorded",
                where=str(source.path),
                remedy=EMBEDDED_INSTALL.replace("install", "install --force-reinstall", 1),
            )
    return converted_folder(source.path, home=home, note=tell)


def _base_hash(source: ModelSource, facts: ModelFolder, home: Path) -> str:
    if source.kind in ("gguf", "embedded"):
        return str(read_seal(facts.path)["base_hash"])
    return hash_of_files((facts.path / "config.json", *facts.weight_files), home=home)


def _require_memory(facts: ModelFolder, dtype: torch.dtype, device: str, name: str) -> None:
    """Refuse what cannot fit, before the system kills the process for trying."""
    needed = facts.num_weights * dtype.itemsize
    if torch.device(device).type == "cuda":
        available: int | None = torch.cuda.mem_get_info(device)[0]
    else:
        available = available_memory_bytes()
    if available is not None and needed > available:
        cheaper = "dtype bfloat16 (half of it), " if dtype is torch.float32 else ""
        raise ModelError(
            f"needs {needed / 1e9:.1f} GB for its weights in {str(dtype).removeprefix('torch.')}, and {device} has "
            f"{available / 1e9:.1f} GB free",
            where=name,
            remedy=f"use {cheaper}a smaller model, or a machine with more memory",
        )


def _load_model(facts: ModelFolder, dtype: torch.dtype, name: str, tell: Callable[[str], None]) -> PreTrainedModel:
    try:
        with quiet_transformers():
            try:
                loaded: Any = _from_pretrained(facts.path, "sdpa", dtype)
            except ValueError as error:
                if "scaled_dot_product_attention" not in str(error):
                    raise
                loaded = _from_pretrained(facts.path, "eager", dtype)
    except (MemoryError, torch.OutOfMemoryError) as error:
        raise ModelError("does not fit into memory", where=name, remedy="use a smaller model") from error
    except _LOAD_ERRORS as error:
        raise _cannot_load(name, error) from error
    model: PreTrainedModel = loaded[0]
    _check_complete(model, loaded[1], name, tell)
    loaded[0].eval()
    model.requires_grad_(False)
    return model


def _from_pretrained(folder: Path, attention: str, dtype: torch.dtype) -> Any:
    """The model, and what transformers says about its loading."""
    config: Any = AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    # A config.json can name code on the hub as its attention or experts; transformers would fetch and run it, and such
    # a name goes before the argument of from_pretrained. Hence it is overwritten here.
    config._attn_implementation = attention
    config._experts_implementation = None
    return AutoModelForCausalLM.from_pretrained(
        folder,
        config=config,
        dtype=dtype,
        use_safetensors=True,
        trust_remote_code=False,
        local_files_only=True,
        output_loading_info=True,
        ignore_mismatched_sizes=True,  # they are reported, all of them, instead of as a traceback
    )


def outline_of_config(folder: Path, name: str, note: Callable[[str], None]) -> tuple[PreTrainedModel, int]:
    """A model with shapes and no weights, from ``config.json`` alone; and the tokens that it can see.

    Args:
        folder: has ``config.json``.
        name: of the model, for messages.
        note: receives sentences for the user.

    Raises:
        ModelError: the config is damaged, or of an architecture that is not supported.
    """
    check_architecture(read_config(folder), where=name)
    model = _outline(folder, name)
    return model, _context_length(model, None, note)


def _outline(folder: Path, name: str) -> PreTrainedModel:
    """The model with shapes and no weights."""
    try:
        with quiet_transformers():
            config = AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
            with torch.device("meta"):
                model: PreTrainedModel = AutoModelForCausalLM.from_config(config)
            if (folder / "generation_config.json").is_file():
                model.generation_config = GenerationConfig.from_pretrained(folder, local_files_only=True)
    except _LOAD_ERRORS as error:
        raise _cannot_load(name, error) from error
    return model


def _check_complete(model: PreTrainedModel, info: dict[str, Any], name: str, tell: Callable[[str], None]) -> None:
    """Refuse a checkpoint with gaps.

    transformers fills what a checkpoint lacks with random numbers and a warning.
    """
    details = [f"{key} is missing" for key in sorted(info["missing_keys"])]
    for key, in_file, in_model in sorted(info["mismatched_keys"]):
        details.append(f"{key} has the shape {list(in_file)} in the file and {list(in_model)} in the model")
    details += [str(message) for message in info["error_msgs"]]
    if details:
        raise ModelError(
            f"{len(details)} weights of {type(model).__name__} are missing or have a wrong shape",
            where=name,
            details=details,
            why="they would be random numbers",
            remedy="fetch the model again, or check that config.json belongs to these weights",
        )
    unexpected = sorted(info["unexpected_keys"])
    if unexpected:
        tell(
            f"{len(unexpected)} tensors of {name} have no place in {type(model).__name__} and were left out: "
            + ", ".join(unexpected[:3])
            + (", ..." if len(unexpected) > 3 else "")
        )


def _load_tokenizer(
    facts: ModelFolder, model: PreTrainedModel, name: str, tell: Callable[[str], None]
) -> PreTrainedTokenizerBase:
    try:
        with quiet_transformers():
            tokenizer = AutoTokenizer.from_pretrained(facts.path, trust_remote_code=False, local_files_only=True)
    except _LOAD_ERRORS as error:
        raise _cannot_load(f"{name} (tokenizer)", error) from error
    embeddings: Any = model.get_input_embeddings()
    rows = int(embeddings.weight.shape[0])
    if len(tokenizer) > rows:
        tell(
            f"The tokenizer of {name} has {len(tokenizer)} tokens and the model knows {rows}: "
            f"text that needs tokens from {rows} on cannot be used."
        )
    loaded: PreTrainedTokenizerBase = tokenizer
    return loaded


def _move(model: PreTrainedModel, device: str, name: str) -> PreTrainedModel:
    # not `device_map`, which needs a further package and brings hooks
    whole: Any = model  # transformers declares `to` without its arguments
    try:
        moved: PreTrainedModel = whole.to(torch.device(device))
        return moved
    except torch.OutOfMemoryError as error:
        raise ModelError(
            f"does not fit into the memory of {device}", where=name, remedy="use a smaller model, or device cpu"
        ) from error


def _context_length(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase | None, tell: Callable[[str], None]
) -> int:
    config = model.config.get_text_config(decoder=True)
    for key in _CONTEXT_KEYS:
        value = getattr(config, key, None)
        if isinstance(value, int) and value > 0:
            return value
    if tokenizer is not None and 0 < tokenizer.model_max_length < 10**9:
        return int(tokenizer.model_max_length)
    tell(f"The model does not say how long a text it can read; {_CONTEXT_WHERE_UNKNOWN} tokens are assumed.")
    return _CONTEXT_WHERE_UNKNOWN


def _stop_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    generation = getattr(model, "generation_config", None)
    for ids in (
        getattr(generation, "eos_token_id", None),
        getattr(model.config.get_text_config(decoder=True), "eos_token_id", None),
        tokenizer.eos_token_id,
    ):
        if isinstance(ids, int):
            return (ids,)
        if ids:
            return tuple(dict.fromkeys(int(item) for item in ids))
    return ()


def _cannot_load(name: str, error: Exception) -> ModelError:
    said = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return ModelError(
        f"transformers {transformers.__version__} cannot load it: {said}",
        where=name,
        remedy="check that the folder is complete and that config.json belongs to it",
    )
