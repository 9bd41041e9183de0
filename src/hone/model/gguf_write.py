"""A model as GGUF, the format of llama.cpp and Ollama: float16, 8 bits, or 4 bits a weight.

**Rotary halves.** Llama's heads in transformers turn entry i with entry i + D/2; llama.cpp's ``llama`` architecture
turns neighbours, 2i with 2i + 1. The rows of the query and key matrices are reordered to match, as its own converter
does. Its ``qwen2`` and ``qwen3`` architectures turn halves as transformers does, and are written as they are.

**Quantised kinds.** The blocks are made by the ``gguf`` package. Norms and biases stay float32; in the 4-bit kinds the
embedding and the output head have 8 bits, since an error there falls on every token. A matrix whose rows are no
multiple of 32 values stays float16.

Source: the GGUF specification, version 3; llama.cpp, ``convert_hf_to_gguf.py`` (``LlamaModel.permute``).
Shape legend: H heads (query or key), D_in width of the input.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import gguf
import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from hone.errors import ModelError, StorageError
from hone.model.gguf_rope import llama3_factors
from hone.model.gguf_vocabulary import GgufVocabulary

__all__ = ["GGUF_MODEL_TYPES", "GGUF_WEIGHTS", "GgufWeights", "refuse_unwritable", "write_gguf"]

GgufWeights = Literal["f16", "q8_0", "q4_1", "q4_0"]
"""How the matrices are stored: 16, 8.5, 5 and 4.5 bits a weight."""

GGUF_WEIGHTS: tuple[GgufWeights, ...] = ("f16", "q8_0", "q4_1", "q4_0")

GGUF_MODEL_TYPES: Mapping[str, gguf.MODEL_ARCH] = {
    "llama": gguf.MODEL_ARCH.LLAMA,
    "mistral": gguf.MODEL_ARCH.LLAMA,
    "qwen2": gguf.MODEL_ARCH.QWEN2,
    "qwen3": gguf.MODEL_ARCH.QWEN3,
}
"""transformers' model types that can be written, and the architecture that llama.cpp reads them as."""

_KINDS = {
    "f16": (gguf.GGMLQuantizationType.F16, gguf.LlamaFileType.MOSTLY_F16),
    "q8_0": (gguf.GGMLQuantizationType.Q8_0, gguf.LlamaFileType.MOSTLY_Q8_0),
    "q4_1": (gguf.GGMLQuantizationType.Q4_1, gguf.LlamaFileType.MOSTLY_Q4_1),
    "q4_0": (gguf.GGMLQuantizationType.Q4_0, gguf.LlamaFileType.MOSTLY_Q4_0),
}
_ENDS = ("token_embd.weight", "output.weight")
_BLOCK = 32  # values that share a scale, in all kinds here
_LARGEST_F16 = 65_504.0


@dataclass(frozen=True, slots=True)
class _Stored:
    """One tensor of the file: its name, how it is stored, and the model's own."""

    name: str
    kind: gguf.GGMLQuantizationType
    tensor: Tensor
    heads: int | None

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.tensor.shape)

    @property
    def num_bytes(self) -> int:
        rows = self.tensor.numel() // self.shape[-1]
        block, size = gguf.GGML_QUANT_SIZES[self.kind]
        return rows * self.shape[-1] // block * size

    def values(self) -> np.ndarray[Any, Any]:
        """As bytes in the file's order, or as floats where the kind is a float."""
        tensor = self.tensor.detach().float().cpu()
        if self.heads is not None:
            tensor = _neighbours(tensor, self.heads)
        values = tensor.numpy()
        if self.kind is gguf.GGMLQuantizationType.F32:
            return values
        if self.kind is gguf.GGMLQuantizationType.F16:
            return values.astype(np.float16)
        quantized: np.ndarray[Any, Any] = gguf.quantize(values, self.kind)
        return quantized


def refuse_unwritable(model: PreTrainedModel) -> None:
    """Refuse, before any work, a model that llama.cpp would compute otherwise.

    Raises:
        ModelError: its architecture, or a setting of its config, is not among those that can be written.
    """
    config = model.config
    if config.model_type not in GGUF_MODEL_TYPES:
        raise ModelError(
            f"models of type {config.model_type} cannot be written as GGUF here",
            why="llama.cpp computes each architecture in its own way, and these were checked: "
            + ", ".join(GGUF_MODEL_TYPES),
            remedy="export to merged, and convert that folder with llama.cpp's convert_hf_to_gguf.py",
        )
    rope = _rope(config)
    problems = []
    if rope.get("rope_type", "default") not in ("default", "llama3"):
        problems.append(f"rope_type is {rope['rope_type']}; default and llama3 can be written")
    elif rope.get("rope_type") == "llama3" and not _is_published_llama3(rope):
        problems.append("its llama3 scaling of positions is not the published one (1, 4, 8192)")
    window = getattr(config, "sliding_window", None)
    layers_slide = "sliding_attention" in (getattr(config, "layer_types", None) or ())
    slides = config.model_type == "mistral" or layers_slide
    if window is not None and slides and window < config.max_position_embeddings:
        problems.append(f"its attention slides over {window} tokens")
    if getattr(config, "hidden_act", "silu") != "silu":
        problems.append(f"hidden_act is {config.hidden_act}; silu can be written")
    if getattr(config, "mlp_bias", False):
        problems.append("its feed-forward layers have biases")
    if problems:
        raise ModelError(
            "cannot be written as GGUF: llama.cpp would compute another model",
            details=problems,
            remedy="export to merged instead",
        )


