"""PiSSA (Meng et al. 2024, arXiv:2404.02948): A and B start at the principal part of the weight, not at noise and zero.

    y = W x + strength * scaling * (B A - B0 A0) x      with scaling * B0 A0 the R largest singular parts of W

The paper moves the principal part out of the frozen weight. Here the weight stays as it is and the start is
subtracted: the same function and the same gradients, while the base stays exact, in any dtype, with the adapter off.
The difference is computed as (B - B0) A + B0 (A - A0), which is zero at first and loses nothing to cancellation in
bfloat16; it is stored in that form too, as a plain LoRA adapter of rank 2 R for the untouched base.

Shape legend: R rank, D_in and D_out widths of a layer.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from hone.errors import ModelError
from hone.model.lora import LinearLayer, LoraLinear

__all__ = ["PissaLinear"]

# The exact decomposition takes about min(D_out, D_in)^3 operations; above this width a few power iterations of the
# randomised one find the largest parts (Halko et al. 2011, arXiv:0909.4061), as PEFT's pissa_niter_16 does.
_EXACT_WIDTH = 512
_POWER_ITERATIONS = 16


class PissaLinear(LoraLinear):
    """A frozen linear layer with a trainable copy of its principal part.

    Args:
        base: any linear layer; frozen here.
        rank: R, at least 1.
        alpha: the update is scaled by alpha / R.
        seed: of the randomised decomposition of wide layers.

    Raises:
        ModelError: the layer is narrower than ``rank``.
    """

    def __init__(self, base: LinearLayer, *, rank: int, alpha: float, seed: int) -> None:
        super().__init__(base, rank=rank, alpha=alpha, seed=seed)
        if rank > min(base.weight.shape):
            raise ModelError(
                f"a layer of {tuple(base.weight.shape)} has fewer than {rank} singular parts",
                remedy="give a smaller --rank, or leave such layers out with --layers",
            )
        weight = base.weight.detach().float()
        start_A, start_B = _principal(weight.T if isinstance(base, Conv1D) else weight, rank, seed)
        root = self.scaling**-0.5
        with torch.no_grad():
            self.lora_A.copy_(start_A * root)
            self.lora_B.copy_(start_B * root)
        # not buffers: the model's own files are to hold the model's own tensors alone
        self.start_A, self.start_B = self.lora_A.detach().clone(), self.lora_B.detach().clone()

    def plain_forward(self, x: Tensor) -> Tensor:
        """``x`` [..., D_in] to [..., D_out]."""
        y: Tensor = self.base(x)
        if not self.enabled:
            return y
        down, up = self.factors()
        return y + nn.functional.linear(nn.functional.linear(x, down.to(x.dtype)), (up * self.scale).to(x.dtype))

    def has_moved(self) -> bool:
        """Whether training has taken the layer away from its base."""
        return not (torch.equal(self.lora_A, self.start_A) and torch.equal(self.lora_B, self.start_B))

    def stored(self) -> dict[str, Tensor]:
        """The layer as plain LoRA of rank 2 R, by PEFT's names; the strength belongs to the scaling."""
        down, up = self.factors()
        return {"lora_A.weight": down.detach(), "lora_B.weight": up.detach()}

    def delta(self) -> Tensor:
        """The update as a float32 matrix [D_out, D_in], at the present strength."""
        down, up = self.factors()
        return (up @ down) * self.scale

    def factors(self) -> tuple[Tensor, Tensor]:
        """[2 R, D_in] and [D_out, 2 R], whose product is B A - B0 A0."""
        return (
            torch.cat([self.lora_A, self.lora_A - self.start_A]),
            torch.cat([self.lora_B - self.start_B, self.start_B], dim=1),
        )


def _principal(weight: Tensor, rank: int, seed: int) -> tuple[Tensor, Tensor]:
    """(A, B) with B A the ``rank`` largest singular parts of ``weight``, on its device.

    Decomposed on the CPU, so alike on every device; of the two signs of a part the one with a positive largest entry.
    """
    weight = weight.cpu()
    if min(weight.shape) <= _EXACT_WIDTH:
        left, values, right = torch.linalg.svd(weight, full_matrices=False)
    else:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            left, values, right = torch.svd_lowrank(weight, q=rank + 8, niter=_POWER_ITERATIONS)
        right = right.T
    left, values, right = left[:, :rank], values[:rank], right[:rank]
    largest = right.abs().argmax(dim=1, keepdim=True)
    sign = right.gather(1, largest).sign().squeeze(1)
    root = values.sqrt()
    return (root * sign).unsqueeze(1) * right, left * (root * sign)
