"""A 4-bit base: what bitsandbytes' own layer gives, gradients of an adapter on it, and what it refuses."""

from __future__ import annotations

import builtins
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from hone.data.pack import pack
from hone.errors import MissingDependencyError, ModelError
from hone.model.adaptation import AttachOptions, attach_adaptation, load_adaptation
from hone.model.attention import packed_attention_enabled
from hone.model.forward import packed_logprobs
from hone.model.lora import adapter_disabled, adapter_parameters, detach_adapter, find_linear_layers
from hone.model.quantize import QuantizedLinear, QuantizedType, quantize_linear_layers
from hone.types import AdaptationName
from tests.parity.stepping import hone_steps
from tests.tiny import attach_random_adapter, row_logits, tiny_model, tiny_tokenizer, token_rows

IDS = list(range(5, 35))
KINDS: tuple[QuantizedType, ...] = ("nf4", "fp4")


def test_without_the_package_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *given: Any, **named: Any) -> Any:
        if name.startswith("bitsandbytes"):
            raise ImportError(name)
        return real(name, *given, **named)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(MissingDependencyError, match="pip install 'hone-llm\\[4bit\\]'"):
        quantize_linear_layers(tiny_model("llama"), kind="nf4", device="cpu")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_layer_is_bitsandbytes_own(kind: QuantizedType, dtype: torch.dtype) -> None:
    bitsandbytes = pytest.importorskip("bitsandbytes")
    torch.manual_seed(0)
    plain = nn.Linear(128, 96).to(dtype)
    theirs = bitsandbytes.nn.Linear4bit(128, 96, quant_type=kind, compute_dtype=dtype, compress_statistics=True)
    theirs.load_state_dict(plain.state_dict())
    theirs = theirs.to(dtype).to("cpu")
    ours = QuantizedLinear(plain, kind=kind)
    x, again = torch.randn(3, 5, 128, dtype=dtype), None
    again = x.clone().requires_grad_()
    x.requires_grad_()
    y, reference = ours(x), theirs(again)
    torch.testing.assert_close(y, reference, atol=1e-5 if dtype == torch.float32 else 2e-2, rtol=1e-2)
    y.sum().backward()
    reference.sum().backward()
    torch.testing.assert_close(x.grad, again.grad, atol=1e-5 if dtype == torch.float32 else 2e-2, rtol=1e-2)
    assert ours.packed.numel() * 2 == plain.weight.numel()
    assert (ours.weight - plain.weight).abs().max() < 0.25 * plain.weight.abs().max()


def test_an_adapter_trains_on_4_bits_as_on_the_weights_they_stand_for(tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes")
    model, unpacked = tiny_model("llama"), tiny_model("llama")
    names = find_linear_layers(unpacked)
    assert quantize_linear_layers(model, kind="nf4", device="cpu") == len(names)
    assert find_linear_layers(model) == names
    with torch.no_grad():
        for name in names:
            unpacked.get_submodule(name).weight.copy_(model.get_submodule(name).weight)
    losses = []
    for one in (model, unpacked):
        attach_random_adapter(one)
        with packed_attention_enabled(one):
            loss = -packed_logprobs(one, pack(token_rows([19, 6, 33]))).mean()
        loss.backward()
        losses.append(loss.item())
    assert losses[0] == pytest.approx(losses[1], abs=1e-6)
    wanted = adapter_parameters(unpacked)
    for name, parameter in adapter_parameters(model).items():
        torch.testing.assert_close(parameter.grad, wanted[name].grad, atol=1e-6, rtol=1e-5)
    with pytest.raises(ModelError, match="merged into a 4-bit layer"):
        detach_adapter(model, merge=True)


@pytest.mark.parametrize("name", ["lora", "dora", "pissa"])
def test_what_was_trained_on_4_bits_is_saved_and_loaded(name: AdaptationName, tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes")
    model, again = tiny_model("qwen2"), tiny_model("qwen2")
    for one in (model, again):
        quantize_linear_layers(one, kind="nf4", device="cpu")
    base = row_logits(again, IDS)
    assert (base - row_logits(tiny_model("qwen2"), IDS)).abs().max() > 1e-3
    options = AttachOptions(rank=4, alpha=4.0, seed=0, layers=None, originals=dict)
    ours = attach_adaptation(name, model, options)
    torch.testing.assert_close(row_logits(model, IDS), base, atol=0, rtol=0)
    losses, _ = hone_steps(ours, tmp_path, rate=2e-3)
    assert all(moved and finite for moved, finite in ours.parts().values())
    assert len(losses) == 3
    ours.save(tmp_path / "adapter", tokenizer=tiny_tokenizer(), base_name="tiny", notes={})
    load_adaptation(again, tmp_path / "adapter")
    torch.testing.assert_close(row_logits(again, IDS), row_logits(model, IDS), atol=1e-5, rtol=1e-5)
    with adapter_disabled(again):
        assert torch.equal(row_logits(again, IDS), base)


def test_full_fine_tuning_of_4_bits_trains_what_is_not_in_them() -> None:
    pytest.importorskip("bitsandbytes")
    model = tiny_model("llama")
    quantize_linear_layers(model, kind="nf4", device="cpu")
    assert not any("proj.weight" in name for name, _ in model.named_parameters())
