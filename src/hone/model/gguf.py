"""GGUF files as a base: converted once to safetensors, kept under the home folder, verified before each use.

**Stored dtype.** Quantised weights are stored in bfloat16. Measured on the embedded base (SmolLM2-135M-Instruct, Q4_1):
rounding its dequantised weights to bfloat16 moves them by 0.14% (root mean square), where Q4_1 itself had moved them by
about 8%; the norms come out exact; over 2,000 tokens of English the next-token distribution moves by 6e-5 nats of KL,
20 times less than computing in bfloat16 does (1.4e-3). In return every machine holds the same base: one that computes
in bfloat16 would round to it anyway, and an adapter trained there would meet other weights on a float32 machine. Half
the disk (269 MB, not 538) and half the time to verify come on top. A file whose matrices are F16 or F32 keeps float32,
since there the rounding would be the only loss.

**Text splitting.** A GGUF names its pre-tokenizer (``tokenizer.ggml.pre``); transformers builds the named one for some
and GPT-2's for all others. For vocabularies that split digits off first that is wrong before a digit: SmolLM2 then
reads the two line ends before a list's number as two tokens, not one: lists and tables cost 0.1 to 0.7 bits a byte
more, and a model would be tuned on token sequences that it never writes. The family is mended here; for an unknown name
a note says so.
"""

from __future__ import annotations

import hashlib
import importlib.util
import io
import os
import re
from collections.abc import Callable
from contextlib import redirect_stderr
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors import SafetensorError
from tokenizers import pre_tokenizers
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerFast

from hone.errors import MissingDependencyError, ModelError, StorageError
from hone.files import atomic_folder, exclusive_lock, remove_abandoned, require_free_space, sha256_file
from hone.model.gguf_header import GgufHeader, read_gguf_header
from hone.model.gguf_load import load_gguf_weights
from hone.model.gguf_rope import restore_rope_scaling
from hone.model.hashing import cached_sha256
from hone.model.machine import available_memory_bytes
from hone.model.quiet import quiet_transformers
from hone.model.sealed_folder import problems_of_seal, read_seal, seal_folder

__all__ = ["CONVERTER_VERSION", "conversion_identity", "converted_folder"]

# Part of the folder's name and of the base hash: raise it when the same file would convert to other weights or tokens.
CONVERTER_VERSION = 1

# llama.cpp splits digits one by one before GPT-2's rule for these (llama-vocab.cpp, the SMOLLM case and its siblings).
_DIGITS_FIRST = frozenset({"smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b"})
# The names under which llama.cpp applies GPT-2's own rule.
_GPT2_RULE = frozenset({"gpt-2", "phi-2", "mpt", "olmo", "jais", "trillion", "granite-docling", "gigachat"})
_FLOAT_TYPES = frozenset({"F16", "F32", "F64"})
_NOT_DECODERS = frozenset(
    {
        "bert",
        "nomic-bert",
        "nomic-bert-moe",
        "jina-bert-v2",
        "modern-bert",
        "neo-bert",
        "eurobert",
        "t5",
        "t5encoder",
        "clip",
        "wavtokenizer-dec",
    }
)
_STOP_KEYS = ("tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id")
# Memory while converting, as a multiple of the weights in float32: they, and their rounded copy while it is written.
# Measured on the embedded base: 0.8 GB above what the libraries take, for 0.54 GB of weights.
_CONVERSION_COPIES = 1.5
_LOCK_WAIT_SECONDS = 3600.0
_SPECIAL_KEYS = {
    "bos_token": "tokenizer.ggml.bos_token_id",
    "eos_token": "tokenizer.ggml.eos_token_id",
    "pad_token": "tokenizer.ggml.padding_token_id",
}
_TOKENIZER_BYTES = 64_000_000  # allowance for tokenizer and config beside the weights
# What transformers' readers raise for files that they do not understand; there is no class of theirs to catch.
_READER_ERRORS = (
    ValueError,
    KeyError,
    IndexError,
    TypeError,
    AttributeError,
    RuntimeError,
    NotImplementedError,
    OSError,
)


@dataclass(frozen=True, slots=True)
class _Converted:
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerFast
    notes: tuple[str, ...]


