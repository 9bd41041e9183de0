"""Adapted linear layers that read the same input, computed as one, with the backward pass written out.

Query, key and value of an attention layer, or gate and up of a feed-forward layer, are one product with the frozen
weights below each other and two thin ones with the adapters' factors. Nothing is saved for the frozen weights, and the
input is saved once for all of them.

Shape legend: T tokens; D input width; N output widths of all members together, N_i of one; R ranks of all members
together.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from hone.model.lora import LoraLinear, adapted_layers, layer_widths

__all__ = ["FusedLora", "fused_lora_enabled"]


class FusedLora:
    """Linear layers with one input.

    The first member that is called with a tensor computes the outputs of all; the others take theirs.

    Args:
        members: adapted layers; their frozen weights are laid below each other and become views of one tensor.
    """

    def __init__(self, members: Sequence[LoraLinear]) -> None:
        self.members = list(members)
        self.sizes = [layer_widths(member.base)[1] for member in members]
        # an output's storage order is (tokens, all members), so each member's part is a slice of columns
        self.weight_ND = _joined_weight(self.members)
        self.bias_N = _joined_bias(self.members, self.sizes)
        self._input: Tensor | None = None
        self._key: tuple[int, bool] = (0, False)
        self._outputs: dict[int, Tensor] = {}

    def __call__(self, member: LoraLinear, x: Tensor) -> Tensor:
        """The output of ``member`` for ``x`` [..., D]."""
        position = next(place for place, one in enumerate(self.members) if one is member)
        key = (x._version if not x.is_inference() else 0, torch.is_grad_enabled())
        if self._input is not x or self._key != key or position not in self._outputs:
            self._input, self._key = x, key
            self._outputs = dict(enumerate(self._compute(x)))
        output = self._outputs.pop(position)
        if not self._outputs:
            self._input = None
        return output

    def _compute(self, x: Tensor) -> tuple[Tensor, ...]:
        enabled = [member.enabled for member in self.members]
        if not any(enabled):
            return torch.split(nn.functional.linear(x, self.weight_ND, self.bias_N), self.sizes, dim=-1)
        if not all(enabled):
            return tuple(member.plain_forward(x) for member in self.members)
        factor_A_RD, factor_B_NR = self._factors_in(x.dtype)
        parameters = [parameter for member in self.members for parameter in (member.lora_A, member.lora_B)]
        outputs: tuple[Tensor, ...] = _LoraProducts.apply(  # type: ignore[no-untyped-call]
            x, self, factor_A_RD, factor_B_NR, *parameters
        )
        return outputs

    def _factors_in(self, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """A with the scales in it, and B as one block-diagonal matrix, in the compute dtype.

        Made for each forward pass: a fused optimizer changes its parameters without counting up their versions, so
        nothing would tell that remembered factors are stale.
        """
        with torch.no_grad():
            factor_A_RD = torch.cat([member.lora_A * member.scale for member in self.members]).to(dtype)
            parts = [member.lora_B.to(dtype) for member in self.members]
            factor_B_NR: Tensor = parts[0] if len(parts) == 1 else torch.block_diag(*parts)  # type: ignore[no-untyped-call]
        return factor_A_RD, factor_B_NR


class _LoraProducts(torch.autograd.Function):
    """y_i = W_i x + b_i + scale_i B_i A_i x for all members i; see the module."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, fused: FusedLora, factor_A_RD: Tensor, factor_B_NR: Tensor, *parameters: Tensor
    ) -> tuple[Tensor, ...]:
        x_TD = x.reshape(-1, x.shape[-1])
        low_TR = x_TD @ factor_A_RD.t()
        y_TN = nn.functional.linear(x_TD, fused.weight_ND, fused.bias_N)
        y_TN = torch.addmm(y_TN, low_TR, factor_B_NR.t())
        ctx.fused, ctx.shape = fused, x.shape
        ctx.scales = [member.scale for member in fused.members]
        ctx.save_for_backward(x_TD, low_TR, factor_A_RD, factor_B_NR)
        return torch.split(y_TN.view(*x.shape[:-1], -1), fused.sizes, dim=-1)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x_TD, low_TR, factor_A_RD, factor_B_NR = ctx.saved_tensors
        fused: FusedLora = ctx.fused
        grad_TN = _joined_columns(grads, fused.sizes)
        grad_low_TR = grad_TN @ factor_B_NR
        grad_x = None
        if ctx.needs_input_grad[0]:
            grad_x = torch.addmm(grad_TN @ fused.weight_ND, grad_low_TR, factor_A_RD).view(ctx.shape)
        grad_A_RD = grad_low_TR.t() @ x_TD
        grad_B_NR = grad_TN.t() @ low_TR
        found: list[Tensor] = []
        column = row = 0
        for member, size, scale in zip(fused.members, fused.sizes, ctx.scales, strict=True):
            ranks = slice(row, row + member.rank)
            found.append(grad_A_RD[ranks].to(member.lora_A.dtype) * scale)
            found.append(grad_B_NR[column : column + size, ranks].to(member.lora_B.dtype))
            column, row = column + size, row + member.rank
        return grad_x, None, None, None, *found


