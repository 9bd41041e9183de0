"""Parameters, gradients and moments are exact; activations grow with what they are kept for."""

from __future__ import annotations

from dataclasses import replace

import torch

from hone.engine.optimizer import make_optimizer, optimizer_state
from hone.model.lora import adapter_parameters, attach_adapter
from hone.planning.cost import Training
from hone.planning.peak import PeakMemory, peak_memory
from hone.planning.shape import shape_of
from hone.planning.workload import Load
from tests.tiny import tiny_model

SHAPE = shape_of(tiny_model("llama"), context_length=256)
LORA = Training(is_full=False, trained_values=SHAPE.adapter_values(4), rank=4, recompute_layers=0, has_validation=False)
FULL = Training(True, SHAPE.num_parameters, 0, 0, has_validation=True)
LOAD = Load(tokens=4000, computed=4000, supervised=100, pairs=400_000, micro_batches=1)


def _peak(
    training: Training, load: Load = LOAD, *, value: int = 4, on_host: bool = False, adapted: int | None = None
) -> PeakMemory:
    return peak_memory(
        SHAPE,
        training,
        largest=load,
        sampled_rows=(1, 1, 1),
        bytes_per_value=value,
        process_bytes=1000,
        on_host=on_host,
        adapted_values=adapted,
    )


def test_weights_and_state_are_the_bytes_of_their_tensors() -> None:
    model = tiny_model("llama")
    weights = sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
    model.requires_grad_(False)
    attach_adapter(model, rank=4, alpha=8.0, seed=0)
    parameters = adapter_parameters(model)
    for parameter in parameters.values():
        parameter.grad = torch.ones_like(parameter)
    optimizer = make_optimizer(parameters, weight_decay=0.0)
    optimizer.step()
    moments = sum(tensor.nbytes for tensor in optimizer_state(optimizer, parameters).values() if tensor.dim())
    trained = sum(parameter.nbytes + parameter.grad.nbytes for parameter in parameters.values())  # type: ignore[union-attr]
    found = _peak(LORA)
    assert found.weights == weights
    assert found.state == trained + moments
    assert found.process == found.saving == 0


def test_state_by_hand() -> None:
    values = SHAPE.num_parameters
    # bfloat16: copy 4, gradient 4, moments 8, best 4, and a gradient in bfloat16; float32 has no copy
    assert _peak(FULL, value=2).state == values * (20 + 2)
    assert _peak(FULL, value=4).state == values * (16 + 4)
    assert _peak(replace(LORA, has_validation=True)).state == LORA.trained_values * 20


def test_on_the_host_a_few_adapted_layers_stand_beside_the_mapped_file() -> None:
    plain, host = _peak(LORA), _peak(LORA, on_host=True)
    assert 2 * SHAPE.linear_values > SHAPE.num_parameters, "most weights are adapted, and the file is let go"
    assert host.weights == plain.weights
    few = SHAPE.linear_values // 3
    assert _peak(LORA, on_host=True, adapted=few).weights - plain.weights == few * 4
    assert host.process == 1000
    assert host.saving == 8 * LORA.trained_values
    parts = host.process, host.weights, host.state, host.activations, host.saving, host.libraries
    assert host.total == sum(parts)
    assert plain.libraries == 0


def test_four_bits_take_an_eighth_of_float32() -> None:
    saved = _peak(LORA).weights - _peak(replace(LORA, is_quantized=True)).weights
    assert 0.85 * 4 * SHAPE.linear_values < saved < 0.88 * 4 * SHAPE.linear_values


def test_activations_grow_with_tokens_and_shrink_by_recomputation() -> None:
    once, twice = _peak(LORA).activations, _peak(LORA, LOAD.__add__(LOAD)).activations
    assert 1.8 * once < twice <= 2 * once
    assert _peak(replace(LORA, recompute_layers=2)).activations > 0
    deep = replace(SHAPE, num_layers=30)
    assert peak_memory(
        deep, replace(LORA, recompute_layers=30), largest=LOAD, sampled_rows=(1,), bytes_per_value=2,
        process_bytes=0, on_host=False,
    ).activations < 0.25 * peak_memory(
        deep, LORA, largest=LOAD, sampled_rows=(1,), bytes_per_value=2, process_bytes=0, on_host=False
    ).activations  # fmt: skip
