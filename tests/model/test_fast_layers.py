"""Fast layers against the model's own eager layers in float32: losses, gradients, and nothing left behind."""

from __future__ import annotations

import gc
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedModel

from hone.data.pack import PackedBatch, pack
from hone.model.attention import packed_attention_enabled
from hone.model.fast_layers import fast_layers_enabled, fast_layers_paused
from hone.model.forward import packed_logprobs, padded_logprobs
from hone.model.fused_lora import FusedLora, fuse_adapted_layers
from hone.model.lora import (
    LoraLinear,
    adapted_layers,
    adapter_disabled,
    adapter_parameters,
    attach_adapter,
    detach_adapter,
)
from hone.types import TokenSequence
from tests.tiny import FAMILIES, attach_random_adapter, save_tiny, tiny_model, token_rows

PREFIX = tuple(range(40, 62))
RAGGED = token_rows([23, 9, 31, 12])
SHARED = [
    TokenSequence(PREFIX + row.ids, (False,) * len(PREFIX) + row.supervised, row.row) for row in token_rows([9, 30, 4])
]
BATCHES = {"ragged": pack(RAGGED), "shared": pack(SHARED), "one": pack(RAGGED[:1])}


def _loss_and_gradients(model: PreTrainedModel, batch: PackedBatch, fast: bool) -> tuple[float, dict[str, Tensor]]:
    model.zero_grad()
    model.set_attn_implementation("eager")
    with fast_layers_enabled(model) if fast else nullcontext():
        if fast:
            with packed_attention_enabled(model):
                loss = -packed_logprobs(model, batch).mean()
        else:
            loss = -padded_logprobs(model, batch).mean()
        loss.backward()
    return float(loss.detach()), {name: p.grad.clone() for name, p in adapter_parameters(model).items()}


@pytest.mark.parametrize("rows", BATCHES)
@pytest.mark.parametrize("family", FAMILIES)
def test_loss_and_gradients_equal_the_eager_oracle_in_float32(family: str, rows: str) -> None:
    model = tiny_model(family)
    attach_random_adapter(model)
    loss, gradients = _loss_and_gradients(model, BATCHES[rows], True)
    expected_loss, expected = _loss_and_gradients(model, BATCHES[rows], False)
    assert loss == pytest.approx(expected_loss, abs=1e-5)
    assert len(gradients) == len(expected) > 0
    for name, gradient in gradients.items():
        assert expected[name].abs().max() > 1e-6, f"{name}: nothing to compare"
        assert _cosine(gradient, expected[name]) > 0.9999, name
        torch.testing.assert_close(gradient, expected[name], atol=1e-5, rtol=1e-3)


@pytest.mark.parametrize("family", FAMILIES)
def test_gradients_in_bfloat16_point_where_float32_does(family: str) -> None:
    model = tiny_model(family)
    attach_random_adapter(model)
    _, expected = _loss_and_gradients(model, BATCHES["ragged"], False)
    for parameter in model.parameters():
        if not parameter.requires_grad:
            parameter.data = parameter.data.to(torch.bfloat16)
    for buffer in model.buffers():
        if buffer.dtype == torch.float32 and buffer.dim() > 1:
            buffer.data = buffer.data.to(torch.bfloat16)
    least = 0.99
    if family == "gpt_oss":
        # a token near a tie goes to another expert in bfloat16, on the model's own layers as well
        _, plain = _loss_and_gradients(model, BATCHES["ragged"], False)
        least = _cosine(_joined(plain), _joined(expected)) - 0.01
    loss, gradients = _loss_and_gradients(model, BATCHES["ragged"], True)
    assert torch.isfinite(torch.tensor(loss))
    assert _cosine(_joined(gradients), _joined(expected)) > least


def _joined(gradients: dict[str, Tensor]) -> Tensor:
    return torch.cat([gradient.flatten() for gradient in gradients.values()])


def _cosine(one: Tensor, other: Tensor) -> float:
    return float(nn.functional.cosine_similarity(one.flatten().double(), other.flatten().double(), dim=0))


