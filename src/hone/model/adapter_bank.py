"""Many LoRA adapters on one base: tokens of different adapters go through every linear layer in one product.

    y = [x, M(A x)] [W, B]^T

A holds the down-projections of all adapters that are in use, B their scaled up-projections beside the base's weight,
and M keeps, for each token, the columns of its own adapter alone; a token of the base keeps none. It is the product
that a single adapter has in ``fused_lora.py``, with more columns: the sum is rounded once, and the other adapters add
exact zeros.

Shape legend: T tokens; D input width; N output widths of the layers of a group; C columns in use; R rank of an
adapter; P layers of a group.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from hone.errors import ModelError
from hone.model.adapter_weights import AdapterWeights
from hone.model.lora import LinearLayer, find_linear_layers, layer_widths
from hone.model.quantize import QuantizedLinear

__all__ = ["AdapterBank", "TokenAdapters"]

_FIRST_RANKS = 32


@dataclass(frozen=True, slots=True)
class TokenAdapters:
    """Whose adapter each token of a forward pass takes.

    Args:
        end: ranks in use lie below this.
        owners_R: for each rank below ``end``, the number of the adapter that it belongs to; 0 where none.
        numbers_T: for each token, the number of its adapter; 0 for the base.
        everywhere: one adapter, beginning at rank 0, is meant for all tokens, so that nothing is to be masked.
    """

    end: int
    owners_R: Tensor
    numbers_T: Tensor
    everywhere: bool

    def mask(self, parts: int, dtype: torch.dtype) -> Tensor:
        """M [T, C] of a group of ``parts`` layers, 0 or 1."""
        owners_C = self.owners_R.repeat_interleave(parts)
        return (self.numbers_T.unsqueeze(1) == owners_C.unsqueeze(0)).to(dtype)


class AdapterBank:
    """The adapters in use on a model.

    Its linear layers are wrapped; with no adapter in use they compute what they did.

    Args:
        model: a plain base, in evaluation mode; changed in place.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        names = find_linear_layers(model)
        modules = dict(model.named_modules())
        layers: dict[str, LinearLayer] = {name: modules[name] for name in names}
        self.widths = {name: layer_widths(layer) for name, layer in layers.items()}
        self._groups = [
            _Group(self, {name: layers[name] for name in group}) for group in _with_one_input(model, layers)
        ]
        for group in self._groups:
            for place, name in enumerate(group.names):
                parent, _, leaf = name.rpartition(".")
                setattr(model.get_submodule(parent), leaf, _BankedLinear(layers[name], group, place))
        self.present: TokenAdapters | None = None
        self._masks: dict[tuple[int, torch.dtype], Tensor] = {}
        self._device = model.device
        self._ranks = 0
        self._ranges: dict[str, tuple[int, int, int]] = {}  # key: first rank, end, number
        self._number = 0

    @property
    def keys(self) -> frozenset[str]:
        """The adapters that lie in the layers now."""
        return frozenset(self._ranges)

    def rank_of(self, key: str) -> int:
        """Ranks that an adapter takes."""
        start, end, _ = self._ranges[key]
        return end - start

    @torch.inference_mode()
    def put_in(self, key: str, weights: AdapterWeights) -> None:
        """Lay an adapter beside the base's weights, at the first free place.

        Args:
            key: its name from now on.
            weights: made for this model.
        """
        if key in self._ranges:
            return
        start = 0
        for first, end, _ in sorted(self._ranges.values()):
            if first - start >= weights.rank:
                break
            start = end
        if start + weights.rank > self._ranks:
            self._ranks = max(_FIRST_RANKS, 2 * self._ranks, start + weights.rank)
            for group in self._groups:
                group.widen(self._ranks)
        self._number += 1
        self._ranges[key] = (start, start + weights.rank, self._number)
        for group in self._groups:
            group.fill(start, weights)

    def take_out(self, key: str) -> None:
        """Free the place of an adapter that no token uses any more."""
        del self._ranges[key]

    def select(self, runs: Sequence[tuple[str | None, int]]) -> None:
        """Say whose adapter the tokens of the next forward pass take.

        Args:
            runs: (key, number of tokens) in the order of the tokens; None for the base.
        """
        self._masks.clear()
        used = {key for key, _ in runs if key is not None}
        if not used:
            self.present = None
            return
        end = max(self._ranges[key][1] for key in used)
        owners = torch.zeros(end, dtype=torch.long)
        for first, last, number in self._ranges.values():
            owners[first:last] = number  # a slice past the end is cut off
        numbers = torch.tensor([0 if key is None else self._ranges[key][2] for key, _ in runs])
        numbers_T = numbers.repeat_interleave(torch.tensor([count for _, count in runs]))
        only = len(used) == 1 and all(key is not None for key, _ in runs)
        everywhere = only and self._ranges[next(iter(used))][0] == 0
        self.present = TokenAdapters(end, owners.to(self._device), numbers_T.to(self._device), everywhere)

    def mask(self, parts: int, dtype: torch.dtype) -> Tensor:
        """See :meth:`TokenAdapters.mask`; made once for each forward pass."""
        assert self.present is not None
        if (parts, dtype) not in self._masks:
            self._masks[parts, dtype] = self.present.mask(parts, dtype)
        return self._masks[parts, dtype]


