"""The probe of a version: what is stored, that a right copy reproduces it, and that every change is named."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import PreTrainedModel

from hone.data.render import Renderer
from hone.errors import StorageError, TrainingError
from hone.model.attention import packed_attention_enabled
from hone.model.forward import packed_logits, padded_logits
from hone.model.lora import adapted_layers, adapter_disabled
from hone.proof.conversations import PROBE_CONVERSATIONS
from hone.proof.invariant import Invariant
from hone.proof.probe import (
    PROBE_NAMES,
    VersionProbe,
    check_version_probe,
    make_version_probe,
    read_version_probe,
    text_difference,
)
from hone.types import Example, Message
from tests.proof.subjects import FAMILIES
from tests.tiny import CHATML, attach_random_adapter, row_logits, tiny_model, tiny_tokenizer

# Renders tools and calls, as the templates of larger models do.
WITH_TOOLS = (
    "{% if tools %}{{ '<|im_start|>system\\n' }}{% for tool in tools %}{{ tool | tojson }}{% endfor %}"
    "{{ '<|im_end|>\\n' }}{% endif %}{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' }}"
    "{{ message['content'] or '' }}{% for call in message['tool_calls'] or [] %}{{ '<call>' + (call | tojson) }}"
    "{% endfor %}{{ '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
OTHER = CHATML.replace("'\n' + message['content']", "': ' + message['content']").replace(
    "assistant\n' }}{% endif %}", "assistant: ' }}{% endif %}"
)


def renderer(template: str = CHATML, max_length: int | None = None) -> Renderer:
    return Renderer(tiny_tokenizer(template), max_length=max_length)


def tuned(family: str = "llama", dtype: torch.dtype = torch.float32, seed: int = 0) -> PreTrainedModel:
    model = tiny_model(family, seed, max_position_embeddings=2048).to(dtype)
    attach_random_adapter(model)
    return model


def made(model: PreTrainedModel, template: str = CHATML) -> VersionProbe:
    with packed_attention_enabled(model):
        return make_version_probe(model, renderer(template), logits=packed_logits)


def held(probe: VersionProbe, model: PreTrainedModel, template: str = CHATML) -> Invariant:
    with packed_attention_enabled(model):
        return check_version_probe(probe, model, renderer(template), logits=packed_logits)


def stored(probe: VersionProbe, folder: Path) -> VersionProbe:
    for name, content in probe.files().items():
        (folder / name).write_bytes(content)
    found = read_version_probe(folder)
    assert found is not None
    return found


# --- what is stored ---


def test_it_holds_ids_masks_stops_and_the_text_of_the_conversations(tmp_path: Path) -> None:
    probe = stored(made(tuned()), tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(PROBE_NAMES)
    assert len(probe.conversations) == 8
    assert {one.name for one in probe.conversations} >= {"system", "turns", "tools", "tool call", "unicode"}
    assert probe.stop_ids == (2,)
    tokenizer = tiny_tokenizer()
    for (name, example), found in zip(PROBE_CONVERSATIONS, probe.conversations, strict=True):
        assert found.name == name
        if found.refused:
            continue
        turns = [{"role": one.role, "content": one.content} for one in example.messages]
        text = tokenizer.apply_chat_template(turns[:-1], tokenize=False, add_generation_prompt=True)
        assert found.text_sha256 == hashlib.sha256(text.encode()).hexdigest()
        prompt = tuple(tokenizer(text, add_special_tokens=False)["input_ids"])
        assert found.ids[: len(prompt)] == prompt
        assert found.ids[-1] == 2
        assert found.supervised[len(prompt)] == found.supervised[-1] == 1
        assert found.supervised[0] == 0


def test_it_holds_sixteen_positions_with_the_twenty_likeliest_tokens_of_both() -> None:
    """Against a plain forward pass of each conversation by itself."""
    model = tuned()
    probe = made(model)
    assert len(probe.places) == 16
    assert set(probe.tensors["tuned_ids"].shape) == {16, 20}
    for place, (row, at) in enumerate(probe.places):
        assert probe.conversations[row].supervised[at]
        logits = row_logits(model, probe.conversations[row].ids)[at - 1]
        likeliest = torch.log_softmax(logits, dim=-1).topk(20)
        torch.testing.assert_close(probe.tensors["tuned_logprobs"][place], likeliest.values, atol=1e-5, rtol=0)
        with adapter_disabled(model):
            base = torch.log_softmax(row_logits(model, probe.conversations[row].ids)[at - 1], dim=-1)
        torch.testing.assert_close(probe.tensors["base_logprobs"][place], base.topk(20).values, atol=1e-5, rtol=0)
        torch.testing.assert_close(
            probe.tensors["base_at_tuned"][place], base[probe.tensors["tuned_ids"][place]], atol=1e-5, rtol=0
        )


def test_what_a_template_cannot_render_is_said_and_the_rest_is_used() -> None:
    plain, rich = made(tuned()), made(tuned(), WITH_TOOLS)
    assert plain.refused == ["tools", "tool call"]
    assert all(one.refused for one in plain.conversations if one.name in plain.refused), "with the reason"
    assert rich.refused == []
    assert len(plain.places) == len(rich.places) == 16


def test_a_conversation_that_is_too_long_for_the_model_is_left_out() -> None:
    model = tuned()
    short = renderer(max_length=120)
    with packed_attention_enabled(model):
        probe = make_version_probe(model, short, logits=packed_logits)
        assert 0 < len(probe.refused) < 8
        assert check_version_probe(probe, model, short, logits=packed_logits).holds
        none = make_version_probe(model, renderer(max_length=4), logits=packed_logits)
        assert len(none.refused) == 8
        found = check_version_probe(none, model, renderer(max_length=4), logits=packed_logits)
    assert found.holds
    assert found.checked == "no conversation of the probe can be rendered"


# --- a right copy ---


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_right_copy_reproduces_it(family: str, dtype: torch.dtype, tmp_path: Path) -> None:
    probe = stored(made(tuned(family, dtype)), tmp_path)
    found = held(probe, tuned(family, dtype))
    assert (found.number, found.holds, found.found) == (10, True, "")
    assert found.measured == 0.0
    assert found.checked == "6 conversations, 16 positions"


@pytest.mark.parametrize("family", FAMILIES)
def test_another_kernel_and_another_type_stay_within_the_tolerance(family: str) -> None:
    probe = made(tuned(family))
    model = tuned(family)
    assert check_version_probe(probe, model, renderer(), logits=padded_logits).holds
    coarse = held(probe, tuned(family, torch.bfloat16))
    assert coarse.holds
    assert 1e-3 < coarse.measured < 0.25, "bfloat16 differs by more than float32 may"


# --- every change is found ---


def zeroed(model: PreTrainedModel) -> None:
    for _, layer in adapted_layers(model):
        layer.lora_B.zero_()


def one_layer_zeroed(model: PreTrainedModel) -> None:
    list(adapted_layers(model))[-1][1].lora_B.zero_()


def scaled_wrongly(model: PreTrainedModel) -> None:
    for _, layer in adapted_layers(model):
        layer.scaling *= 1.5


def the_base_has_changed(model: PreTrainedModel) -> None:
    model.get_output_embeddings().weight.mul_(1.1)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    "damage", [zeroed, one_layer_zeroed, scaled_wrongly, the_base_has_changed], ids=lambda damage: damage.__name__
)
def test_weights_that_are_not_those_that_were_saved_are_caught(
    family: str, damage: Callable[[PreTrainedModel], None]
) -> None:
    probe, model = made(tuned(family)), tuned(family)
    with torch.no_grad():
        damage(model)
    found = held(probe, model)
    assert not found.holds
    assert found.found.startswith("conversation 'question', token ")
    assert "log-probability" in found.found


def test_a_zeroed_adapter_is_caught_however_small_it_was() -> None:
    """A way from the base below the tolerance: the numbers agree, and yet nothing is left of it."""
    model = tuned(dtype=torch.bfloat16)
    with torch.no_grad():
        for _, layer in adapted_layers(model):
            layer.lora_B.mul_(0.02)
    probe = made(model)
    assert held(probe, model).holds
    with torch.no_grad():
        zeroed(model)
    found = held(probe, model)
    assert not found.holds
    assert found.measured < 0.25
    assert found.found == "the adapter does not change the base as it did"


def test_numbers_that_are_not_finite_stop_writing_and_reading() -> None:
    probe, model = made(tuned()), tuned()
    with torch.no_grad():
        next(adapted_layers(model))[1].lora_A[0, 0] = float("nan")
    with pytest.raises(TrainingError, match="not finite"):
        held(probe, model)
    with pytest.raises(TrainingError, match="not finite"):
        made(model)


def test_another_template_is_caught_with_its_first_token() -> None:
    found = held(made(tuned()), tuned(), OTHER)
    assert not found.holds
    assert found.found.startswith("conversation 'question', token ")
    assert "and was '\\n'" in found.found or "and was 'Ċ'" in found.found


def test_a_template_that_renders_more_than_before_is_caught() -> None:
    assert text_difference(made(tuned()), renderer(WITH_TOOLS)) == "conversation 'tools': can be rendered now"
    gone = text_difference(made(tuned(), WITH_TOOLS), renderer())
    assert gone.startswith("conversation 'tools': cannot be rendered any more: ")


def test_other_stop_tokens_are_caught() -> None:
    other = Renderer(tiny_tokenizer(), extra_stop_ids=(7,))
    assert "the tokens that end an answer are" in text_difference(made(tuned()), other)


def test_another_tokenizer_is_caught() -> None:
    class Shifted(Renderer):
        def render(self, example: Example) -> object:  # type: ignore[override]
            return super().render(
                Example((Message("user", "Hm. " + example.messages[0].content), *example.messages[1:]))
            )

    assert text_difference(made(tuned()), Shifted(tiny_tokenizer())).startswith("conversation 'question', token ")


# --- its files ---


def test_a_version_of_old_has_none(tmp_path: Path) -> None:
    assert read_version_probe(tmp_path) is None


@pytest.mark.parametrize("name", PROBE_NAMES)
@pytest.mark.parametrize("damage", ["gone", "cut", "other"])
def test_files_that_are_damaged_are_refused(tmp_path: Path, name: str, damage: str) -> None:
    stored(made(tuned()), tmp_path)
    path = tmp_path / name
    if damage == "gone":
        path.unlink()
    elif damage == "cut":
        path.write_bytes(path.read_bytes()[:100])
    else:
        path.write_text(json.dumps({"schema": 1}), encoding="utf-8")
    with pytest.raises(StorageError, match="the probe cannot be read"):
        read_version_probe(tmp_path)
