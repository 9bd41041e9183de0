"""Memory of a training step: what activations take, and how many layers must compute theirs again to fit."""

from __future__ import annotations

from hone.errors import ConfigError

__all__ = ["activation_bytes", "layers_to_recompute", "require_adapter_memory"]

_BYTES_PER_TRAINED_VALUE = 16  # float32: the value, its gradient and AdamW's two moments

# Memory of a token in training without recomputation, in bytes per layer and unit of width: 0.66 MB a token for
# 30 layers of width 576 in bfloat16, where 0.6 to 0.7 were measured; float32 takes twice that.
_BYTES_PER_LAYER_AND_WIDTH = 38


def activation_bytes(
    tokens: int, *, num_layers: int, width: int, bytes_per_value: int, recomputed_layers: int = 0
) -> int:
    """Bytes that a forward pass keeps for the backward pass.

    Args:
        tokens: real tokens computed at once.
        num_layers: decoder layers.
        width: of the hidden states.
        bytes_per_value: of the dtype of compute (2 or 4).
        recomputed_layers: those that keep their input alone; one of them is whole at a time in the backward pass.
    """
    whole = _BYTES_PER_LAYER_AND_WIDTH * width * bytes_per_value // 2
    inputs = recomputed_layers * width * bytes_per_value
    return tokens * (inputs + (num_layers - recomputed_layers + min(1, recomputed_layers)) * whole)


def layers_to_recompute(tokens: int, *, num_layers: int, width: int, bytes_per_value: int, free_bytes: int) -> int:
    """The fewest layers that must be recomputed for ``tokens`` to fit into ``free_bytes``; all where none suffices.

    Args:
        tokens: real tokens computed at once.
        num_layers: decoder layers.
        width: of the hidden states.
        bytes_per_value: of the dtype of compute (2 or 4).
        free_bytes: memory for activations.
    """
    for count in range(num_layers):
        needed = activation_bytes(
            tokens, num_layers=num_layers, width=width, bytes_per_value=bytes_per_value, recomputed_layers=count
        )
        if needed <= free_bytes:
            return count
    return num_layers


def require_adapter_memory(num_values: int, *, rank: int, available_bytes: int | None, device: str) -> None:
    """Refuse a rank whose adapter cannot be trained in the memory that is free.

    Args:
        num_values: trainable numbers of the adapter.
        rank: R that gives so many.
        available_bytes: memory free on the device, with the base loaded; None where the system does not tell.
        device: for the message.

    Raises:
        ConfigError: weights, gradients and AdamW's two moments, in float32, take more than is free.
    """
    needed = num_values * _BYTES_PER_TRAINED_VALUE
    if available_bytes is None or needed <= available_bytes:
        return
    largest = rank * available_bytes // needed
    raise ConfigError(
        f"a rank of {rank} needs {needed / 1e9:.1f} GB for {num_values} trained values, their gradients and AdamW's "
        f"moments, and {device} has {available_bytes / 1e9:.1f} GB free",
        where="--rank",
        details=[f"needed: {needed} bytes, free: {available_bytes} bytes"],
        remedy=f"use a rank well under {largest}; 16 is enough for one task" if largest > 1 else "use a smaller model",
    )