def _joined_columns(grads: Sequence[Tensor], sizes: Sequence[int]) -> Tensor:
    """[T, N] from its slices of columns; no copy where they already lie beside each other."""
    first = grads[0]
    total = sum(sizes)
    flat = [grad.reshape(-1, size) for grad, size in zip(grads, sizes, strict=True)]
    offset = first.storage_offset()
    for grad, size in zip(flat, sizes, strict=True):
        beside = grad.storage_offset() == offset and grad.stride() == (total, 1)
        if not beside or grad.untyped_storage().data_ptr() != first.untyped_storage().data_ptr():
            return torch.cat(flat, dim=1)
        offset += size
    return flat[0].as_strided((flat[0].shape[0], total), (total, 1), first.storage_offset())


def _joined_weight(members: Sequence[LoraLinear]) -> Tensor:
    """The frozen weights [N, D] below each other; the layers' own weights become views of it."""
    bases = [member.base for member in members]
    if len(bases) == 1:
        weight = bases[0].weight.detach()
        return weight.t() if isinstance(bases[0], Conv1D) else weight
    joined = torch.cat([base.weight.detach() for base in bases])
    start = 0
    for base in bases:
        size = base.weight.shape[0]
        base.weight.data = joined[start : start + size]
        start += size
    return joined


def _joined_bias(members: Sequence[LoraLinear], sizes: Sequence[int]) -> Tensor | None:
    biases: list[Tensor | None] = [getattr(member.base, "bias", None) for member in members]
    if all(bias is None for bias in biases):
        return None
    like = members[0].base.weight
    parts = [like.new_zeros(size) if bias is None else bias for bias, size in zip(biases, sizes, strict=True)]
    return torch.cat([part.detach() for part in parts])


@contextmanager
def fused_lora_enabled(model: PreTrainedModel) -> Iterator[list[FusedLora]]:
    """Compute adapted layers together inside the block; every layer has its own weight again afterwards.

    Which layers read the same tensor is found by watching one short forward pass, not by their names.
    """
    groups = [FusedLora(members) for members in _with_one_input(model)]
    for group in groups:
        for member in group.members:
            member.fused = group
    try:
        yield groups
    finally:
        for group in groups:
            for member in group.members:
                member.fused = None
                if len(group.members) > 1:
                    member.base.weight.data = member.base.weight.data.clone()


def _with_one_input(model: PreTrainedModel) -> list[list[LoraLinear]]:
    """Adapted layers by the tensor that they read; a layer that is not called, or more than once, is left out."""
    parents = {
        layer: name.rpartition(".")[0]
        for name, layer in adapted_layers(model)
        # other kinds of update have another product, and 4-bit layers no weights to lay together
        if type(layer) is LoraLinear and isinstance(layer.base, nn.Linear | Conv1D)
    }
    calls: list[tuple[str, LoraLinear, Tensor]] = []

    def note(layer: Any, inputs: tuple[Tensor, ...]) -> None:
        calls.append((parents[layer], layer, inputs[0]))

    hooks = [layer.register_forward_pre_hook(note) for layer in parents]
    try:
        with torch.no_grad():
            model(input_ids=torch.zeros(1, 2, dtype=torch.long, device=model.device), use_cache=False)
    finally:
        for hook in hooks:
            hook.remove()
    counts: dict[int, int] = {}
    for _, layer, _ in calls:
        counts[id(layer)] = counts.get(id(layer), 0) + 1
    groups: list[list[LoraLinear]] = []
    previous: tuple[str, Tensor] | None = None
    for parent, layer, read in calls:
        if counts[id(layer)] > 1:
            continue
        together = previous is not None and previous[0] == parent and previous[1] is read
        if together and _alike(groups[-1][-1], layer):
            groups[-1].append(layer)
        else:
            groups.append([layer])
        previous = (parent, read)
    return groups


def _alike(one: LoraLinear, other: LoraLinear) -> bool:
    plain = isinstance(one.base, nn.Linear) and isinstance(other.base, nn.Linear)
    same = one.base.weight.dtype == other.base.weight.dtype and one.base.weight.device == other.base.weight.device
    return plain and same