def converted_folder(gguf_path: Path, *, home: Path, note: Callable[[str], None]) -> Path:
    """The folder with a GGUF's weights as safetensors, its tokenizer and its chat template; made at the first call.

    The folder is ``<home>/models/<stem>-<16 digits of the identity>``. Its manifest names the sha256 of every file, and
    all of them are compared before the folder is handed out: about a second a gigabyte. A damaged folder is
    removed, the user is told, and the conversion is done again. Two processes may ask at once: one converts, the other
    waits and uses its result.

    Args:
        gguf_path: the file.
        home: hone's home folder.
        note: receives what the user should know, one sentence each.

    Raises:
        ModelError: the file is not found, damaged, of an architecture that is not a decoder-only language model, or of
            one that transformers cannot convert completely.
        StorageError: not enough disk space (with the figures), or the home folder cannot be written.
        MissingDependencyError: a package that transformers needs to read GGUF is not installed.
    """
    path = gguf_path.expanduser().absolute()
    header = read_gguf_header(path)
    file_hash = cached_sha256(path, home=home)
    stem = re.sub(r"[^A-Za-z0-9._-]+", "_", path.stem).strip("._")[:60] or "model"
    folder = home / "models" / f"{stem}-{conversion_identity(file_hash)[:16]}"
    if not folder.is_dir() or problems_of_seal(folder):
        # one lock for all conversions: what a killed one left behind can be told from what another is writing
        with exclusive_lock(
            home / "models" / ".conversion.lock", what=f"the conversion of {path.name}", wait_seconds=_LOCK_WAIT_SECONDS
        ):
            _convert_under_lock(path, header, file_hash, folder, note)
    for text in read_seal(folder)["notes"]:
        note(text)
    return folder


def conversion_identity(file_hash: str) -> str:
    """The hash that stands for a converted base: the sha256 of the GGUF's bytes and of the converter's version.

    It does not depend on which release of transformers wrote the files: ``config.json`` differs between releases while
    the model is the same, and an adapter must find its base again on another machine.
    """
    return hashlib.sha256(f"gguf {file_hash} converter {CONVERTER_VERSION}".encode()).hexdigest()


def _convert_under_lock(
    path: Path, header: GgufHeader, file_hash: str, folder: Path, note: Callable[[str], None]
) -> None:
    remove_abandoned(folder.parent)
    if folder.is_dir():
        problems = problems_of_seal(folder)
        if not problems:
            return  # another process converted it while this one waited
        note(f"The converted copy of {path.name} is damaged ({problems[0]}); converting it again.")
    _refuse_unusable(path, header)
    dtype = _stored_dtype(header)
    needed_bytes = header.num_values * dtype.itemsize + _TOKENIZER_BYTES
    require_free_space(folder.parent, needed_bytes, f"the converted copy of {path.name}")
    note(f"Converting {path.name} to safetensors; this is done once and takes a minute or less for a small model.")
    converted = _read_gguf(path, header)
    if sha256_file(path) != file_hash:
        raise ModelError("changed while it was being read", where=str(path), remedy="start again when it is complete")
    with atomic_folder(folder) as temporary:
        _save(converted, temporary, dtype)
        seal_folder(
            temporary,
            facts={
                "base_hash": conversion_identity(file_hash),
                "gguf_name": path.name,
                "gguf_sha256": file_hash,
                "converter_version": CONVERTER_VERSION,
                "transformers_version": transformers.__version__,
                "dtype": str(dtype).removeprefix("torch."),
                "num_weights": header.num_values,
                "notes": list(converted.notes),
            },
        )


def _refuse_unusable(path: Path, header: GgufHeader) -> None:
    """Refuse what no conversion could make a base of, before anything is loaded."""
    where = str(path)
    kind = header.text("general.type")
    if kind not in ("", "model"):
        raise ModelError(
            f"holds a {kind}, not a model", where=where, remedy="name the GGUF file of the language model itself"
        )
    if (header.number("split.count") or 1) > 1:
        raise ModelError(
            f"is one of {header.number('split.count')} parts",
            where=where,
            remedy="join them first with llama.cpp: llama-gguf-split --merge FIRST_PART.gguf WHOLE.gguf",
        )
    if header.architecture in _NOT_DECODERS:
        raise ModelError(
            f"its architecture is {header.architecture}: not a decoder-only language model",
            where=where,
            why="hone tunes models that write text from left to right",
        )
    needed_bytes = round(header.num_values * 4 * _CONVERSION_COPIES)
    available_bytes = available_memory_bytes()
    if available_bytes is not None and needed_bytes > available_bytes:
        raise ModelError(
            f"needs about {needed_bytes / 1e9:.1f} GB of memory to be converted; {available_bytes / 1e9:.1f} GB free",
            where=where,
            remedy="convert it on a machine with more memory, or use the model's safetensors folder or hub id",
        )
    for package in ("accelerate", "gguf"):
        if importlib.util.find_spec(package) is None:
            raise MissingDependencyError(
                f"transformers needs the package {package} to read GGUF files", remedy=f"pip install {package}"
            )
    kernels_off = os.environ.get("USE_HUB_KERNELS", "YES").upper() in ("0", "NO", "OFF", "FALSE")
    if importlib.util.find_spec("kernels") is not None and not kernels_off:
        raise ModelError(
            "the package `kernels` is installed: while reading a GGUF, transformers would fetch compiled code with it",
            where=where,
            remedy="set USE_HUB_KERNELS=NO for the first run with this file; once converted, it is not needed",
        )


def _stored_dtype(header: GgufHeader) -> torch.dtype:
    matrices = {tensor.type_name for tensor in header.tensors if tensor.num_dimensions > 1}
    return torch.float32 if matrices <= _FLOAT_TYPES else torch.bfloat16