def write_gguf(
    model: PreTrainedModel, vocabulary: GgufVocabulary, path: Path, *, weights: GgufWeights, name: str
) -> list[str]:
    """Write a plain model as one GGUF file; a tensor at a time, so that memory holds the model once.

    Args:
        model: plain (merged), of a type in :data:`GGUF_MODEL_TYPES`.
        vocabulary: see :func:`hone.model.gguf_vocabulary.read_vocabulary`.
        path: the file, in a folder that takes its name when all is written.
        weights: how the matrices are stored.
        name: the model's title in the metadata.

    Returns:
        Names of matrices that stay float16 in a quantised file.

    Raises:
        ModelError: see :func:`refuse_unwritable`; or a weight is not finite, or too large for float16.
        StorageError: no space or no permission.
    """
    refuse_unwritable(model)
    architecture = GGUF_MODEL_TYPES[model.config.model_type]
    stored = list(_tensors(model, architecture, weights))
    _refuse_values(stored)
    writer = gguf.GGUFWriter(path, gguf.MODEL_ARCH_NAMES[architecture])
    _write_facts(writer, model.config, weights=weights, name=name)
    vocabulary.write(writer)
    try:
        for one in stored:
            floats = {gguf.GGMLQuantizationType.F32: np.float32, gguf.GGMLQuantizationType.F16: np.float16}
            is_float = one.kind in floats
            shape = one.shape if is_float else gguf.quant_shape_to_byte_shape(one.shape, one.kind)
            writer.add_tensor_info(
                one.name, shape, np.dtype(floats.get(one.kind, np.uint8)), one.num_bytes,
                raw_dtype=None if is_float else one.kind,
            )  # fmt: skip
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for one in stored:
            writer.write_tensor_data(one.values())
    except OSError as error:
        raise StorageError(
            f"cannot be written: {error.strerror or error}", where=str(path), remedy="check that the disk has space"
        ) from error
    finally:
        writer.close()
    float16 = gguf.GGMLQuantizationType.F16
    return [one.name for one in stored if weights != "f16" and one.kind is float16]


def _write_facts(writer: gguf.GGUFWriter, config: Any, *, weights: GgufWeights, name: str) -> None:
    rope = _rope(config)
    heads = config.num_attention_heads
    head_size = getattr(config, "head_dim", None) or config.hidden_size // heads
    writer.add_name(name)
    writer.add_vocab_size(config.vocab_size)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(heads)
    writer.add_head_count_kv(config.num_key_value_heads or heads)
    writer.add_key_length(head_size)
    writer.add_value_length(head_size)
    writer.add_rope_dimension_count(head_size)
    writer.add_rope_freq_base(float(rope["rope_theta"]))
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_file_type(_KINDS[weights][1])
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)


def _tensors(model: PreTrainedModel, architecture: gguf.MODEL_ARCH, weights: GgufWeights) -> Iterator[_Stored]:
    config: Any = model.config
    names = gguf.get_tensor_name_map(architecture, config.num_hidden_layers)
    rope = _rope(config)
    if rope.get("rope_type") == "llama3":
        head_size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        factors = llama3_factors(head_size, float(rope["rope_theta"]), float(rope["factor"]))
        yield _Stored("rope_freqs.weight", gguf.GGMLQuantizationType.F32, torch.tensor(factors), None)
    for name, parameter in model.named_parameters():  # a tied head is listed once, as the embedding
        known = names.get_name(name, try_suffixes=(".weight", ".bias"))
        if known is None:
            raise ModelError(
                f"{name} has no place in a GGUF of architecture {gguf.MODEL_ARCH_NAMES[architecture]}",
                why="a weight left out would make another model of it",
                remedy="export to merged instead",
            )
        heads = None
        if architecture is gguf.MODEL_ARCH.LLAMA and (".q_proj." in name or ".k_proj." in name):
            heads = config.num_attention_heads if ".q_proj." in name else config.num_key_value_heads
        yield _Stored(known, _kind(known, parameter, weights), parameter, heads)


def _kind(name: str, tensor: Tensor, weights: GgufWeights) -> gguf.GGMLQuantizationType:
    if tensor.dim() < 2:
        return gguf.GGMLQuantizationType.F32
    if tensor.shape[-1] % _BLOCK:
        return gguf.GGMLQuantizationType.F16
    if name in _ENDS and weights in ("q4_0", "q4_1"):
        return gguf.GGMLQuantizationType.Q8_0
    return _KINDS[weights][0]


def _neighbours(rows: Tensor, heads: int) -> Tensor:
    """Rows [H * D, D_in] (or a bias [H * D]) from halves that turn together to neighbours that do."""
    width = rows.shape[0] // heads // 2
    return rows.reshape(heads, 2, width, *rows.shape[1:]).transpose(1, 2).reshape(rows.shape).contiguous()


def _refuse_values(stored: list[_Stored]) -> None:
    largest = {one.name: float(one.tensor.detach().abs().max()) for one in stored}
    # a NaN is not <= anything
    wrong = [f"{name}: {value:g}" for name, value in largest.items() if not value <= _LARGEST_F16]
    if wrong:
        raise ModelError(
            "holds weights that are not finite, or too large for float16",
            details=wrong,
            remedy="train again with a lower --learning-rate, or export to merged with --weights float32",
        )


def _rope(config: Any) -> Mapping[str, Any]:
    found: Mapping[str, Any] = config.rope_parameters
    return found


def _is_published_llama3(rope: Mapping[str, Any]) -> bool:
    settings = (rope["low_freq_factor"], rope["high_freq_factor"], rope["original_max_position_embeddings"])
    return settings == (1.0, 4.0, 8192)
