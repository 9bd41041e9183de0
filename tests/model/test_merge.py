"""Merging: a plain folder whose logits are the adapter's, whole or absent."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from hone.errors import StorageError
from hone.model.lora import adapted_layers
from hone.model.low_rank import LowRankAdaptation
from hone.model.merge import merge_and_save
from tests.tiny import (
    CHATML,
    FAMILIES,
    attach_random_adapter,
    no_file_larger_than,
    row_logits,
    tiny_model,
    tiny_tokenizer,
)

IDS = list(range(5, 25))


@pytest.mark.parametrize("family", FAMILIES)
def test_the_merged_folder_gives_the_adapters_logits(tmp_path: Path, family: str) -> None:
    model = tiny_model(family)
    base = row_logits(model, IDS)
    attach_random_adapter(model)
    tuned = row_logits(model, IDS)
    assert (tuned - base).abs().max() > 1e-2

    merge_and_save(LowRankAdaptation(model, title="LoRA"), tiny_tokenizer(), tmp_path / "merged")

    assert not list(adapted_layers(model))
    torch.testing.assert_close(row_logits(model, IDS), tuned, atol=1e-5, rtol=1e-5)
    fresh = AutoModelForCausalLM.from_pretrained(tmp_path / "merged", attn_implementation="eager").eval()
    assert fresh.dtype == torch.float32
    assert fresh.state_dict().keys() == tiny_model(family).state_dict().keys()
    assert torch.equal(row_logits(fresh, IDS), row_logits(model, IDS))


def test_tokenizer_and_chat_template_travel(tmp_path: Path) -> None:
    model, tokenizer = tiny_model("llama"), tiny_tokenizer()
    attach_random_adapter(model)
    merge_and_save(LowRankAdaptation(model, title="LoRA"), tokenizer, tmp_path / "merged")
    fresh = AutoTokenizer.from_pretrained(tmp_path / "merged")
    assert fresh.chat_template == CHATML
    assert (
        fresh("<|im_start|>user\nthe lamp<|im_end|>").input_ids
        == tokenizer("<|im_start|>user\nthe lamp<|im_end|>").input_ids
    )
    names = {path.name for path in (tmp_path / "merged").iterdir()}
    assert "model.safetensors" in names
    assert not any(name.endswith((".bin", ".pt", ".pth")) for name in names)


def test_bfloat16_weights_stay_bfloat16_and_are_rounded_once(tmp_path: Path) -> None:
    model = tiny_model("llama").to(torch.bfloat16)
    attach_random_adapter(model)
    layers = dict(adapted_layers(model))
    exact = {name: layer.base.weight.double() + layer.delta().double() for name, layer in layers.items()}
    merge_and_save(LowRankAdaptation(model, title="LoRA"), tiny_tokenizer(), tmp_path / "merged")
    weights = AutoModelForCausalLM.from_pretrained(tmp_path / "merged").state_dict()
    for name, weight in exact.items():
        assert weights[f"{name}.weight"].dtype == torch.bfloat16
        assert torch.equal(weights[f"{name}.weight"], weight.to(torch.bfloat16)), name


@pytest.mark.parametrize("before", [False, True], ids=["absent", "there"])
def test_no_space_leaves_the_folder_as_it_was(tmp_path: Path, before: bool) -> None:
    model = tiny_model("llama")
    attach_random_adapter(model)
    if before:
        (tmp_path / "merged").mkdir()
        (tmp_path / "merged" / "old.txt").write_text("old", encoding="utf-8")

    with pytest.raises(StorageError), no_file_larger_than(20_000):
        merge_and_save(LowRankAdaptation(model, title="LoRA"), tiny_tokenizer(), tmp_path / "merged")
    left = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*"))
    assert left == (["merged", "merged/old.txt"] if before else [])