def test_layers_with_one_input_are_found_by_what_they_read() -> None:
    model = tiny_model("llama")
    attach_adapter(model, rank=4, alpha=8.0)
    names = {id(layer): name for name, layer in adapted_layers(model)}
    with fast_layers_enabled(model) as report:
        groups = {tuple(names[id(m)].split(".")[-1] for m in layer.fused.members) for _, layer in adapted_layers(model)}
    assert groups == {("q_proj", "k_proj", "v_proj"), ("o_proj",), ("gate_proj", "up_proj"), ("down_proj",)}
    assert (report.adapted, report.groups, report.norms, report.left) == (14, 8, 5, ())
    assert report.describe() == "14 adapted layers in 8 groups, 5 norms"


def test_norms_of_another_kind_are_left_and_named() -> None:
    model = tiny_model("gpt2")
    attach_adapter(model, rank=4, alpha=8.0)
    with fast_layers_enabled(model) as report:
        assert not any("forward" in vars(module) for module in model.modules())
    assert report.norms == 0
    assert report.groups == report.adapted == 8


def test_the_model_is_as_it_was_afterwards() -> None:
    model = tiny_model("llama")
    attach_random_adapter(model)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(RuntimeError, match="inside"), fast_layers_enabled(model):
        raise RuntimeError("inside")
    assert all(layer.fused is None for _, layer in adapted_layers(model))
    assert not any("forward" in vars(module) for module in model.modules())
    after = model.state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    storages = [p.untyped_storage().data_ptr() for n, p in model.named_parameters() if n.endswith("base.weight")]
    assert len(set(storages)) == len(storages), "every layer owns its weight again"


def test_a_pause_gives_the_plain_layers_and_takes_them_back() -> None:
    model = tiny_model("llama")
    attach_random_adapter(model)
    ids = torch.tensor([[5, 9, 2, 7, 7, 1]])
    with torch.no_grad(), fast_layers_enabled(model):
        with fast_layers_paused(model):
            assert all(layer.fused is None for _, layer in adapted_layers(model))
            plain = model(input_ids=ids).logits
        assert all(layer.fused is not None for _, layer in adapted_layers(model))
        assert any("forward" in vars(module) for module in model.modules())
        torch.testing.assert_close(model(input_ids=ids).logits, plain, atol=1e-5, rtol=1e-5)


def test_a_disabled_adapter_gives_the_base_bit_for_bit_at_initialisation() -> None:
    model = tiny_model("llama")
    attach_adapter(model, rank=4, alpha=8.0)
    with torch.no_grad(), fast_layers_enabled(model), packed_attention_enabled(model):
        tuned = packed_logprobs(model, BATCHES["ragged"])
        with adapter_disabled(model):
            assert torch.equal(packed_logprobs(model, BATCHES["ragged"]), tuned)


def test_the_strength_of_each_layer_counts() -> None:
    model = tiny_model("llama")
    attach_random_adapter(model)
    for place, (_, layer) in enumerate(adapted_layers(model)):
        layer.strength = 0.1 * place
    loss, gradients = _loss_and_gradients(model, BATCHES["ragged"], True)
    expected_loss, expected = _loss_and_gradients(model, BATCHES["ragged"], False)
    assert loss == pytest.approx(expected_loss, abs=1e-5)
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, expected[name], atol=1e-5, rtol=1e-3)


def test_a_switched_off_adapter_has_the_base_s_gradients_and_none_of_its_own() -> None:
    model = tiny_model("llama")
    attach_random_adapter(model)
    embeddings = torch.randn(1, 5, 64)
    gradients = []
    for fast in (False, True):
        inputs = embeddings.clone().requires_grad_()
        with fast_layers_enabled(model) if fast else nullcontext():
            model(inputs_embeds=inputs).logits.sum()  # lays B in
            with adapter_disabled(model):
                model(inputs_embeds=inputs).logits.square().mean().backward()
        assert inputs.grad is not None
        gradients.append(inputs.grad)
    torch.testing.assert_close(gradients[1], gradients[0], atol=1e-6, rtol=1e-4)
    assert all(parameter.grad is None for parameter in adapter_parameters(model).values())


