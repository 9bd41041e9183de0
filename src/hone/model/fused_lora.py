"""Adapted linear layers that read the same input, computed as one product, with the backward pass written out.

Query, key and value of an attention layer, or gate and up of a feed-forward layer, are one product, and the adapter is
in it: ``y = [x, A x] [W, B]^T``. The sum of both parts is rounded once; added up afterwards, in bfloat16, an update
smaller than half a unit in the last place of ``W x`` would be lost. Nothing is saved for the frozen weights, and the
input is saved once for all layers that read it.

Shape legend: T tokens; D input width; N output widths of all members together; R ranks of all members together;
K = D + R.
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

__all__ = ["FusedLora", "fuse_adapted_layers", "fused_lora_enabled"]


class FusedLora:
    """Linear layers with one input.

    The first member that is called with a tensor computes the outputs of all; the others take theirs.

    Args:
        members: adapted layers; their frozen weights become views of one tensor, which has room for B beside them.
    """

    def __init__(self, members: Sequence[LoraLinear]) -> None:
        self.members = list(members)
        self.sizes = [layer_widths(member.base)[1] for member in members]
        self.width = layer_widths(members[0].base)[0]
        self.wide_NK = self._laid_together()
        self.bias_N = _joined_bias(self.members, self.sizes)
        self._input: Tensor | None = None
        self._key: tuple[int, bool] = (0, False)
        self._outputs: dict[int, Tensor] = {}

    def __call__(self, member: LoraLinear, x: Tensor) -> Tensor:
        """The output of ``member`` for ``x`` [..., D]."""
        position = next(place for place, one in enumerate(self.members) if one is member)
        key = (x._version if not x.is_inference() else 0, torch.is_grad_enabled())
        if self._input is not x or self._key != key or position not in self._outputs:
            # Remembered only once it is computed: recomputation (torch.utils.checkpoint) ends a layer inside of its
            # last product, and an input that stayed here would keep all activations of the layer alive.
            self._input, self._outputs = None, {}
            outputs = self._compute(x)
            self._input, self._key, self._outputs = x, key, dict(enumerate(outputs))
        output = self._outputs.pop(position)
        if not self._outputs:
            self._input = None
        return output

    def release(self) -> None:
        """Give every member a weight of its own again."""
        for member in self.members:
            member.fused = None
            member.base.weight.data = member.base.weight.data.contiguous()

    def _laid_together(self) -> Tensor:
        like = self.members[0].base.weight
        ranks = sum(member.factors()[1].shape[1] for member in self.members)
        wide_NK = like.new_zeros(sum(self.sizes), self.width + ranks)
        start = 0
        for member, size in zip(self.members, self.sizes, strict=True):
            base = member.base
            own = wide_NK[start : start + size, : self.width]
            weight = base.weight.detach()
            own.copy_(weight.t() if isinstance(base, Conv1D) else weight)
            base.weight.data = own.t() if isinstance(base, Conv1D) else own
            start += size
        return wide_NK

    def _compute(self, x: Tensor) -> tuple[Tensor, ...]:
        enabled = [member.enabled for member in self.members]
        if any(enabled) and not all(enabled):
            return tuple(member.plain_forward(x) for member in self.members)
        # Made for each forward pass: a fused optimizer changes its parameters without counting up their versions, so
        # nothing would tell that remembered factors are stale.
        factors = [member.factors() for member in self.members]
        scaled = [down * member.scale for member, (down, _) in zip(self.members, factors, strict=True)]
        outputs: tuple[Tensor, ...] = _LoraProducts.apply(  # type: ignore[no-untyped-call]
            x, torch.cat(scaled).to(x.dtype), self, all(enabled), *[up for _, up in factors]
        )
        return outputs

    def lay_in(self, ups: Sequence[Tensor]) -> None:
        """Put the present B of each member beside its own weight; zeros stand beside the others'."""
        row, column = 0, self.width
        for up, size in zip(ups, self.sizes, strict=True):
            self.wide_NK[row : row + size, column : column + up.shape[1]].copy_(up.detach())
            row, column = row + size, column + up.shape[1]


