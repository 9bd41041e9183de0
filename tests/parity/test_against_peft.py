"""PEFT reads what hone writes, hone reads what PEFT writes, and both compute the same logits, losses and gradients."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftConfig, PeftModel, get_peft_model
from torch import Tensor
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from hone.data.pack import pack
from hone.errors import ModelError
from hone.model.adapter_files import load_adapter, save_adapter
from hone.model.attention import packed_attention_enabled
from hone.model.forward import packed_logprobs
from hone.model.lora import (
    adapted_layers,
    adapter_parameters,
    attach_adapter,
    detach_adapter,
    find_linear_layers,
)
from tests.tiny import FAMILIES, attach_random_adapter, row_logits, tiny_model, token_rows

IDS = list(range(5, 35))
ROWS = token_rows([19, 6, 1, 33, 18])


def _peft_adapter(family: str, **options: object) -> tuple[PeftModel, PreTrainedModel]:
    """(model with a PEFT adapter whose B is not zero, the plain base)."""
    base = tiny_model(family)
    fan_in_fan_out = any(isinstance(module, Conv1D) for module in base.modules())
    settings: dict[str, object] = {
        "r": 4,
        "lora_alpha": 8,
        "target_modules": "all-linear",
        "task_type": "CAUSAL_LM",
        "fan_in_fan_out": fan_in_fan_out,
        **options,
    }
    torch.manual_seed(0)
    model = get_peft_model(base, LoraConfig(**settings)).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1)
    return model, tiny_model(family)


@pytest.mark.parametrize("family", FAMILIES)
def test_peft_loads_what_hone_saved_and_gives_the_same_logits(tmp_path: Path, family: str) -> None:
    model = tiny_model(family)
    attach_random_adapter(model, rank=3, alpha=7.0)
    save_adapter(model, tmp_path, base_name="tiny", notes={})

    theirs = PeftModel.from_pretrained(tiny_model(family), tmp_path).eval()

    wrapped = [name for name, module in theirs.named_modules() if hasattr(module, "lora_A")]
    assert len(wrapped) == len(find_linear_layers(tiny_model(family))), "not one layer more, not one less"
    logits, base = row_logits(model, IDS), row_logits(tiny_model(family), IDS)
    assert (logits - base).abs().max() > 1e-2
    torch.testing.assert_close(row_logits(theirs, IDS), logits, atol=1e-5, rtol=1e-5)
    # and once merged by PEFT, too
    torch.testing.assert_close(row_logits(theirs.merge_and_unload(), IDS), logits, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_hone_loads_what_peft_saved_and_gives_the_same_logits(tmp_path: Path, family: str) -> None:
    theirs, model = _peft_adapter(family)
    theirs.save_pretrained(tmp_path)
    names = load_adapter(model, tmp_path)
    assert set(names) == set(find_linear_layers(tiny_model(family)))
    torch.testing.assert_close(row_logits(model, IDS), row_logits(theirs, IDS), atol=1e-5, rtol=1e-5)
    detach_adapter(model, merge=True)
    torch.testing.assert_close(row_logits(model, IDS), row_logits(theirs, IDS), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_an_adapter_on_some_layers_goes_both_ways(tmp_path: Path, family: str) -> None:
    block = "model.layers.1.self_attn" if family == "llama" else "transformer.h.1.attn"
    leaf = "q_proj" if family == "llama" else "c_attn"
    model = tiny_model(family)
    attach_adapter(model, rank=2, alpha=4.0, layers=[f"{block}.{leaf}"])
    with torch.no_grad():
        for _, layer in adapted_layers(model):
            layer.lora_B.normal_(std=0.3)
    save_adapter(model, tmp_path / "ours", base_name="tiny", notes={})
    theirs = PeftModel.from_pretrained(tiny_model(family), tmp_path / "ours").eval()
    assert sum(hasattr(module, "lora_A") for module in theirs.modules()) == 1
    torch.testing.assert_close(row_logits(theirs, IDS), row_logits(model, IDS), atol=1e-5, rtol=1e-5)

    theirs.save_pretrained(tmp_path / "theirs")
    again = tiny_model(family)
    assert load_adapter(again, tmp_path / "theirs") == [f"{block}.{leaf}"]
    torch.testing.assert_close(row_logits(again, IDS), row_logits(model, IDS), atol=1e-5, rtol=1e-5)


def test_a_bfloat16_base_gives_peft_s_logits(tmp_path: Path) -> None:
    model = tiny_model("llama").to(torch.bfloat16)
    attach_random_adapter(model)
    save_adapter(model, tmp_path, base_name="tiny", notes={})
    theirs = PeftModel.from_pretrained(tiny_model("llama").to(torch.bfloat16), tmp_path).eval()
    exact = tiny_model("llama")
    load_adapter(exact, tmp_path)
    logits, reference, truth = (row_logits(one, IDS).float() for one in (model, theirs, exact))
    assert (logits - truth).abs().mean() < 0.02 * truth.abs().max()
    assert (logits - truth).abs().mean() < 1.5 * (reference - truth).abs().mean(), "no worse than PEFT in bfloat16"


def test_the_config_is_one_that_peft_understands_whole(tmp_path: Path) -> None:
    model = tiny_model("llama")
    attach_random_adapter(model, rank=3, alpha=7.5)
    save_adapter(model, tmp_path, base_name="org/base", notes={})
    config = PeftConfig.from_pretrained(tmp_path)
    assert isinstance(config, LoraConfig)
    assert (config.r, config.lora_alpha, config.base_model_name_or_path) == (3, 7.5, "org/base")
    assert (config.bias, config.lora_dropout, config.use_rslora, config.use_dora) == ("none", 0.0, False, False)
    unknown = set(json.loads((tmp_path / "adapter_config.json").read_text(encoding="utf-8"))) - set(vars(config))
    assert not unknown


def _copied_into_peft(model: PreTrainedModel, family: str) -> PeftModel:
    """PEFT on a fresh base, with the very numbers of hone's adapter."""
    theirs, _ = _peft_adapter(family)
    parameters = dict(theirs.named_parameters())
    with torch.no_grad():
        for name, layer in adapted_layers(model):
            parameters[f"base_model.model.{name}.lora_A.default.weight"].copy_(layer.lora_A)
            parameters[f"base_model.model.{name}.lora_B.default.weight"].copy_(layer.lora_B)
    return theirs


