"""LoRA layers: equal to the base at first, exactly what the algebra says after, gone without a trace when detached."""

from __future__ import annotations

import math
import zlib

import pytest
import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from hone.errors import ModelError
from hone.model.lora import (
    LoraLinear,
    adapted_layers,
    adapter_disabled,
    adapter_parameters,
    attach_adapter,
    detach_adapter,
    find_linear_layers,
)
from tests.tiny import FAMILIES, attach_random_adapter, row_logits, tiny_model

IDS = list(range(5, 25))
ATTENTION = ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj"]
GATED = [*ATTENTION, "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"]
# All linear layers of a block, read off each architecture by hand.
BLOCKS = {
    "llama": ("model.layers", GATED),
    "qwen2": ("model.layers", GATED),
    "qwen3": ("model.layers", GATED),
    "gemma2": ("model.layers", GATED),
    "gemma3": ("model.layers", GATED),
    "mistral": ("model.layers", GATED),
    "phi": ("model.layers", [*ATTENTION[:3], "self_attn.dense", "mlp.fc1", "mlp.fc2"]),
    "phi3": ("model.layers", ["self_attn.qkv_proj", "self_attn.o_proj", "mlp.gate_up_proj", "mlp.down_proj"]),
    "gpt2": ("transformer.h", ["attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj"]),
    "gpt_oss": ("model.layers", ATTENTION),
}


def _layer(*, conv: bool = False, dtype: torch.dtype = torch.float32) -> LoraLinear:
    torch.manual_seed(0)
    base = Conv1D(6, 10) if conv else nn.Linear(10, 6)
    nn.init.normal_(base.bias)
    layer = LoraLinear.from_base(base.to(dtype), rank=3, alpha=12.0, seed=5)
    nn.init.normal_(layer.lora_B)
    return layer


@pytest.mark.parametrize("family", FAMILIES)
def test_every_linear_layer_is_found_but_the_head(family: str) -> None:
    prefix, leaves = BLOCKS[family]
    wanted = {f"{prefix}.{block}.{leaf}" for block in range(2) for leaf in leaves}
    found = find_linear_layers(tiny_model(family))
    assert set(found) == wanted
    assert len(found) == len(wanted)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_fresh_adapter_changes_nothing_at_all(family: str) -> None:
    model = tiny_model(family)
    before = row_logits(model, IDS)
    attach_adapter(model, rank=4, alpha=8.0)
    assert torch.equal(row_logits(model, IDS), before)


@pytest.mark.parametrize("family", FAMILIES)
def test_disabling_gives_the_base_and_ends_with_the_block(family: str) -> None:
    model = tiny_model(family)
    base = row_logits(model, IDS)
    attach_random_adapter(model)
    tuned = row_logits(model, IDS)
    assert (tuned - base).abs().max() > 1e-2

    with adapter_disabled(model):
        assert torch.equal(row_logits(model, IDS), base)
    with pytest.raises(RuntimeError, match="inside"), adapter_disabled(model):
        raise RuntimeError("inside")
    assert torch.equal(row_logits(model, IDS), tuned)


def test_disabling_keeps_layers_off_that_were_off() -> None:
    model = tiny_model("llama")
    attach_random_adapter(model)
    layers = [layer for _, layer in adapted_layers(model)]
    layers[0].enabled = False
    with adapter_disabled(model):
        pass
    assert [layer.enabled for layer in layers] == [False] + [True] * (len(layers) - 1)


def test_only_the_adapter_is_trainable() -> None:
    model = tiny_model("qwen2")
    names = attach_adapter(model, rank=4, alpha=8.0)
    parameters = adapter_parameters(model)
    assert set(parameters) == {f"{name}.{half}" for name in names for half in ("lora_A", "lora_B")}
    trainable = {id(parameter) for parameter in model.parameters() if parameter.requires_grad}
    assert trainable == {id(parameter) for parameter in parameters.values()}
    assert all(parameter.dtype == torch.float32 for parameter in parameters.values())


