"""Sharded weights, for a base that does not fit one device, or for training all of it: FSDP2 (``fully_shard``).

Each decoder layer is a unit whose weights are gathered while it computes. Everything else, embeddings and output head
among them, is one unit around the whole forward pass, the loss's log-probabilities included: what reads a weight of
the head directly (``model/head.py``) reads it gathered, and its gradient is summed over the processes like any other.
So are tied embeddings, which are one tensor under two names in one unit.

Gradients are summed in float32 and never averaged: the step has divided the loss by the tokens of all processes.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from transformers import PreTrainedModel

from hone.data.pack import PackedBatch
from hone.engine.parallel import Parallel
from hone.model.forward import Forward

__all__ = ["ShardedForward", "needs_sharding", "shard_model"]

# Share of a device's free memory that weights, gradients and optimizer state may take; the rest is for activations.
_SHARE_FOR_WEIGHTS = 0.6
# float32 gradient, two moments of AdamW and the best weights so far, of each trainable value
_BYTES_PER_TRAINABLE = 16


def needs_sharding(*, weight_bytes: int, trainable_values: int, available_bytes: int | None) -> bool:
    """Whether one device cannot hold a whole replica beside the activations of training.

    Args:
        weight_bytes: of all weights, in the dtype that they are trained in.
        trainable_values: numbers that are trained.
        available_bytes: free memory of one device; None where it is not known, which counts as enough.
    """
    if available_bytes is None:
        return False
    return weight_bytes + _BYTES_PER_TRAINABLE * trainable_values > _SHARE_FOR_WEIGHTS * available_bytes


def shard_model(
    model: PreTrainedModel, forward: Forward, parallel: Parallel, *, replicated: Collection[nn.Parameter]
) -> tuple[ShardedForward, Parallel]:
    """Shard the weights of ``model`` in place over all processes.

    Every forward pass must from now on go through the one returned. Parameters are other objects afterwards: ask the
    model for them again. Call it inside ``packed_attention_enabled``, which looks at the head while it is whole.

    Args:
        model: on the processor or on the process's device; its shards are on the device afterwards.
        forward: the pass to shard, as ``packed_logprobs``.
        parallel: the processes, at least two.
        replicated: parameters that every process keeps whole, as a small adapter; moved to the device.

    Returns:
        (forward, parallel): the pass over sharded weights, which all processes must make together; the processes,
        kept in step.
    """
    device = torch.device(parallel.device or "cpu")
    mesh = init_device_mesh(device.type, (parallel.world_size,))
    for parameter in replicated:
        parameter.data = parameter.data.to(device)
    policy = MixedPrecisionPolicy(reduce_dtype=torch.float32)
    options: dict[str, Any] = {"mesh": mesh, "mp_policy": policy, "ignored_params": set(replicated)}
    root = _WholePass(model)
    for unit in [*_decoder_layers(model), root]:
        sharded: FSDPModule = fully_shard(unit, **options)
        sharded.set_gradient_divide_factor(1.0)
        sharded.set_force_sum_reduction_for_comms(True)

    return ShardedForward(root, forward), replace(parallel, in_step=True)


class ShardedForward:
    """A forward pass over sharded weights, which all processes make together.

    Args:
        root: holds the model, and gathers its weights while it runs.
        forward: the pass to make.
    """

    def __init__(self, root: _WholePass, forward: Forward) -> None:
        self._root = root
        self.forward = forward

    def __call__(self, model: PreTrainedModel, batch: PackedBatch) -> Tensor:
        """What the pass gives for ``batch``; the model is the sharded one, whichever is named."""
        del model
        found: Tensor = self._root(batch, self.forward)
        return found

    def through(self, other: Forward) -> ShardedForward:
        """Another pass over the same weights, as the one that gives logits."""
        return ShardedForward(self._root, other)


class _WholePass(nn.Module):
    """A forward pass as a module, so that its weights are gathered while it runs."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: PackedBatch, through: Forward) -> Tensor:
        return through(self.model, batch)


def _decoder_layers(module: nn.Module) -> Iterator[nn.Module]:
    """The layers of every outermost list of layers; experts inside a layer belong to it."""
    for child in module.children():
        if isinstance(child, nn.ModuleList):
            yield from child
        else:
            yield from _decoder_layers(child)
