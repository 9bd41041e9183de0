"""The processes of one run, one for each device: which rows each takes, and what they add up and decide together.

Started by ``torchrun`` or by ``hone train --devices N``, which set the same environment. Every process reads the same
data and model and takes its part of each optimizer step's rows; gradients are summed, and the loss is divided by the
supervised tokens of all. The first process alone writes. A run of one process is the same code with nothing to add.

Figures and decisions travel as JSON through gloo, on the processor; gradients through the device's own backend.
"""

from __future__ import annotations

import heapq
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from hone.data.pack import PackedBatch, pack
from hone.engine.events import Recorder, Tee
from hone.errors import ConfigError, HoneError, MissingDependencyError, TrainingError
from hone.model.device import check_device
from hone.types import TokenSequence

__all__ = ["ALONE", "LostProcessError", "Parallel", "distribute", "process_group", "started_in_group"]

_Item = TypeVar("_Item")

_VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
# A process may wait this long for the others: the first one writes a large checkpoint, or data lie on a slow disk.
_TIMEOUT = timedelta(minutes=30)
# Tokens at which a row's attention costs as much as its linear layers: about 12 times the width of the model. Half or
# twice of it changes who takes which row by little.
_EVEN_LENGTH = 12_288
# Gradients of one sum: the whole of a common adapter, 256 MB at most.
_BUCKET_VALUES = 1 << 26
_LOST = re.compile(r"gloo|nccl|connection (closed|reset|refused)|broken pipe|socket", re.IGNORECASE)


class LostProcessError(TrainingError):
    """Another process of the run has ended; its own message says why."""


def distribute(lengths: Sequence[int], parts: int) -> list[list[int]]:
    """Give each of ``parts`` processes rows of about equal cost, which is linear and quadratic in a row's tokens.

    The costliest row goes to the process with the least so far (Graham 1969, "Bounds on multiprocessing timing
    anomalies": never more than 4/3 of the best there is). A pure function, so that all processes agree.

    Args:
        lengths: tokens of each row of one optimizer step.
        parts: processes.

    Returns:
        For each process the indices of its rows, rising; empty where there are fewer rows than processes.
    """
    costs = [length * (_EVEN_LENGTH + length) for length in lengths]
    loads = [(0, 0, part) for part in range(parts)]  # cost, rows, process
    found: list[list[int]] = [[] for _ in range(parts)]
    for index in sorted(range(len(lengths)), key=lambda i: (-costs[i], i)):
        load, rows, part = loads[0]
        found[part].append(index)
        heapq.heapreplace(loads, (load + costs[index], rows + 1, part))
    return [sorted(indices) for indices in found]