@pytest.mark.parametrize("family", FAMILIES)
def test_loss_and_every_gradient_equal_transformers_with_peft(family: str) -> None:
    model = tiny_model(family)
    attach_random_adapter(model)
    theirs = _copied_into_peft(model, family)
    longest = max(len(row.ids) for row in ROWS)
    padding = [longest - len(row.ids) for row in ROWS]
    labels = [
        [*(token if flag else -100 for token, flag in zip(row.ids, row.supervised, strict=True)), *[-100] * pad]
        for row, pad in zip(ROWS, padding, strict=True)
    ]
    supervised = sum(label != -100 for row in labels for label in row[1:])
    # transformers' own loss, with its own shift, mask and division
    loss = theirs(
        input_ids=torch.tensor([[*row.ids, *[0] * pad] for row, pad in zip(ROWS, padding, strict=True)]),
        attention_mask=torch.tensor([[1] * len(row.ids) + [0] * pad for row, pad in zip(ROWS, padding, strict=True)]),
        labels=torch.tensor(labels),
        num_items_in_batch=supervised,
        use_cache=False,
    ).loss
    loss.backward()

    batch = pack(ROWS)
    assert batch.num_supervised == supervised
    with packed_attention_enabled(model):
        ours: Tensor = -packed_logprobs(model, batch).mean()
    ours.backward()

    assert float(ours.detach()) == pytest.approx(float(loss.detach()), abs=1e-5)
    parameters = dict(theirs.named_parameters())
    for name, parameter in adapter_parameters(model).items():
        layer, _, half = name.rpartition(".")
        reference = parameters[f"base_model.model.{layer}.{half}.default.weight"].grad
        assert reference.abs().max() > 1e-5, f"{name}: nothing to compare"
        torch.testing.assert_close(
            parameter.grad, reference, atol=1e-5, rtol=1e-5, msg=lambda text, n=name: f"{n}: {text}"
        )


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"rank_pattern": {"q_proj": 2}}, "rank_pattern"),
        ({"alpha_pattern": {"q_proj": 2}}, "alpha_pattern"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights"),
        ({"init_lora_weights": "olora"}, "init_lora_weights"),
        ({"bias": "lora_only"}, "bias"),
        ({"alora_invocation_tokens": [5, 6]}, "alora_invocation_tokens"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_kinds_that_plain_lora_cannot_reproduce_are_refused(
    tmp_path: Path, options: dict[str, object], named: str
) -> None:
    theirs, model = _peft_adapter("qwen2", **options)
    theirs.save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=named):
        load_adapter(model, tmp_path)
    assert not list(adapted_layers(model))


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"modules_to_save": ["lm_head"]}, "lm_head.weight: the model has no such linear layer"),
        ({"target_modules": ["embed_tokens", "q_proj"]}, "embed_tokens.lora_embedding_A"),
        ({"lora_bias": True}, "lora_bias"),
    ],
    ids=["modules-to-save", "embeddings", "lora-bias"],
)
def test_weights_beside_the_linear_layers_are_never_dropped_in_silence(
    tmp_path: Path, options: dict[str, object], named: str
) -> None:
    theirs, model = _peft_adapter("llama", **options)
    theirs.save_pretrained(tmp_path)
    with pytest.raises(ModelError) as caught:
        load_adapter(model, tmp_path)
    assert named in str(caught.value)
    assert not list(adapted_layers(model))


def test_an_adapter_for_the_head_works_where_peft_put_it_there(tmp_path: Path) -> None:
    theirs, model = _peft_adapter("llama", target_modules=["q_proj", "lm_head"])
    theirs.save_pretrained(tmp_path, save_embedding_layers=False)
    assert "lm_head" in load_adapter(model, tmp_path)
    torch.testing.assert_close(row_logits(model, IDS), row_logits(theirs, IDS), atol=1e-5, rtol=1e-5)
