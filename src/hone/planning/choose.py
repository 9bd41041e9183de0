"""The numbers of a run, chosen from the model and the data, each with its reason.

A value that the user gave is never changed. Defaults were compared on validation rows split from training data (see
docs/defaults.md), never on held-out rows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from hone.errors import ConfigError
from hone.planning.memory import activation_bytes, layers_to_recompute

__all__ = [
    "Choice",
    "TrainingChoices",
    "choose_held_out_rows",
    "choose_training",
    "choose_validation_rows",
    "require_adapter_memory",
]

# Measured on SmolLM2-135M; larger models take smaller steps, about with the fourth root of their size
# (Hu et al. 2021 and Biderman et al. 2024, arXiv:2405.09673, use 1e-4 to 5e-4 for 7B models).
_REFERENCE_PARAMETERS = 135e6
_REFERENCE_LEARNING_RATE = 1e-3
_LOWEST_LEARNING_RATE = 1e-4
_MEMORY_SHARE_FOR_ACTIVATIONS = 0.4
# Layers are recomputed where one row, which cannot be divided, would take more than this.
_LARGEST_SHARE_FOR_ACTIVATIONS = 0.8
_BYTES_PER_TRAINED_VALUE = 16  # float32: the value, its gradient and AdamW's two moments
_MICRO_BATCH_TOKENS = 2048
_ASSUMED_BYTES = 4 * 2**30
# Optimizer steps under which a small data set is passed over more often, and the passes beyond which it is memorised.
_WANTED_STEPS = 48
_EPOCHS = (3, 6)


@dataclass(frozen=True, slots=True)
class Choice:
    """One number and why it was chosen.

    Args:
        name: the option's name.
        value: what the run uses.
        reason: one clause for the user.
    """

    name: str
    value: float | int | None
    reason: str


@dataclass(frozen=True, slots=True)
class TrainingChoices:
    """The resolved numbers of a training run, and the reason for each.

    Args:
        rank: R of the adapter; None where it has none.
        alpha: scaling numerator; alpha / R multiplies the update.
        learning_rate: peak of the schedule.
        epochs: passes over the rows, at most: validation may stop earlier.
        batch_size: rows per optimizer step.
        max_length: tokens of a row, at most.
        warmup_share: share of the steps in which the learning rate rises.
        micro_batch_tokens: real tokens of one forward and backward pass.
        recompute_layers: decoder layers whose activations are computed again in the backward pass.
        choices: every number with its reason, in the order to print.
    """

    rank: int | None
    alpha: float | None
    learning_rate: float
    epochs: int
    batch_size: int
    max_length: int
    warmup_share: float
    micro_batch_tokens: int
    recompute_layers: int
    choices: tuple[Choice, ...]


def choose_held_out_rows(num_rows: int) -> Choice:
    """How many rows to set aside for the comparison: a fifth, between 8 and 200, never more than a third.

    Intervals shrink with the square root of the held-out rows; a training row is worth most where there are few.
    """
    value = max(1, min(200, max(8, round(num_rows * 0.2)), num_rows // 3))
    return Choice("held_out", value, f"a fifth of {_counted(num_rows)}, at most 200")


def choose_validation_rows(num_rows: int) -> Choice:
    """How many training rows to set aside for choosing the best checkpoint; 0 where training would starve."""
    if num_rows < 20:
        return Choice("validation", 0, f"{_counted(num_rows)}: too few to spare any")
    value = max(4, min(100, round(num_rows * 0.1)))
    return Choice("validation", value, f"a tenth of {num_rows} rows, at most 100, to choose the epoch")


def choose_training(
    *,
    num_parameters: int,
    num_layers: int,
    width: int,
    row_lengths: Sequence[int],
    context_length: int,
    available_bytes: int | None,
    bytes_per_value: int,
    rank: int | None = None,
    alpha: float | None = None,
    learning_rate: float | None = None,
    epochs: int | None = None,
    batch_size: int | None = None,
    max_length: int | None = None,
    warmup_share: float | None = None,
    micro_batch_tokens: int | None = None,
    has_rank: bool = True,
    alpha_of_rank: Callable[[int], float] | None = None,
    alpha_reason: str = "twice the rank",
    rate_factor: float = 1.0,
    recompute_layers: int | None = None,
    has_validation: bool = True,
    given_reason: str = "as given",
) -> TrainingChoices:
    """Choose what the user left open.

    Args:
        num_parameters: of the base.
        num_layers: decoder layers of the base.
        width: of the base's hidden states.
        row_lengths: tokens of each training row.
        context_length: tokens that the base was trained to see.
        available_bytes: memory free on the device; None where the system does not tell.
        bytes_per_value: of the dtype of compute (2 or 4).
        rank: the user's value, or None.
        alpha: the user's value, or None.
        learning_rate: the user's value, or None.
        epochs: the user's value, or None.
        batch_size: the user's value, or None.
        max_length: the user's value, or None.
        warmup_share: the user's value, or None.
        micro_batch_tokens: the user's value, or None.
        has_rank: whether the adaptation has a rank and alpha.
        alpha_of_rank: its rule for alpha; twice the rank where None.
        alpha_reason: that rule in words.
        rate_factor: its learning rate over LoRA's.
        recompute_layers: the user's value, or None.
        has_validation: whether rows were set aside to choose the best epoch.
        given_reason: what is said of the user's values.

    Returns:
        All numbers resolved.
    """
    longest = max(row_lengths)
    rows = len(row_lengths)
    made: list[Choice] = []

    def settle(name: str, given: float | None, value: float, reason: str) -> float:
        made.append(Choice(name, value if given is None else given, reason if given is None else given_reason))
        return value if given is None else given

    if has_rank:
        rank = int(settle("rank", rank, 16, "enough for one task; more ranks gain little at this number of rows"))
        alpha = settle("alpha", alpha, alpha_of_rank(rank) if alpha_of_rank else 2 * rank, alpha_reason)
    rate = float(f"{_learning_rate(num_parameters) * rate_factor:.1e}")
    learning_rate = settle("learning_rate", learning_rate, rate, f"for {num_parameters / 1e6:.0f}M parameters")
    batch_size = int(settle("batch_size", batch_size, _batch_size(rows), f"for {_counted(rows)}"))
    epochs = int(settle("epochs", epochs, *_epochs(rows, batch_size, has_validation)))
    reason = f"the model's context; the longest row has {longest}"
    max_length = int(settle("max_length", max_length, context_length, reason))
    warmup_share = settle("warmup_share", warmup_share, 0.1, "AdamW's second moments settle first")
    free_bytes = _ASSUMED_BYTES if available_bytes is None else available_bytes
    one = activation_bytes(1, num_layers=num_layers, width=width, bytes_per_value=bytes_per_value)
    affordable = free_bytes * _MEMORY_SHARE_FOR_ACTIVATIONS / one
    tokens = int(max(min(longest, max_length), min(_MICRO_BATCH_TOKENS, affordable)))
    micro_batch_tokens = int(settle("micro_batch_tokens", micro_batch_tokens, tokens, "fits in memory"))
    least = layers_to_recompute(
        micro_batch_tokens, num_layers=num_layers, width=width, bytes_per_value=bytes_per_value,
        free_bytes=int(free_bytes * _LARGEST_SHARE_FOR_ACTIVATIONS),
    )  # fmt: skip
    reason = f"of {num_layers}, so that {micro_batch_tokens} tokens fit in memory" if least else "all fits in memory"
    recompute_layers = int(settle("recompute_layers", recompute_layers, least, reason))
    return TrainingChoices(
        rank,
        alpha,
        learning_rate,
        epochs,
        batch_size,
        max_length,
        warmup_share,
        micro_batch_tokens,
        recompute_layers,
        tuple(made),
    )


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


def _learning_rate(num_parameters: int) -> float:
    rate = _REFERENCE_LEARNING_RATE * (_REFERENCE_PARAMETERS / num_parameters) ** 0.25
    bounded = min(_REFERENCE_LEARNING_RATE, max(_LOWEST_LEARNING_RATE, rate))
    return float(f"{bounded:.1e}")


def _batch_size(rows: int) -> int:
    # Small data sets need steps more than they need smooth gradients; large ones can afford both. Eight rows take less
    # than twice the time of four, so that the same time buys more passes.
    if rows < 16:
        return 2
    return 4 if rows < 64 else 8 if rows < 2000 else 16


def _epochs(rows: int, batch_size: int, has_validation: bool) -> tuple[int, str]:
    low, high = _EPOCHS
    epochs = min(high, max(low, math.ceil(_WANTED_STEPS * batch_size / rows)))
    if rows > 5000:
        epochs = 2 if rows <= 20000 else 1
    kept = (
        "the last within 20% of the lowest validation loss is kept"
        if has_validation
        else "the last is kept: no validation rows"
    )
    return epochs, f"for {_counted(rows)}; {kept}"


def _counted(rows: int) -> str:
    return f"{rows} row{'' if rows == 1 else 's'}"
