"""Each family from end to end: a folder, loaded, trained two steps, saved, loaded anew, merged, loaded again."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel

from hone.data.render import Renderer
from hone.engine.events import Event
from hone.engine.loop import LoopSettings, train
from hone.model.adapter_files import load_adapter, save_adapter
from hone.model.attention import packed_attention_enabled, supports_packing
from hone.model.forward import packed_logprobs
from hone.model.load import LoadedModel, load_base
from hone.model.lora import adapted_layers, adapter_disabled, adapter_parameters, attach_adapter, find_linear_layers
from hone.model.low_rank import LowRankAdaptation
from hone.model.merge import merge_and_save
from hone.objective.supervised import supervised_loss
from hone.types import Example, Message
from tests.tiny import FAMILIES, row_logits, save_tiny, tiny_model

SETTINGS = LoopSettings(
    batch_size=3,
    epochs=1,
    max_steps=None,
    learning_rate=1e-2,
    warmup_share=0.0,
    weight_decay=0.0,
    max_gradient_norm=1.0,
    micro_batch_tokens=64,
    seed=0,
    evaluate_every_steps=2,
    patience=None,
    save_every_steps=None,
    keep_checkpoints=1,
)  # two steps over six rows


class _Losses(list[float]):
    """A recorder of the steps' losses."""

    def record(self, event: Event) -> None:
        if event.kind == "step":
            self.append(event.data["loss"])


def _examples() -> list[Example]:
    questions = ["is the lamp lit?", "the order?", "what is the answer to this and to that?"] * 2
    return [
        Example(
            (Message("user", f"{question} {row}"), Message("assistant", "it is on the way", supervised=True)), row=row
        )
        for row, question in enumerate(questions, start=1)
    ]


def _load(folder: Path, home: Path) -> LoadedModel:
    return load_base(str(folder), home=home, device="cpu", dtype="float32", note=lambda _text: None)


def _logits(model: PreTrainedModel, renderer: Renderer) -> Tensor:
    model.set_attn_implementation("eager")
    return torch.cat([row_logits(model, renderer.render(example).sequences[0].ids) for example in _examples()])


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_from_folder_to_merged_folder(tmp_path: Path, hone_home: Path, family: str) -> None:
    base = _load(save_tiny(tmp_path / "base", family), hone_home)
    renderer = Renderer(base.tokenizer)
    model = base.model
    assert supports_packing(model)
    untouched = _logits(model, renderer)
    torch.testing.assert_close(untouched, _logits(tiny_model(family), renderer), atol=1e-5, rtol=1e-5)

    attach_adapter(model, rank=4, alpha=8.0, seed=0)
    losses = _Losses()
    with packed_attention_enabled(model):
        result = train(
            model,
            [sequence for example in _examples() for sequence in renderer.render(example).sequences],
            parameters=adapter_parameters(model),
            forward=packed_logprobs,
            objective=supervised_loss,
            settings=SETTINGS,
            evaluate=None,
            recorder=losses,
            checkpoints=tmp_path / "checkpoints",
        )
    assert result.progress.step == len(losses) == 2
    assert losses[1] < losses[0]
    assert all(bool(layer.lora_B.any()) for _, layer in adapted_layers(model)), "every layer learned"
    tuned = _logits(model, renderer)
    assert (tuned - untouched).abs().max() > 1e-3
    with adapter_disabled(model):
        assert torch.equal(_logits(model, renderer), untouched)
    save_adapter(model, tmp_path / "adapter", base_name=base.name, notes={"base_hash": base.base_hash})

    again = _load(tmp_path / "base", hone_home)
    assert again.base_hash == base.base_hash
    names = load_adapter(again.model, tmp_path / "adapter")
    assert len(names) == len(find_linear_layers(tiny_model(family)))
    assert torch.equal(_logits(again.model, renderer), tuned)

    merge_and_save(LowRankAdaptation(again.model, title="LoRA"), again.tokenizer, tmp_path / "merged")
    merged = _load(tmp_path / "merged", hone_home)
    assert merged.base_hash != base.base_hash
    assert Renderer(merged.tokenizer).template_hash == renderer.template_hash
    torch.testing.assert_close(_logits(merged.model, renderer), tuned, atol=1e-5, rtol=1e-5)
    # and whoever else reads such folders
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "merged").eval()
    torch.testing.assert_close(_logits(plain, renderer), tuned, atol=1e-5, rtol=1e-5)