@pytest.mark.parametrize("conv", [False, True], ids=["Linear", "Conv1D"])
@pytest.mark.parametrize("strength", [1.0, 0.25])
def test_the_forward_pass_is_the_formula(conv: bool, strength: float) -> None:
    layer = _layer(conv=conv)
    layer.strength = strength
    x = torch.randn(2, 5, 10)
    weight_OI = layer.base.weight.T if conv else layer.base.weight
    update_OI = strength * (12.0 / 3) * (layer.lora_B @ layer.lora_A)
    torch.testing.assert_close(layer.delta(), update_OI)
    expected = x @ (weight_OI + update_OI).T + layer.base.bias
    torch.testing.assert_close(layer(x), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("conv", [False, True], ids=["Linear", "Conv1D"])
def test_merging_a_layer_gives_the_sum_and_a_plain_layer(conv: bool) -> None:
    layer = _layer(conv=conv)
    layer.strength = 0.5
    x = torch.randn(4, 10)
    before, weight, update = layer(x), layer.base.weight.clone(), layer.delta()
    merged = layer.merge()
    assert type(merged) is (Conv1D if conv else nn.Linear)
    assert torch.equal(merged.weight, weight + (update.T if conv else update))
    torch.testing.assert_close(merged(x), before, atol=1e-5, rtol=1e-5)


def test_merging_into_bfloat16_rounds_once() -> None:
    layer = _layer(dtype=torch.bfloat16)
    exact = layer.base.weight.double() + layer.delta().double()
    assert torch.equal(layer.merge().weight, exact.to(torch.bfloat16))


def test_a_bfloat16_layer_keeps_its_adapter_in_float32() -> None:
    layer = _layer(dtype=torch.bfloat16)
    assert layer.lora_A.dtype == layer.lora_B.dtype == torch.float32
    out = layer(torch.randn(3, 10, dtype=torch.bfloat16))
    assert out.dtype == torch.bfloat16
    out.float().sum().backward()
    assert layer.lora_A.grad.dtype == layer.lora_B.grad.dtype == torch.float32


def test_detaching_with_and_without_the_update() -> None:
    model = tiny_model("gpt2")
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    base = row_logits(model, IDS)
    attach_random_adapter(model)
    detach_adapter(model, merge=False)
    assert model.state_dict().keys() == weights.keys()
    assert all(torch.equal(tensor, weights[name]) for name, tensor in model.state_dict().items())

    attach_random_adapter(model)
    tuned = row_logits(model, IDS)
    detach_adapter(model, merge=True)
    assert not list(adapted_layers(model))
    assert model.state_dict().keys() == weights.keys()
    torch.testing.assert_close(row_logits(model, IDS), tuned, atol=1e-5, rtol=1e-5)
    assert (row_logits(model, IDS) - base).abs().max() > 1e-2


def test_a_layer_is_drawn_from_the_seed_and_its_name_alone() -> None:
    model = tiny_model("llama")
    names = find_linear_layers(model)
    attach_adapter(model, rank=4, alpha=8.0, seed=7)
    whole = {name: tensor.detach().clone() for name, tensor in adapter_parameters(model).items()}

    for chosen in ([*reversed(names)], names[3:5]):
        other = tiny_model("llama")
        torch.manual_seed(99)  # the global state has no say
        attach_adapter(other, rank=4, alpha=8.0, seed=7, layers=chosen)
        found = adapter_parameters(other)
        assert len(found) == 2 * len(chosen)
        assert all(torch.equal(tensor, whole[name]) for name, tensor in found.items())

    other = tiny_model("llama")
    attach_adapter(other, rank=4, alpha=8.0, seed=8)
    assert not any(
        torch.equal(tensor, whole[name]) for name, tensor in adapter_parameters(other).items() if "lora_A" in name
    )


def test_the_start_is_peft_s_distribution() -> None:
    layer = LoraLinear.from_base(nn.Linear(64, 8), rank=64, alpha=1.0, seed=zlib.crc32(b"0:name"))
    start = layer.lora_A.detach()
    bound = 1 / math.sqrt(64)
    assert start.abs().max() <= bound
    # uniform in (-bound, bound): its deviation is bound / sqrt(3); 4096 draws are within 5 %
    assert float(start.std()) == pytest.approx(bound / math.sqrt(3), rel=0.05)
    assert abs(float(start.mean())) < 0.05 * bound
    assert not layer.lora_B.any()


def test_layers_of_one_shape_start_differently() -> None:
    model = tiny_model("llama")
    attach_adapter(model, rank=4, alpha=8.0)
    starts = [layer.lora_A.detach() for _, layer in adapted_layers(model)]
    same = [
        (first, second)
        for first in range(len(starts))
        for second in range(first)
        if starts[first].shape == starts[second].shape and torch.equal(starts[first], starts[second])
    ]
    assert not same


def test_layers_that_cannot_be_wrapped_are_all_named() -> None:
    model = tiny_model("llama")
    wrong = ["model.layers.0.self_attn.qkv_proj", "model.norm"]
    with pytest.raises(ModelError) as caught:
        attach_adapter(model, rank=4, alpha=8.0, layers=["model.layers.0.self_attn.q_proj", *wrong])
    assert list(caught.value.details) == wrong
    assert not list(adapted_layers(model)), "nothing is wrapped where something is wrong"
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_a_model_without_linear_layers_is_refused() -> None:
    with pytest.raises(ModelError, match="no linear layer"):
        attach_adapter(nn.Sequential(nn.LayerNorm(4)), rank=4, alpha=8.0)