@dataclass(frozen=True, slots=True)
class Parallel:
    """This process among those of the run.

    Every method that exchanges something is called by all processes, in the same order.

    Args:
        rank: of this process, from 0.
        world_size: processes of the run.
        device: where this process computes; None leaves the choice to the caller.
        in_step: every process must make as many passes as the others, because sharded weights are gathered in each.
    """

    rank: int = 0
    world_size: int = 1
    device: str | None = None
    in_step: bool = False

    @property
    def is_first(self) -> bool:
        """Whether this is the process that writes and speaks."""
        return self.rank == 0

    def share(self, sequences: Sequence[TokenSequence]) -> list[TokenSequence]:
        """This process's part of the rows of one step, which all know; perhaps none."""
        parts = distribute([len(sequence.ids) for sequence in sequences], self.world_size)
        return [sequences[index] for index in parts[self.rank]]

    def portion(self, items: Sequence[_Item]) -> list[_Item]:
        """This process's part of items of like size."""
        return list(items[self.rank :: self.world_size])

    def passes(self, batches: Sequence[PackedBatch]) -> Iterator[tuple[PackedBatch, bool]]:
        """The micro-batches of this process, and whether each counts: fillers at the end, to keep in step, do not."""
        # counted before the first pass, since nothing may be exchanged between passes of unequal number
        fillers = max(self.everyones(len(batches))) - len(batches) if self.in_step else 0
        for batch in batches:
            yield batch, True
        filler = pack([TokenSequence((0, 0), (False, True), 0)])
        for _ in range(fillers):
            yield filler, False

    def everyones(self, value: Any) -> list[Any]:
        """``value`` of every process, in the order of ranks; anything that JSON can hold."""
        if self.world_size == 1:
            return [value]
        own = torch.frombuffer(bytearray(json.dumps(value, ensure_ascii=False).encode()), dtype=torch.uint8)
        sizes = [torch.zeros(1, dtype=torch.long) for _ in range(self.world_size)]
        dist.all_gather(sizes, torch.tensor([own.numel()]))
        lengths = [int(size) for size in sizes]
        padded = torch.zeros(max(lengths), dtype=torch.uint8)
        padded[: own.numel()] = own
        texts = [torch.empty_like(padded) for _ in range(self.world_size)]
        dist.all_gather(texts, padded)
        return [json.loads(bytes(text[:length].tolist())) for text, length in zip(texts, lengths, strict=True)]

    def from_first(self, value: Any) -> Any:
        """The first process's ``value``; the others' does not count."""
        return self.everyones(value if self.is_first else None)[0]

    def first_does(self, action: Callable[[], object]) -> None:
        """Let the first process do something that can fail; the others stop where it failed.

        Raises:
            HoneError: as ``action`` raised it, in the first process.
            LostProcessError: the action failed there; in the others.
        """
        failure: HoneError | None = None
        if self.is_first:
            try:
                action()
            except HoneError as error:
                failure = error
        if self.from_first(failure is not None):
            raise failure or LostProcessError("the first process has stopped with an error")

    def require_same(self, facts: Mapping[str, Any]) -> None:
        """Refuse processes that do not work on the same thing, as on machines with different files.

        Args:
            facts: JSON values by a name that the user understands.

        Raises:
            ConfigError: some differ; all of them are named, in every process.
        """
        found = self.everyones(dict(facts))
        details = [
            f"{name}: {', '.join(f'{one[name]!r} in process {rank}' for rank, one in enumerate(found))}"
            for name in facts
            if any(one[name] != found[0][name] for one in found)
        ]
        if details:
            raise ConfigError(
                f"the {self.world_size} processes do not work on the same thing",
                details=details,
                why="their gradients would not belong together",
                remedy="give every machine the same files and options",
            )

    def recorder(self, recorder: Recorder) -> Recorder:
        """``recorder`` in the first process, and one that does nothing in the others."""
        return recorder if self.is_first else Tee()

    def reduce_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        """Sum ``.grad`` over all processes; that of sharded parameters has been summed by the backward pass.

        A parameter that no process has a gradient for keeps none.
        """
        own = [parameter for parameter in parameters if not isinstance(parameter, DTensor)]
        if self.world_size == 1 or not own:
            return
        used = torch.tensor([float(parameter.grad is not None) for parameter in own], device=own[0].device)
        dist.all_reduce(used)
        for bucket in _buckets([parameter for parameter, count in zip(own, used.tolist(), strict=True) if count]):
            gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in bucket]
            flat = torch.cat([gradient.flatten().float() for gradient in gradients])
            dist.all_reduce(flat)
            parts = torch.split(flat, [gradient.numel() for gradient in gradients])
            for parameter, part in zip(bucket, parts, strict=True):
                parameter.grad = part.view_as(parameter).to(parameter.dtype)

    def full(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """``tensors`` with every shard gathered, for the first process to save; the others get nothing."""
        whole = {}
        for name, tensor in tensors.items():
            complete = tensor.full_tensor().cpu() if isinstance(tensor, DTensor) else tensor
            if self.is_first:
                whole[name] = complete
        return whole

    def spread(self, tensors: Mapping[str, Tensor], like: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The first process's full tensors, as every process needs them: on its device, its own shard.

        Args:
            tensors: in the first process; the others' are not looked at.
            like: parameters by name. A tensor that has the name and shape of one, or that name and a suffix
                ``.<key>``, is placed as it is; another stays on the processor.
        """
        described = {name: [list(tensor.shape), str(tensor.dtype)] for name, tensor in tensors.items()}
        placed = {}
        for name, (shape, dtype) in self.from_first(described).items():
            tensor = tensors[name] if self.is_first else torch.empty(shape, dtype=_dtype_named(dtype))
            if self.world_size > 1:
                tensor = tensor.detach().cpu().contiguous()
                dist.broadcast(tensor, src=0)
            target = like.get(name, like.get(name.rpartition(".")[0]))
            if isinstance(target, DTensor) and target.shape == tensor.shape:
                mesh, whole = target.device_mesh, tensor.to(target.device)
                tensor = distribute_tensor(whole, mesh, target.placements, src_data_rank=None)
            elif target is not None and target.shape == tensor.shape:
                tensor = tensor.to(target.device)
            placed[name] = tensor
        return placed


ALONE = Parallel()
"""A run of one process."""


def _buckets(parameters: Sequence[nn.Parameter]) -> Iterator[list[nn.Parameter]]:
    bucket: list[nn.Parameter] = []
    size = 0
    for parameter in parameters:
        if bucket and size + parameter.numel() > _BUCKET_VALUES:
            yield bucket
            bucket, size = [], 0
        bucket.append(parameter)
        size += parameter.numel()
    if bucket:
        yield bucket


def _dtype_named(name: str) -> torch.dtype:
    dtype: torch.dtype = getattr(torch, name.removeprefix("torch."))
    return dtype


def started_in_group() -> bool:
    """Whether this process is one of several: all variables that ``torchrun`` sets are there."""
    return all(os.environ.get(name) for name in _VARIABLES) and int(os.environ["WORLD_SIZE"]) > 1


@contextmanager
def process_group(device: str | None = None) -> Iterator[Parallel]:
    """Join the other processes while the block lasts; :data:`ALONE` where there are none.

    Who this process is, and where the others are, stands in the environment variables that ``torchrun`` sets.

    Args:
        device: ``cpu`` or ``cuda``; the best of the machine where None. Each process takes a GPU of its own.

    Raises:
        ConfigError: the device cannot be shared out, or the machine has fewer.
        MissingDependencyError: this build of torch cannot join processes.
        LostProcessError: the connection to another process broke.
    """
    if not started_in_group():
        yield ALONE
        return
    own = _own_device(device)
    parallel = Parallel(int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]), own)
    in_order = False
    try:
        _join(own)
        yield parallel
        in_order = True
    except RuntimeError as error:
        if _LOST.search(str(error)) is None:
            raise
        raise LostProcessError(
            f"process {parallel.rank} of {parallel.world_size} lost the connection to another",
            why="all processes work on every step together",
            remedy="see that process's message; `--resume` goes on from the last checkpoint",
        ) from error
    finally:
        # after an error nccl would wait here for those that are gone
        if dist.is_initialized() and (in_order or own == "cpu"):
            dist.destroy_process_group()


def _own_device(device: str | None) -> str:
    chosen = torch.device(check_device(device))
    if chosen.type == "cpu":
        return "cpu"
    if str(chosen) != "cuda":
        raise ConfigError(
            f"{chosen} is one device, and several were asked for",
            where="--device",
            remedy="use --device cuda, which gives every process a GPU of its own, --device cpu, or --devices 1",
        )
    return check_device(f"cuda:{os.environ['LOCAL_RANK']}")


def _join(device: str) -> None:
    if not dist.is_available():
        raise MissingDependencyError(
            "this build of torch cannot join several processes", remedy="use one device, or another build of torch"
        )
    backend = "gloo"
    if device != "cpu":
        torch.cuda.set_device(device)
        backend = "cpu:gloo,cuda:nccl"
    dist.init_process_group(backend, timeout=_TIMEOUT)
