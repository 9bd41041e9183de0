"""Root-mean-square norms with a backward pass of few passes over memory.

Which modules are such norms, and in which of the usual forms, is found by comparing outputs on random rows. The order
of roundings is each form's own, so the forward pass gives the same bits as the module it stands in for.

Shape legend: T rows, D width.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["fused_norms_enabled"]

_PROBE_ROWS = 3


class _RmsNorm(torch.autograd.Function):
    """y = x / sqrt(mean(x^2) + eps) * (offset + weight); Zhang and Sennrich 2019, arXiv:1910.07467.

    ``late``: the normed rows are rounded to the input's dtype before the weight is applied (Llama); otherwise the
    product is made in float32 and rounded once (Gemma).
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight_D: Tensor, epsilon: float, offset: float, late: bool) -> Tensor:
        wide = x.float()
        scale = wide.square().mean(-1, keepdim=True).add_(epsilon).rsqrt_()
        normed = wide.mul_(scale) if wide is not x else wide * scale
        ctx.save_for_backward(x, scale, weight_D)
        ctx.offset = offset
        if late:
            return weight_D * normed.to(x.dtype)
        return (normed * (weight_D.float() + offset)).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, scale, weight_D = ctx.saved_tensors
        wide = x.float()
        grad_weight_D = None
        if ctx.needs_input_grad[1]:
            rows = (grad.float() * wide * scale).flatten(0, -2)
            grad_weight_D = rows.sum(0).to(weight_D.dtype)
        slope = grad.float() * (weight_D.float() + ctx.offset)
        # d/dx of x * scale(x): slope * scale - x * scale^3 * mean(slope * x)
        along = torch.linalg.vecdot(slope, wide).unsqueeze(-1).mul_(scale.pow(3) / x.shape[-1])
        return slope.mul_(scale).addcmul_(wide, along, value=-1).to(x.dtype), grad_weight_D, None, None, None


@contextmanager
def fused_norms_enabled(model: nn.Module) -> Iterator[dict[str, list[str]]]:
    """Compute root-mean-square norms by hand inside the block.

    Yields:
        ``replaced`` and ``left``: names of modules that look like norms.
    """
    report: dict[str, list[str]] = {"replaced": [], "left": []}
    changed: list[nn.Module] = []
    for name, module in model.named_modules():
        if not type(module).__name__.lower().endswith("norm"):
            continue
        form = _form_of(module)
        if form is None:
            report["left"].append(name)
            continue
        vars(module)["forward"] = _bound(module, *form)
        changed.append(module)
        report["replaced"].append(name)
    try:
        yield report
    finally:
        for module in changed:
            del module.forward


def _bound(module: nn.Module, epsilon: float, offset: float, late: bool) -> Any:
    def forward(hidden_states: Tensor) -> Tensor:
        normed: Tensor = _RmsNorm.apply(  # type: ignore[no-untyped-call]
            hidden_states, module.weight, epsilon, offset, late
        )
        return normed

    return forward


@torch.no_grad()
def _form_of(module: nn.Module) -> tuple[float, float, bool] | None:
    """(epsilon, offset, late) that gives the module's own output bit for bit; None where no form does."""
    weight: Any = getattr(module, "weight", None)
    epsilon = getattr(module, "variance_epsilon", getattr(module, "eps", None))
    others = [name for name, _ in module.named_parameters() if name != "weight"]
    if not isinstance(weight, Tensor) or weight.dim() != 1 or not isinstance(epsilon, float) or others:
        return None
    generator = torch.Generator().manual_seed(0)
    probe = torch.randn(_PROBE_ROWS, weight.shape[0], generator=generator).to(weight.device, weight.dtype)
    expected = module(probe)
    for offset, late in ((0.0, True), (1.0, False), (0.0, False)):
        if torch.equal(_RmsNorm.apply(probe, weight, epsilon, offset, late), expected):  # type: ignore[no-untyped-call]
            return epsilon, offset, late
    return None