def _read_gguf(path: Path, header: GgufHeader) -> _Converted:
    """The model in float32 and its tokenizer, complete and mended."""
    try:
        with quiet_transformers(), redirect_stderr(io.StringIO()):  # a bar that asks nobody
            loaded = load_gguf_weights(path)
            tokenizer: Any = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name, trust_remote_code=False)
    except MemoryError as error:
        raise ModelError("does not fit into memory in float32, in which it is converted", where=str(path)) from error
    except _READER_ERRORS as error:
        said = (str(error).splitlines() or [type(error).__name__])[0]
        raise ModelError(
            f"transformers {transformers.__version__} cannot convert this GGUF of architecture "
            f"{header.architecture or 'unknown'}: {said}",
            where=str(path),
            remedy="use the model's original safetensors folder or hub id instead",
        ) from error
    model, facts = loaded
    _check_complete(path, header, model, facts)
    restore_rope_scaling(model.config, header, path)
    notes = _mend_tokenizer(tokenizer, header)
    _take_stop_ids(model, header)
    tokenizer.model_max_length = int(header.number(f"{header.architecture}.context_length") or 10**9)
    return _Converted(model, tokenizer, notes)


def _check_complete(path: Path, header: GgufHeader, model: PreTrainedModel, info: dict[str, Any]) -> None:
    """Every weight of the file is in the model and every weight of the model came from the file, all finite."""
    missing = sorted(info["missing_keys"]) + sorted(str(key) for key in info["mismatched_keys"])
    if missing:
        raise ModelError(f"{len(missing)} weights of the model are not in the file", where=str(path), details=missing)
    in_file = sum(tensor.num_values for tensor in header.tensors if not tensor.name.startswith("rope_f"))
    in_model = sum(parameter.numel() for parameter in model.parameters())
    if in_file != in_model:
        raise ModelError(
            f"the file holds {in_file} weights and the model made of it {in_model}: the conversion is not complete",
            where=str(path),
            why="a base with weights left out or made up would be tuned and judged as if it were the real one",
            remedy="use the model's original safetensors folder or hub id instead",
        )
    broken = [name for name, parameter in model.named_parameters() if not bool(torch.isfinite(parameter).all())]
    if broken:
        raise ModelError("weights are not finite numbers: the file is damaged", where=str(path), details=broken)


def _mend_tokenizer(tokenizer: PreTrainedTokenizerFast, header: GgufHeader) -> tuple[str, ...]:
    """Special tokens as the file names them, text split as its merges were learned; a note where that is unknown."""
    for special, key in _SPECIAL_KEYS.items():
        number = header.number(key)
        token = None if number is None else tokenizer.convert_ids_to_tokens(int(number))
        # transformers 5.17 takes the beginning of a text for its end, and leaves out the padding
        if token is not None and getattr(tokenizer, special) != token:
            setattr(tokenizer, special, token)
    name = header.text("tokenizer.ggml.pre")
    if header.text("tokenizer.ggml.model") != "gpt2":
        return ()
    backend = tokenizer.backend_tokenizer
    if name in _DIGITS_FIRST:
        backend.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Digits(individual_digits=True),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
            ]
        )
        return ()
    # transformers left GPT-2's rule in place: right only for the names that mean it
    left_at_default = isinstance(backend.pre_tokenizer, pre_tokenizers.ByteLevel)
    if left_at_default and name not in _GPT2_RULE:
        rule = f"splits text by a rule ({name!r}) that is not known here" if name else "does not say how it splits text"
        return (
            f"This GGUF {rule}; GPT-2's rule stands in, so that tokens can differ from the model's own. "
            "Its safetensors folder or hub id has the right one.",
        )
    return ()


def _take_stop_ids(model: PreTrainedModel, header: GgufHeader) -> None:
    """All tokens that end an answer: a GGUF may name the end of a turn apart from the end of a text."""
    ids = [number for key in _STOP_KEYS if (number := header.number(key)) is not None]
    unique = list(dict.fromkeys(ids))
    if unique and model.generation_config is not None:
        model.generation_config.eos_token_id = unique[0] if len(unique) == 1 else unique


def _save(converted: _Converted, folder: Path, dtype: torch.dtype) -> None:
    model = converted.model
    whole: Any = model  # transformers declares `to` without its arguments
    # What transformers remembers of the packed form would make it refuse to save, or be read back as a quantised model.
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    for name in ("hf_quantizer", "quantization_method", "is_quantized"):
        model.__dict__.pop(name, None)
    model.config.__dict__.pop("_model_name_or_path", None)  # the file's title, which is no path
    try:
        with quiet_transformers():
            whole.to(dtype=dtype).save_pretrained(folder)
            converted.tokenizer.save_pretrained(folder)
        for path in folder.iterdir():  # the weights come out readable by their owner alone
            path.chmod((folder / "config.json").stat().st_mode)
    except SafetensorError as error:  # its writer's own form of OSError: no space, no permission
        raise StorageError(
            f"cannot be written: {error}", where=str(folder), remedy="check that the disk has space"
        ) from error
