"""DoRA (Liu et al. 2024, arXiv:2402.09353): the low-rank update changes the direction of a weight, a vector its length.

    y = m / |V| * V x     with V = W + strength * (alpha / R) * B A, and |V| the length of each row of V

As in the paper's section 4.3 and in PEFT, |V| takes no part in the backward pass.

Shape legend: R rank, D_in and D_out widths of a layer.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from hone.model.lora import LinearLayer, LoraLinear

__all__ = ["DoraLinear"]


class DoraLinear(LoraLinear):
    """A frozen linear layer with a trainable low-rank update and a trainable length for each row.

    Args:
        base: any linear layer; frozen here.
        rank: R, at least 1.
        alpha: the update is scaled by alpha / R.
        seed: of A; B starts at zero and the lengths at the base's own, so the layer equals its base at first.
    """

    is_one_product: ClassVar[bool] = False

    def __init__(self, base: LinearLayer, *, rank: int, alpha: float, seed: int) -> None:
        super().__init__(base, rank=rank, alpha=alpha, seed=seed)
        # not buffers: they follow from the base's weights, and have no place among the model's tensors
        self._squared_lengths = self._weight().square().sum(dim=1)
        self.magnitude = nn.Parameter(self._squared_lengths.sqrt())

    def plain_forward(self, x: Tensor) -> Tensor:
        """``x`` [..., D_in] to [..., D_out]."""
        y: Tensor = self.base(x)
        if not self.enabled:
            return y
        ratio = self._magnitude() / self._row_lengths()
        bias: Tensor | None = self.base.bias
        without_bias = y if bias is None else y - bias
        low_rank = nn.functional.linear(x, self.lora_A.to(x.dtype))
        scaled_B = (self.lora_B * self.scale * ratio.unsqueeze(1)).to(x.dtype)
        return y + (ratio - 1).to(x.dtype) * without_bias + nn.functional.linear(low_rank, scaled_B)

    def trainable(self) -> dict[str, nn.Parameter]:
        """The tensors that are trained, by their names within the layer."""
        return {**super().trainable(), "magnitude": self.magnitude}

    def stored(self) -> dict[str, Tensor]:
        """The layer by PEFT's names, its lengths at the present strength; that of A and B belongs to the scaling."""
        return {**super().stored(), "lora_magnitude_vector": self._magnitude().detach()}

    def delta(self) -> Tensor:
        """What the layer adds to its base's weight, as a float32 matrix [D_out, D_in], at the present strength."""
        weight = self._weight()
        ratio = (self._magnitude() / self._row_lengths()).unsqueeze(1)
        return ratio * (weight + super().delta()) - weight

    def _weight(self) -> Tensor:
        weight = self.base.weight.detach().float()
        return weight.T if isinstance(self.base, Conv1D) else weight

    def _magnitude(self) -> Tensor:
        # between the base's lengths and the trained ones
        start = self._squared_lengths.to(self.magnitude.device).sqrt()
        return start + (self.magnitude - start) * self.strength if self.strength != 1.0 else self.magnitude

    @torch.no_grad()
    def _row_lengths(self) -> Tensor:
        """Lengths [D_out] of the rows of V; not remembered, since nothing tells that a fused optimizer changed A or B.

        From |W|^2 + 2 s W.(BA) + s^2 |BA|^2, where the two products are rows of [D_out, R] matrices: with B at zero
        the result is exactly the base's own length, and no matrix [D_out, D_in] is made but the product's input.
        """
        cross = (self._weight() @ self.lora_A.T * self.lora_B).sum(dim=1)
        square = (self.lora_B @ (self.lora_A @ self.lora_A.T) * self.lora_B).sum(dim=1)
        own = self._squared_lengths.to(self.lora_B.device)
        return (own + 2 * self.scale * cross + self.scale**2 * square).sqrt()
