"""The optimizer of every method, and its state as named tensors."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from hone.errors import StorageError

__all__ = ["load_optimizer_state", "make_optimizer", "optimizer_state", "set_learning_rate"]

_STATE_KEYS = ("exp_avg", "exp_avg_sq", "step")


def make_optimizer(
    parameters: Mapping[str, nn.Parameter], *, weight_decay: float, rate_factors: Mapping[str, float] | None = None
) -> torch.optim.AdamW:
    """AdamW (Loshchilov and Hutter 2019, arXiv:1711.05101) with betas (0.9, 0.999) and eps 1e-8, state in float32.

    The learning rate is set by :func:`set_learning_rate` from the schedule; the one given here is never used. The
    update is torch's fused kernel where the parameters' device has one.

    Args:
        parameters: the trainable tensors by name.
        weight_decay: on all of them.
        rate_factors: factors on the learning rate by parameter name, as LoRA+ has them; 1 where none is given.
    """
    groups: dict[float, list[nn.Parameter]] = {}
    for name, parameter in parameters.items():
        groups.setdefault((rate_factors or {}).get(name, 1.0), []).append(parameter)
    parts = [{"params": members, "rate_factor": factor} for factor, members in groups.items()]
    kinds = {parameter.device.type for parameter in parameters.values()}
    fused = kinds <= {"cpu", "cuda", "mps"} and len(kinds) == 1
    return torch.optim.AdamW(parts, lr=0.0, weight_decay=weight_decay, fused=fused)


def set_learning_rate(optimizer: torch.optim.Optimizer, learning_rate: float) -> None:
    """Give each group of parameters the schedule's rate times its factor."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate * group.get("rate_factor", 1.0)


def optimizer_state(optimizer: torch.optim.Optimizer, parameters: Mapping[str, nn.Parameter]) -> dict[str, Tensor]:
    """The state as tensors named ``<parameter>.<key>``; empty before the first step."""
    return {
        f"{name}.{key}": optimizer.state[parameter][key]
        for name, parameter in parameters.items()
        if parameter in optimizer.state
        for key in _STATE_KEYS
    }


def load_optimizer_state(
    optimizer: torch.optim.Optimizer, parameters: Mapping[str, nn.Parameter], state: Mapping[str, Tensor]
) -> None:
    """Put back what :func:`optimizer_state` gave.

    Raises:
        StorageError: a tensor is missing or has another shape than its parameter.
    """
    wrong = []
    for name, parameter in parameters.items():
        found = {key: state.get(f"{name}.{key}") for key in _STATE_KEYS}
        bad = [
            key
            for key, tensor in found.items()
            if tensor is None or (key != "step" and tensor.shape != parameter.shape)
        ]
        wrong += [f"{name}.{key}" for key in bad]
        if not bad:
            # the fused kernel wants the step where the parameter is, too
            optimizer.state[parameter] = {
                key: tensor.clone().to(parameter.device) for key, tensor in found.items() if tensor is not None
            }
    if wrong:
        raise StorageError(
            "the checkpoint's optimizer state does not fit the adapter",
            details=wrong,
            remedy="resume with the same model and rank",
        )