class _Group:
    """Linear layers that read one input; the first that is called computes the outputs of all.

    Args:
        bank: knows whose adapter each token takes.
        layers: by name. More than one only where all are plain linear layers of one dtype.
    """

    def __init__(self, bank: AdapterBank, layers: Mapping[str, LinearLayer]) -> None:
        self.bank = bank
        self.names = list(layers)
        self.layers = list(layers.values())
        self.width = layer_widths(self.layers[0])[0]
        self.sizes = [layer_widths(layer)[1] for layer in self.layers]
        # the sum cannot be one product where the base's weight is in 4 bits
        self.beside = isinstance(self.layers[0], QuantizedLinear)
        self.bias_N = None if self.beside else _joined_bias(self.layers, self.sizes)
        self.wide_NK = self._laid_together(0)
        self.down_CD = self.wide_NK.new_zeros(0, self.width)
        self._input: Tensor | None = None
        self._outputs: dict[int, Tensor] = {}

    def output(self, place: int, x: Tensor) -> Tensor:
        """The output of the layer at ``place`` for ``x`` [..., D]."""
        if self._input is not x or place not in self._outputs:
            self._outputs = dict(enumerate(self._compute(x)))
            self._input = x
        found = self._outputs.pop(place)
        if not self._outputs:
            self._input = None
        return found

    def widen(self, ranks: int) -> None:
        """Make room for ``ranks`` ranks; what is laid in stays."""
        columns = ranks * len(self.layers)
        before = self.down_CD
        self.down_CD = before.new_zeros(columns, self.width)
        self.down_CD[: len(before)] = before
        old = self.wide_NK
        self.wide_NK = self._laid_together(columns)
        start = 0 if self.beside else self.width
        self.wide_NK[:, start : start + len(before)] = old[:, start:]

    def fill(self, start: int, weights: AdapterWeights) -> None:
        """Lay an adapter in, from rank ``start`` on; layers that it leaves alone get zeros."""
        parts, rank = len(self.layers), weights.rank
        first = start * parts
        offset = 0 if self.beside else self.width
        self.down_CD[first : first + rank * parts] = 0
        self.wide_NK[:, offset + first : offset + first + rank * parts] = 0
        row = 0
        for place, (name, size) in enumerate(zip(self.names, self.sizes, strict=True)):
            pair = weights.layers.get(name)
            if pair is not None:
                column = first + place * rank
                self.down_CD[column : column + rank] = pair[0]
                self.wide_NK[row : row + size, offset + column : offset + column + rank] = pair[1]
            row += size

    def _check_order(self, x_TD: Tensor, present: TokenAdapters) -> None:
        # an expert that is given some of the tokens: nothing tells which
        if len(x_TD) != len(present.numbers_T):
            raise ModelError(
                f"{self.names[0]} reads {len(x_TD)} of {len(present.numbers_T)} tokens",
                why="nobody can tell whose adapter each of them takes",
                remedy="serve versions of this model one at a time",
            )

    def _laid_together(self, columns: int) -> Tensor:
        like: Tensor = self.layers[0].weight
        if self.beside:
            dtype = like.dtype if like.dtype.is_floating_point else torch.get_default_dtype()
            return torch.zeros(sum(self.sizes), columns, dtype=dtype, device=like.device)
        wide_NK = like.new_zeros(sum(self.sizes), self.width + columns)
        start = 0
        for layer, size in zip(self.layers, self.sizes, strict=True):
            own = wide_NK[start : start + size, : self.width]
            weight: Any = layer.weight
            own.copy_(weight.detach().t() if isinstance(layer, Conv1D) else weight.detach())
            weight.data = own.t() if isinstance(layer, Conv1D) else own
            start += size
        return wide_NK

    def _compute(self, x: Tensor) -> tuple[Tensor, ...]:
        x_TD = x.reshape(-1, self.width)
        present = self.bank.present
        columns = 0 if present is None else present.end * len(self.layers)
        low_TC = None
        if present is not None:
            low_TC = x_TD @ self.down_CD[:columns].t()
            if not present.everywhere:
                self._check_order(x_TD, present)
                low_TC *= self.bank.mask(len(self.layers), low_TC.dtype)
        if self.beside:
            y: Tensor = self.layers[0](x)
            if low_TC is not None:
                y = y + nn.functional.linear(low_TC, self.wide_NK[:, :columns]).view_as(y)
            return (y,)
        whole_TK = x_TD if low_TC is None else torch.cat([x_TD, low_TC], dim=1)
        y_TN = nn.functional.linear(whole_TK, self.wide_NK[:, : self.width + columns], self.bias_N)
        return torch.split(y_TN.view(*x.shape[:-1], -1), self.sizes, dim=-1)


