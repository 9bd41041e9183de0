"""Operations and seconds of a training run.

Operations follow from the shape of the base and the rows, as `../shared/PERFORMANCE.md` has them: for LoRA
``4 Nb + 6 p`` a token and ``4 Nh`` a supervised token, for full fine-tuning ``6 Nb`` and ``8 Nh`` (the logits are made
again in the backward pass), three times attention's forward pass; computing a layer again adds its forward pass.
Seconds are these over rates that were measured on the machine (:mod:`hone.planning.rates`), and what each pass, step
and checkpoint costs besides.

Legend: Nb numbers of the linear layers, Nh of the head, p of the adapter.
"""

from __future__ import annotations

from dataclasses import dataclass

from hone.planning.decoding import decoding_seconds
from hone.planning.rates import Rates
from hone.planning.shape import ModelShape
from hone.planning.workload import Load, RolloutWork, Workload

__all__ = [
    "Operations",
    "Training",
    "checkpoint_size",
    "forward_operations",
    "training_operations",
    "training_seconds",
]

_QUANTIZED_BYTES_PER_VALUE = 0.5
# A 4-bit layer is unpacked in each forward and each backward pass; bytes read and written for a value.
_UNPACKED_BYTES = 2.5


@dataclass(frozen=True, slots=True)
class Training:
    """What is trained, as far as cost is concerned.

    Args:
        is_full: the base's own weights are trained.
        trained_values: numbers that the optimizer works on.
        rank: R of an adapter; 0 where it has none.
        recompute_layers: decoder layers that compute their activations again.
        is_quantized: the linear layers are kept in 4 bits.
        has_validation: the best weights are kept beside the present ones.
        checkpoints: how often the state is written.
    """

    is_full: bool
    trained_values: int
    rank: int
    recompute_layers: int
    is_quantized: bool = False
    has_validation: bool = True
    checkpoints: int = 0


@dataclass(frozen=True, slots=True)
class Operations:
    """Floating-point operations, a multiplication and an addition counting two.

    Args:
        linear: in linear layers, an adapter's products among them.
        head: in the output head.
        attention: products of queries, keys and values.
    """

    linear: float
    head: float
    attention: float

    @property
    def total(self) -> float:
        """All together."""
        return self.linear + self.head + self.attention


def forward_operations(shape: ModelShape, load: Load, *, adapter_values: int) -> Operations:
    """Operations of forward passes alone, as of a validation.

    Args:
        shape: of the base.
        load: what is computed.
        adapter_values: p; 0 for none.
    """
    return Operations(
        linear=2 * load.computed * (shape.linear_values + adapter_values),
        head=2 * load.supervised * shape.head_values,
        attention=4 * load.pairs * shape.heads * shape.head_width * shape.num_layers,
    )


def training_operations(shape: ModelShape, load: Load, training: Training) -> Operations:
    """Operations of forward and backward passes."""
    adapter = 0 if training.is_full else training.trained_values
    forward = forward_operations(shape, load, adapter_values=adapter)
    again = training.recompute_layers / shape.num_layers
    base = 6 if training.is_full else 4
    return Operations(
        linear=load.computed * (base * shape.linear_values + 6 * adapter) + again * forward.linear,
        head=(4 if training.is_full else 2) * forward.head,
        attention=(3 + again) * forward.attention,
    )


def training_seconds(shape: ModelShape, workload: Workload, training: Training, rates: Rates) -> dict[str, float]:
    """Seconds of the training loop by what takes them: steps, validations and checkpoints; nothing before or after it.

    Of methods that write their own answers also these, but not their grading, which is the user's.

    Args:
        shape: of the base.
        workload: of the run.
        training: what is trained.
        rates: of the device.

    Returns:
        Seconds by cause; their sum is the loop's.
    """
    adapter = 0 if training.is_full else training.trained_values
    steps = training_operations(shape, workload.training, training)
    checks = forward_operations(shape, workload.validation, adapter_values=adapter)
    again = training.recompute_layers / shape.num_layers
    passes = workload.training.micro_batches * (1 + again / 3) + workload.validation.micro_batches / 3
    weight_bytes = shape.linear_values * rates.bytes_per_value
    products = steps.linear + checks.linear
    causes = {
        "matrix products": products / rates.linear_per_second(shape.mean_width),
        "the output head": (steps.head + checks.head) / rates.head_per_second,
        "attention": (steps.attention + checks.attention) / rates.attention_per_second,
        # with few tokens a pass is as slow as the weights can be read, forwards and backwards
        "reading the weights": passes * 2 * weight_bytes / rates.bytes_per_second,
        "the calls of each layer": passes * shape.num_layers * rates.seconds_a_layer,
        "unpacking 4 bits": (
            2 * passes * shape.linear_values * _UNPACKED_BYTES / rates.bytes_per_second if training.is_quantized else 0
        ),
        "the optimizer": workload.steps * training.trained_values * rates.seconds_a_trained_value,
        "writing checkpoints": training.checkpoints * checkpoint_size(training) / rates.stored_bytes_per_second,
    }
    return causes if workload.rollouts is None else causes | _rollout_seconds(shape, workload.rollouts, training, rates)


def _rollout_seconds(shape: ModelShape, rollouts: RolloutWork, training: Training, rates: Rates) -> dict[str, float]:
    """Seconds of what comes before the steps: answers are written, and their log-probabilities computed."""
    adapter = 0 if training.is_full else training.trained_values
    base = forward_operations(shape, rollouts.base, adapter_values=0)
    policy = forward_operations(shape, rollouts.policy, adapter_values=adapter)
    passes = (rollouts.base.micro_batches + rollouts.policy.micro_batches) / 3
    a_pass = 2 * shape.linear_values * rates.bytes_per_value / rates.bytes_per_second
    if training.is_quantized:
        a_pass += 2 * shape.linear_values * _UNPACKED_BYTES / rates.bytes_per_second
    scored = (
        (base.linear + policy.linear) / rates.linear_per_second(shape.mean_width)
        + (base.head + policy.head) / rates.head_per_second
        + (base.attention + policy.attention) / rates.attention_per_second
        + passes * (a_pass + shape.num_layers * rates.seconds_a_layer)
    )
    written = decoding_seconds(
        shape, rollouts.decoding, rates, adapter_values=adapter, is_quantized=training.is_quantized
    )
    return {**written, "log-probabilities of the answers": scored}


def checkpoint_size(training: Training) -> int:
    """Bytes of a checkpoint: weights, two moments, and the best weights, in float32."""
    return training.trained_values * (16 if training.has_validation else 12)
