"""A LoRA adapter as matrices for one base, read and checked, without being attached to anything."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from hone.errors import ModelError
from hone.model.adapter_files import check_seal
from hone.model.lora_files import read_lora_files

__all__ = ["AdapterWeights", "read_adapter_weights"]


@dataclass(frozen=True, slots=True)
class AdapterWeights:
    """The two factors of each adapted layer.

    Args:
        rank: R of every layer.
        layers: by name, A [R, D_in] and B [D_out, R], B times the scale, both in the base's dtype.
    """

    rank: int
    layers: Mapping[str, tuple[Tensor, Tensor]]

    @property
    def num_bytes(self) -> int:
        """Memory that it takes."""
        return sum(tensor.nbytes for pair in self.layers.values() for tensor in pair)


def read_adapter_weights(
    folder: Path, *, widths: Mapping[str, tuple[int, int]], dtype: torch.dtype, device: torch.device
) -> AdapterWeights:
    """Read a plain LoRA adapter.

    Args:
        folder: a PEFT adapter of kind LORA, without DoRA and without added tokens.
        widths: (D_in, D_out) of the base's linear layers by name.
        dtype: of the base. Factors are rounded to it as a wrapped layer rounds them.
        device: of the base.

    Raises:
        ModelError: it is more than A and B, or does not fit the base; every tensor that does not match is named.
        StorageError: a file is missing or damaged.
    """
    check_seal(folder)
    files = read_lora_files(folder, widths)
    if not files.is_plain:
        raise ModelError(f"{folder} is more than a plain LoRA adapter", remedy="load it on a base of its own")
    scale = files.alpha / files.rank
    layers = {
        name: (down.to(device, dtype), (up.to(device) * scale).to(dtype)) for name, (down, up) in files.factors.items()
    }
    return AdapterWeights(files.rank, layers)
