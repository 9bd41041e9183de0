"""PEFT's own methods in hone's loop: a plain loop's losses and weights, PEFT's files, the base behind the switch."""

from __future__ import annotations

import builtins
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from peft import PeftModel, get_peft_model
from safetensors.torch import load_file, save_file

from hone.errors import MissingDependencyError, ModelError, StorageError
from hone.model.adaptation import ADAPTATIONS, Adaptation, AttachOptions, attach_adaptation, load_adaptation
from hone.model.lora import adapter_disabled
from hone.model.merge import merge_and_save
from hone.model.peft_methods import PEFT_METHODS
from hone.types import AdaptationName
from tests.parity.stepping import assert_all_close, hone_steps, plain_steps
from tests.tiny import row_logits, tiny_model, tiny_tokenizer

IDS = list(range(5, 35))
RATE = 1e-3


def _ours(name: AdaptationName, family: str = "llama", layers: tuple[str, ...] | None = None) -> Adaptation:
    options = AttachOptions(rank=4, alpha=8.0, seed=5, layers=layers, originals=dict)
    return attach_adaptation(name, tiny_model(family).requires_grad_(False), options)


@pytest.mark.parametrize("name", PEFT_METHODS)
def test_three_steps_files_and_the_way_back(name: AdaptationName, tmp_path: Path) -> None:
    ours = _ours(name)
    base = row_logits(tiny_model("llama"), IDS)
    assert torch.equal(row_logits(ours.model, IDS), base), "at first it equals its base"
    start = {key: parameter.detach().clone() for key, parameter in ours.parameters().items()}
    # before any step: PEFT's own reading of the same start
    ours.save(tmp_path / "start", tokenizer=tiny_tokenizer(), base_name="tiny", notes={})
    theirs = PeftModel.from_pretrained(tiny_model("llama"), tmp_path / "start", is_trainable=True).eval()
    trainable = {
        key.removeprefix("base_model.model."): parameter
        for key, parameter in theirs.named_parameters()
        if parameter.requires_grad
    }
    assert trainable.keys() == start.keys()

    losses, _ = hone_steps(ours, tmp_path, rate=RATE)
    assert losses == pytest.approx(plain_steps(theirs, trainable.values(), rate=RATE), abs=1e-5)
    assert_all_close(ours.parameters(), trainable, bound=2e-5)
    assert all(moved and finite for moved, finite in ours.parts().values())
    tuned = row_logits(ours.model, IDS)
    assert (tuned - base).abs().max() > 1e-3
    with adapter_disabled(ours.model):
        assert torch.equal(row_logits(ours.model, IDS), base)
    assert torch.equal(row_logits(ours.model, IDS), tuned)
    assert ours.parameters().keys() == start.keys(), "what is trained is so after the switch as well"

    ours.save(tmp_path / "adapter", tokenizer=tiny_tokenizer(), base_name="tiny", notes={"base_name": "tiny"})
    in_peft = PeftModel.from_pretrained(tiny_model("llama"), tmp_path / "adapter").eval()
    torch.testing.assert_close(row_logits(in_peft, IDS), tuned, atol=1e-5, rtol=1e-5)
    again = tiny_model("llama")
    loaded = load_adaptation(again, tmp_path / "adapter")
    torch.testing.assert_close(row_logits(again, IDS), tuned, atol=1e-5, rtol=1e-5)
    with adapter_disabled(again):
        assert torch.equal(row_logits(again, IDS), base)
    merge_and_save(loaded, tiny_tokenizer(), tmp_path / "merged")
    torch.testing.assert_close(row_logits(again, IDS), tuned, atol=1e-4, rtol=1e-4)
    assert set(load_file(tmp_path / "merged" / "model.safetensors")) <= set(tiny_model("llama").state_dict())


def test_the_same_seed_gives_the_same_start_whatever_was_drawn_before() -> None:
    first = {name: tensor.detach().clone() for name, tensor in _ours("loha").parameters().items()}
    torch.rand(7)
    assert_all_close(_ours("loha").parameters(), first, bound=0.0)


@pytest.mark.parametrize("name", ["ia3", "oft", "vera"])
def test_chosen_layers_alone_are_adapted(name: AdaptationName) -> None:
    ours = _ours(name, layers=("model.layers.1.mlp",))
    assert ours.parameters()
    assert all(one.startswith("model.layers.1.mlp.") for one in ours.parameters())


def test_an_adapter_that_does_not_fit_is_refused_with_its_tensors(tmp_path: Path) -> None:
    ours = _ours("ia3")
    ours.save(tmp_path, tokenizer=tiny_tokenizer(), base_name="tiny", notes={})
    for sealed in ("manifest.json", "hone.json"):
        (tmp_path / sealed).unlink()  # an adapter of our own would be refused for its sums already
    path = tmp_path / "adapter_model.safetensors"
    tensors = load_file(path)
    dropped = sorted(tensors)[0]
    save_file({name: tensor for name, tensor in tensors.items() if name != dropped}, path, metadata={"format": "pt"})
    with pytest.raises(ModelError) as caught:
        load_adaptation(tiny_model("llama"), tmp_path)
    assert f"{dropped}: missing in the adapter" in str(caught.value)
    path.unlink()
    with pytest.raises(StorageError):
        load_adaptation(tiny_model("llama"), tmp_path)


def test_adapters_that_act_on_the_prompt_are_refused(tmp_path: Path) -> None:
    config = peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2)
    get_peft_model(tiny_model("llama"), config).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="PROMPT_TUNING adapter, which hone does not load"):
        load_adaptation(tiny_model("llama"), tmp_path)


def test_without_peft_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *given: Any, **named: Any) -> Any:
        if name == "peft":
            raise ImportError(name)
        return real(name, *given, **named)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(MissingDependencyError, match="pip install 'hone-llm\\[peft\\]'"):
        _ours("ia3")


def test_every_method_of_the_table_is_one_of_adaptation() -> None:
    assert set(PEFT_METHODS) <= set(ADAPTATIONS)
