"""Rotary scaling of a GGUF, which transformers' reader leaves out for most architectures.

Llama 3.1 and later scale their rotary frequencies; a GGUF carries the factors as a tensor, ``rope_freqs.weight``.
Without them the model is another one: slightly wrong at once, badly wrong beyond the original context.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from hone.errors import ModelError
from hone.model.gguf_header import GgufHeader, read_gguf_values

__all__ = ["llama3_factors", "restore_rope_scaling"]

# The scaling of all published Llama 3 models but for `factor`, which the tensor itself shows.
_LOW, _HIGH, _ORIGINAL_CONTEXT = 1.0, 4.0, 8192
_RELATIVE_TOLERANCE = 1e-4


def restore_rope_scaling(config: Any, header: GgufHeader, path: Path) -> None:
    """Put the file's rotary scaling into ``config`` where transformers did not.

    Args:
        config: the configuration that transformers made of the file; changed in place.
        header: the file's header.
        path: the file.

    Raises:
        ModelError: the file scales its rotary frequencies in a way that cannot be expressed for certain.
    """
    rope = getattr(config, "rope_parameters", None)
    if not isinstance(rope, dict) or rope.get("rope_type", "default") != "default":
        return
    scaling = header.text(f"{header.architecture}.rope.scaling.type")
    tensors = [tensor for tensor in header.tensors if tensor.name.startswith("rope_f")]
    if not tensors and scaling in ("", "none"):
        return
    if [tensor.name for tensor in tensors] == ["rope_freqs.weight"] and tensors[0].type_name == "F32":
        found = read_gguf_values(path, tensors[0])
        factor = max(found)
        head_size = 2 * len(found)
        expected = llama3_factors(head_size, float(rope["rope_theta"]), factor)
        if all(math.isclose(a, b, rel_tol=_RELATIVE_TOLERANCE) for a, b in zip(found, expected, strict=True)):
            config.rope_parameters = {
                **rope,
                "rope_type": "llama3",
                "factor": factor,
                "low_freq_factor": _LOW,
                "high_freq_factor": _HIGH,
                "original_max_position_embeddings": _ORIGINAL_CONTEXT,
            }
            return
    raise ModelError(
        f"scales its rotary positions ({scaling or 'by factors in a tensor'}) in a way that a conversion would lose",
        where=str(path),
        why="the model would be read without the scaling that it was trained with",
        remedy="use the model's original safetensors folder or hub id instead",
    )


def llama3_factors(head_size: int, theta: float, factor: float) -> list[float]:
    """By what each rotary frequency is divided in Llama 3's scaling, lowest dimension first.

    Source: Llama 3.1's reference code (``apply_scaling`` in ``models/llama3/reference_impl/model.py``) and llama.cpp's
    ``convert_hf_to_gguf.py``, which writes these as ``rope_freqs.weight``.
    """
    long_wave, short_wave = _ORIGINAL_CONTEXT / _LOW, _ORIGINAL_CONTEXT / _HIGH
    factors = []
    for index in range(0, head_size, 2):
        wave = 2 * math.pi * theta ** (index / head_size)
        if wave < short_wave:
            factors.append(1.0)
        elif wave > long_wave:
            factors.append(factor)
        else:
            smooth = (_ORIGINAL_CONTEXT / wave - _LOW) / (_HIGH - _LOW)
            factors.append(1 / ((1 - smooth) / factor + smooth))
    return factors
