"""Operations against torch's own counter on the path that training takes, and seconds by hand."""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from hone.data.pack import pack
from hone.model.attention import packed_attention_enabled
from hone.model.forward import packed_logprobs
from hone.model.lora import adapter_parameters, attach_adapter
from hone.planning.cost import Training, checkpoint_size, forward_operations, training_operations, training_seconds
from hone.planning.shape import shape_of
from hone.planning.workload import Load, Workload, load_of
from tests.planning.unit_rates import unit_rates
from tests.tiny import tiny_model, token_rows

RANK = 4
LENGTHS = [40, 40, 40]  # alike, so that no group of attention has padding


def _counted(*, full: bool) -> int:
    model = tiny_model("llama")
    batch = pack(token_rows(LENGTHS), share_prefixes=False)
    model.requires_grad_(full)
    if not full:
        attach_adapter(model, rank=RANK, alpha=8.0, seed=0)
    parameters = list(model.parameters() if full else adapter_parameters(model).values())
    with packed_attention_enabled(model), FlopCounterMode(display=False) as counter:
        torch.autograd.grad(packed_logprobs(model, batch).sum(), parameters)
    return counter.get_total_flops()


@pytest.mark.parametrize("full", [False, True])
def test_operations_are_those_that_torch_counts(full: bool) -> None:
    shape = shape_of(tiny_model("llama"), context_length=256)
    load = load_of(pack(token_rows(LENGTHS), share_prefixes=False), block_queries=256)
    values = shape.num_parameters if full else shape.adapter_values(RANK)
    training = Training(is_full=full, trained_values=values, rank=0 if full else RANK, recompute_layers=0)
    operations = training_operations(shape, load, training)
    counted = _counted(full=full)
    if not full:
        # nothing before the first adapter has a gradient, which the formula spares no product for
        first = [layer for layer in shape.layers if layer.name.startswith("model.layers.0.self_attn")][:3]
        spared = sum(2 * load.computed * (layer.values + RANK * layer.inputs) for layer in first)
        assert operations.total == pytest.approx(counted + spared, rel=1e-6)
    else:
        assert operations.total == pytest.approx(counted, rel=1e-6)


def test_operations_by_hand() -> None:
    shape = shape_of(tiny_model("llama"), context_length=256)
    # q and o 64 x 64, k and v 64 x 32, gate, up and down 64 x 96, in two layers; a head of 352 x 64
    assert shape.linear_values == 2 * (2 * 64 * 64 + 2 * 64 * 32 + 3 * 64 * 96)
    assert shape.head_values == 352 * 64
    assert shape.adapter_values(RANK) == 2 * RANK * (2 * 128 + 2 * 96 + 3 * 160)
    load = Load(tokens=10, computed=8, supervised=3, pairs=20, micro_batches=1)
    forward = forward_operations(shape, load, adapter_values=100)
    assert forward.linear == 2 * 8 * (shape.linear_values + 100)
    assert forward.head == 2 * 3 * shape.head_values
    assert forward.attention == 2 * 2 * 20 * 64 * 2  # two products of two operations, width 64, two layers
    lora = Training(is_full=False, trained_values=100, rank=RANK, recompute_layers=0)
    once = training_operations(shape, load, lora)
    again = training_operations(shape, load, Training(False, 100, RANK, recompute_layers=2))
    assert once.linear == 8 * (4 * shape.linear_values + 6 * 100)
    assert again.linear - once.linear == forward.linear
    assert again.attention - once.attention == forward.attention
    assert again.head == once.head == 2 * forward.head


@pytest.mark.parametrize(
    ("rate", "cause", "expected"),
    [
        ({"seconds_a_layer": 0.5}, "the calls of each layer", 0.5 * 2 * (6 + 3 / 3)),
        ({"seconds_a_trained_value": 0.25}, "the optimizer", 0.25 * 100 * 5),
        ({"stored_bytes_per_second": 8.0}, "writing checkpoints", 2 * 1600 / 8),
        ({"head_per_second": 2.0}, "the output head", (4 * 30 + 2 * 6) * 352 * 64 / 2),
    ],
)
def test_seconds_by_hand(rate: dict[str, float], cause: str, expected: float) -> None:
    """Two layers; six micro-batches in five steps; a validation of three micro-batches without a backward pass."""
    shape = shape_of(tiny_model("llama"), context_length=256)
    workload = Workload(
        rows=10,
        steps=5,
        training=Load(tokens=100, computed=90, supervised=30, pairs=500, micro_batches=6),
        validation=Load(tokens=20, computed=20, supervised=6, pairs=100, micro_batches=3),
        largest=Load(),
        sampled_steps=5,
    )
    training = Training(is_full=False, trained_values=100, rank=RANK, recompute_layers=0, checkpoints=2)
    seconds = training_seconds(shape, workload, training, unit_rates(**rate))
    assert seconds[cause] == pytest.approx(expected)
    assert sum(seconds.values()) == pytest.approx(expected, rel=1e-6)


def test_a_checkpoint_holds_weights_moments_and_the_best() -> None:
    assert checkpoint_size(Training(False, 100, RANK, 0, has_validation=False)) == 1200
    assert checkpoint_size(Training(False, 100, RANK, 0, has_validation=True)) == 1600