def test_an_update_below_half_a_unit_of_the_base_s_product_is_not_lost() -> None:
    base = nn.Linear(8, 1, bias=False).to(torch.bfloat16)
    nn.init.constant_(base.weight, 12.5)
    layer = LoraLinear.from_base(base, rank=1, alpha=1.0, seed=0)
    with torch.no_grad():
        layer.lora_A.fill_(0.5)
        layer.lora_B.fill_(0.0449)
    x = torch.ones(1, 8, dtype=torch.bfloat16)
    x[0, 0] = 1.0156
    # W x = 100.195 and B A x = 0.18: bfloat16 knows 100, 100.5 and 101, and only the sum of both is nearer to 100.5
    assert layer(x).item() == 100.0
    layer.fused = FusedLora([layer])
    assert layer(x).item() == 100.5


def test_fused_for_good_and_then_merged() -> None:
    model = tiny_model("llama")
    attach_random_adapter(model)
    ids = torch.tensor([[5, 9, 2, 7, 7, 1]])
    with torch.no_grad():
        expected = model(input_ids=ids).logits
        assert len(fuse_adapted_layers(model)) == 8
        assert fuse_adapted_layers(model) == []
        with fast_layers_enabled(model) as report:
            assert (report.adapted, report.groups) == (14, 8)
        assert all(layer.fused is not None for _, layer in adapted_layers(model)), "they stay fused"
        torch.testing.assert_close(model(input_ids=ids).logits, expected, atol=1e-5, rtol=1e-5)
        detach_adapter(model, merge=True)
        torch.testing.assert_close(model(input_ids=ids).logits, expected, atol=1e-5, rtol=1e-5)
    assert all(parameter.is_contiguous() for parameter in model.parameters())


def test_one_layer_of_a_group_switched_off_alone() -> None:
    model = tiny_model("llama")
    attach_random_adapter(model)
    next(layer for _, layer in adapted_layers(model)).enabled = False
    with torch.no_grad(), packed_attention_enabled(model):
        expected = packed_logprobs(model, BATCHES["ragged"])
    with torch.no_grad(), fast_layers_enabled(model), packed_attention_enabled(model):
        torch.testing.assert_close(packed_logprobs(model, BATCHES["ragged"]), expected, atol=1e-5, rtol=1e-5)


def test_an_update_of_the_adapter_is_seen_by_the_next_forward_pass() -> None:
    model = tiny_model("llama")
    attach_adapter(model, rank=4, alpha=8.0)
    optimizer = torch.optim.AdamW(list(adapter_parameters(model).values()), lr=0.01, fused=True)
    with fast_layers_enabled(model), packed_attention_enabled(model):
        losses = []
        for _ in range(3):
            loss = -packed_logprobs(model, BATCHES["ragged"]).mean()
            losses.append(float(loss.detach()))
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
    with torch.no_grad(), packed_attention_enabled(model):
        last = -packed_logprobs(model, BATCHES["ragged"]).mean()
    # the fused update counts no versions up: a remembered factor would leave the loss where it was
    assert losses[0] > losses[1] > losses[2] > float(last)


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs Linux")
def test_weights_read_from_a_file_are_in_memory_once(tmp_path: Path) -> None:
    """Laid together, the file's own pages are let go, with every tensor that was not laid."""
    folder = save_tiny(tmp_path / "base", "llama")
    model = AutoModelForCausalLM.from_pretrained(folder)
    attach_adapter(model, rank=4, alpha=8, seed=0)
    with torch.no_grad():  # a graph would keep the weights
        before = model(input_ids=torch.tensor([[3, 4, 5]])).logits
    assert _is_mapped(folder), "transformers maps the file"
    fuse_adapted_layers(model)
    assert not _is_mapped(folder)
    torch.testing.assert_close(model(input_ids=torch.tensor([[3, 4, 5]])).logits, before)


def _is_mapped(folder: Path) -> bool:
    gc.collect()
    return str(folder) in Path("/proc/self/maps").read_text()