class _LoraProducts(torch.autograd.Function):
    """y_i = W_i x + b_i + scale_i B_i A_i x for all members i; see the module."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, factor_A_RD: Tensor, fused: FusedLora, enabled: bool, *ups: Tensor
    ) -> tuple[Tensor, ...]:
        x_TD = x.reshape(-1, fused.width)
        x_TK = x.new_empty(x_TD.shape[0], fused.wide_NK.shape[1])
        x_TK[:, : fused.width] = x_TD
        if enabled:
            fused.lay_in(ups)
            x_TK[:, fused.width :] = x_TD @ factor_A_RD.t()
        else:
            # zeros in the same product, and not a product without them: the base's numbers to the last bit
            x_TK[:, fused.width :] = 0
        y_TN = nn.functional.linear(x_TK, fused.wide_NK, fused.bias_N)
        ctx.fused, ctx.shape, ctx.enabled = fused, x.shape, enabled
        ctx.ranks, ctx.dtype = [up.shape[1] for up in ups], ups[0].dtype
        ctx.save_for_backward(x_TK, factor_A_RD)
        return torch.split(y_TN.view(*x.shape[:-1], -1), fused.sizes, dim=-1)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x_TK, factor_A_RD = ctx.saved_tensors
        fused: FusedLora = ctx.fused
        x_TD, low_TR = x_TK[:, : fused.width], x_TK[:, fused.width :]
        grad_TN = _joined_columns(grads, fused.sizes)
        if not ctx.enabled:
            grad_base = (grad_TN @ fused.wide_NK[:, : fused.width]).view(ctx.shape)
            return grad_base, None, None, None, *[None] * len(ctx.ranks)
        grad_x = None
        if ctx.needs_input_grad[0]:
            grad_TK = grad_TN @ fused.wide_NK
            grad_low_TR = grad_TK[:, fused.width :]
            grad_x = torch.addmm(grad_TK[:, : fused.width], grad_low_TR, factor_A_RD).view(ctx.shape)
        else:
            grad_low_TR = grad_TN @ fused.wide_NK[:, fused.width :]
        grad_A_RD = grad_low_TR.t() @ x_TD
        grad_B_NR = grad_TN.t() @ low_TR
        found: list[Tensor] = []
        row = column = 0
        for size, rank in zip(fused.sizes, ctx.ranks, strict=True):
            found.append(grad_B_NR[row : row + size, column : column + rank].to(ctx.dtype))
            row, column = row + size, column + rank
        return grad_x, grad_A_RD, None, None, *found


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


def _joined_bias(members: Sequence[LoraLinear], sizes: Sequence[int]) -> Tensor | None:
    biases: list[Tensor | None] = [getattr(member.base, "bias", None) for member in members]
    if all(bias is None for bias in biases):
        return None
    like = members[0].base.weight
    parts = [like.new_zeros(size) if bias is None else bias for bias, size in zip(biases, sizes, strict=True)]
    return torch.cat([part.detach() for part in parts])


def fuse_adapted_layers(model: PreTrainedModel) -> list[FusedLora]:
    """Compute adapted layers together from now on; for a model that only answers.

    Which layers read the same tensor is found by watching one short forward pass, not by their names. Layers that are
    fused already stay as they are.

    Returns:
        The new groups.
    """
    groups = [FusedLora(members) for members in _with_one_input(model)]
    for group in groups:
        for member in group.members:
            member.fused = group
    _leave_the_file(model, [member.base.weight for group in groups for member in group.members])
    return groups


def _leave_the_file(model: PreTrainedModel, laid: Sequence[Tensor]) -> None:
    """Copy what was not laid together, where it is the smaller part.

    Weights that were read from a file are views of its pages, and all of these stay in memory as long as one tensor
    uses them: beside the weights that are laid together, the same ones a second time.
    """
    taken = {id(weight) for weight in laid}
    rest = [one for one in model.parameters() if id(one) not in taken and type(one) is nn.Parameter]
    rest = [one for one in rest if not one.requires_grad and one.device.type == "cpu"]
    if sum(one.nbytes for one in rest) < sum(weight.nbytes for weight in laid):
        for one in rest:
            one.data = one.detach().clone()


@contextmanager
def fused_lora_enabled(model: PreTrainedModel) -> Iterator[list[FusedLora]]:
    """The same inside the block; every layer has its own weight again afterwards. Gives all groups of the model."""
    new = fuse_adapted_layers(model)
    try:
        yield list({id(layer.fused): layer.fused for _, layer in adapted_layers(model)
                    if isinstance(layer.fused, FusedLora)}.values())  # fmt: skip
    finally:
        for group in new:
            group.release()


def _with_one_input(model: PreTrainedModel) -> list[list[LoraLinear]]:
    """Plain adapted layers by the tensor that they read; one that is not called, or more than once, is left out."""
    parents = {
        layer: name.rpartition(".")[0]
        for name, layer in adapted_layers(model)
        # other kinds of update have another product, and 4-bit layers no weights to lay together
        if layer.fused is None and layer.is_one_product and isinstance(layer.base, nn.Linear | Conv1D)
    }
    if not parents:
        return []
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
