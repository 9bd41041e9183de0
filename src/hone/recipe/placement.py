"""Where the base of a training run goes: whole on each device, or split over them; and that all work on the same."""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from hone.config.schema import TrainConfig
from hone.data.render import Renderer
from hone.engine.parallel import Parallel
from hone.engine.sharding import needs_sharding
from hone.errors import ConfigError
from hone.model.device import check_device, check_dtype
from hone.model.load import LoadedModel, load_base
from hone.model.machine import available_device_bytes
from hone.types import TokenSequence

__all__ = ["Placement", "memory_for_training", "place_base", "require_same_work"]


@dataclass(frozen=True, slots=True)
class Placement:
    """Where the base is loaded to.

    Args:
        device: of this process; the processor where the whole base does not fit the device that it is split over.
        dtype: of the weights, as the device that computes wants it.
        kind: ``cpu``, ``cuda`` or ``mps``: what computes.
        sharded: the base is split over the processes.
    """

    device: str
    dtype: torch.dtype
    kind: str
    sharded: bool


def place_base(config: TrainConfig, parallel: Parallel, *, home: Path) -> Placement:
    """Decide it for ``config``; every process of the run decides alike.

    Args:
        config: the options.
        parallel: the processes.
        home: hone's home folder.

    Raises:
        ConfigError: no such device or dtype; or the base is to be split over one device.
    """
    device = check_device(parallel.device or config.device)
    can_be_split = config.adaptation in ("lora", "rslora") and config.quantize is None
    if config.shard == "on" and not can_be_split:
        raise ConfigError(
            "only the base under a LoRA adapter is split over devices",
            where="--shard",
            remedy="leave --shard out: every device then holds the whole base",
        )
    dtype = check_dtype(config.dtype, device)
    kind = torch.device(device).type
    if parallel.world_size == 1:
        if config.shard == "on":
            raise ConfigError(
                "a base cannot be split over one device", where="--shard", remedy="give --devices, or leave --shard out"
            )
        return Placement(device, dtype, kind, sharded=False)
    if kind == "cpu":
        # every process reads the whole base before it is split, so that auto could not help where memory is short
        return Placement(device, dtype, kind, sharded=config.shard == "on")
    outline = load_base(config.model, home=home, device="cpu", note=lambda _text: None, weights=False).model
    weight_bytes = sum(parameter.numel() for parameter in outline.parameters()) * dtype.itemsize
    available = memory_for_training(parallel, device)
    fits = not needs_sharding(weight_bytes=weight_bytes, trainable_values=0, available_bytes=available)
    sharded = config.shard == "on" or (config.shard == "auto" and not fits and can_be_split)
    loaded_to = "cpu" if sharded and not fits else device
    return Placement(loaded_to, dtype, kind, sharded=sharded)


def memory_for_training(parallel: Parallel, device: str) -> int | None:
    """Bytes that each process can still get, alike in all of them; None where some system does not tell.

    Args:
        parallel: the processes; on the processor they are taken to share one machine's memory.
        device: that this one computes on.
    """
    found: list[int | None] = parallel.everyones(available_device_bytes(device))
    known = [available for available in found if available is not None]
    if len(known) < len(found):
        return None
    return min(known) // (parallel.world_size if torch.device(device).type == "cpu" else 1)


def require_same_work(
    parallel: Parallel, base: LoadedModel, renderer: Renderer, sequences: Sequence[TokenSequence]
) -> None:
    """Refuse processes that have read other weights, another template or other rows than the first.

    Raises:
        ConfigError: some differ; they are named.
    """
    if parallel.world_size == 1:
        return
    digest = hashlib.sha256()
    for sequence in sequences:
        digest.update(array("q", (sequence.row, len(sequence.ids), *sequence.ids, *sequence.supervised)).tobytes())
    parallel.require_same(
        {
            "base": base.base_hash,
            "chat template": renderer.template_hash,
            "rows": digest.hexdigest(),
            "type of the weights (--dtype)": str(base.dtype).removeprefix("torch."),
        }
    )