class _BankedLinear(nn.Module):
    """A linear layer of the base as a member of its group."""

    def __init__(self, base: LinearLayer, group: _Group, place: int) -> None:
        super().__init__()
        self.base = base
        # held in a tuple, because a group is no part of the model's tree
        self._group = (group,)
        self._place = place

    @property
    def weight(self) -> Tensor:
        """The base's: some architectures ask for its dtype."""
        return self.base.weight

    def forward(self, x: Tensor) -> Tensor:
        return self._group[0].output(self._place, x)


def _joined_bias(layers: Sequence[LinearLayer], sizes: Sequence[int]) -> Tensor | None:
    biases: list[Tensor | None] = [getattr(layer, "bias", None) for layer in layers]
    if all(bias is None for bias in biases):
        return None
    like: Tensor = layers[0].weight
    parts = [like.new_zeros(size) if bias is None else bias for bias, size in zip(biases, sizes, strict=True)]
    return torch.cat([part.detach() for part in parts])


def _with_one_input(model: PreTrainedModel, layers: Mapping[str, LinearLayer]) -> list[list[str]]:
    """Names of layers by the tensor that they read, seen in one short forward pass.

    A layer that is called more than once, or never (a mixture's experts), stands alone.

    Raises:
        ModelError: the model has no linear layer.
    """
    if not layers:
        raise ModelError(f"{type(model).__name__} has no linear layer", remedy="serve another base")
    names = {layer: name for name, layer in layers.items()}
    calls: list[tuple[str, Tensor]] = []

    def note(layer: Any, inputs: tuple[Tensor, ...]) -> None:
        calls.append((names[layer], inputs[0]))

    hooks = [layer.register_forward_pre_hook(note) for layer in names]
    try:
        with torch.no_grad():
            model(input_ids=torch.zeros(1, 2, dtype=torch.long, device=model.device), use_cache=False)
    finally:
        for hook in hooks:
            hook.remove()
    order = [name for name, _ in calls]
    groups: list[list[str]] = []
    previous: Tensor | None = None
    for name, read in calls:
        alone = order.count(name) > 1
        together = previous is read and not alone and _alike(layers[groups[-1][-1]], layers[name])
        if together and groups[-1][-1].rpartition(".")[0] == name.rpartition(".")[0]:
            groups[-1].append(name)
        elif not any(name in group for group in groups):
            groups.append([name])
        previous = None if alone else read
    return groups + [[name] for name in layers if name not in order]


def _alike(one: LinearLayer, other: LinearLayer) -> bool:
    plain = type(one) is nn.Linear and type(other) is nn.Linear
    return plain and one.weight.dtype == other.weight.dtype and one.weight.device == other.weight.device
