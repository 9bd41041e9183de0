"""What is checked after training: it holds on five architectures, and each planted fault is caught by its number."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import PreTrainedModel

from hone.engine.checkpoint import Progress
from hone.engine.events import Event
from hone.engine.loop import LoopSettings, train
from hone.errors import TrainingError
from hone.model.adapter_files import load_adapter, save_adapter
from hone.model.attention import packed_attention_enabled
from hone.model.forward import packed_logprobs, padded_logprobs
from hone.model.generate import SamplingSettings, generate
from hone.model.lora import adapted_layers, adapter_disabled, adapter_parameters, attach_adapter
from hone.model.low_rank import LowRankAdaptation
from hone.objective.supervised import supervised_loss
from hone.proof.invariant import Invariant
from hone.proof.postflight import check_probe, check_stops, check_training, probe_sequences, write_probe
from hone.types import TokenSequence
from tests.proof.subjects import FAMILIES, Subject, subject
from tests.tiny import attach_random_adapter, row_logits, tiny_model

SETTINGS = LoopSettings(
    batch_size=4, epochs=20, max_steps=None, learning_rate=2e-2, warmup_share=0.1, weight_decay=0.0,
    max_gradient_norm=1.0, micro_batch_tokens=200, seed=0, evaluate_every_steps=1000, patience=None,
    save_every_steps=None, keep_checkpoints=1,
)  # fmt: skip


class _Unheard:
    def record(self, event: Event) -> None:
        """Nothing is kept."""


@dataclass(frozen=True)
class Trained:
    """A trained model and the files that a run leaves of it."""

    family: str
    subject: Subject
    progress: Progress
    adapter: Path
    probe: Path

    @property
    def model(self) -> PreTrainedModel:
        return self.subject.model

    def reloaded(self, adapter: Path | None = None, **overrides: int) -> PreTrainedModel:
        """The base built anew, with the adapter read from its files."""
        model = tiny_model(self.family, **overrides)
        load_adapter(model, adapter or self.adapter)
        return model


def trained_in(folder: Path, family: str) -> Trained:
    one = subject(family)
    attach_adapter(one.model, rank=8, alpha=16.0, seed=0)
    with packed_attention_enabled(one.model):
        result = train(
            one.model, one.sequences, parameters=adapter_parameters(one.model), forward=packed_logprobs,
            objective=supervised_loss, settings=SETTINGS, evaluate=None, recorder=_Unheard(),
            checkpoints=folder / "checkpoints",
        )  # fmt: skip
        save_adapter(one.model, folder / "adapter", base_name=family, notes={})
        write_probe(folder / "probe", one.model, probe_sequences(one.sequences), forward=packed_logprobs)
    return Trained(family, one, result.progress, folder / "adapter", folder / "probe")


@pytest.fixture(scope="module", params=FAMILIES)
def trained(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """Trained until it answers its own rows; tests leave it as it is."""
    return trained_in(tmp_path_factory.mktemp(request.param), request.param)


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    return trained_in(tmp_path_factory.mktemp("llama"), "llama")


# --- invariant 9: something was learned, everywhere, and it is finite ---


def after_training(model: PreTrainedModel, smallest: float | None = 0.5, largest: float | None = 2.0) -> Invariant:
    parts = LowRankAdaptation(model, title="LoRA").parts()
    return check_training(parts, smallest_gradient_norm=smallest, largest_gradient_norm=largest)


def test_training_holds_on_every_architecture(trained: Trained) -> None:
    progress = trained.progress
    found = after_training(trained.model, progress.smallest_gradient_norm, progress.largest_gradient_norm)
    assert (found.number, found.holds, found.measured) == (9, True, 0)
    assert found.checked == f"{len(list(adapted_layers(trained.model)))} layers"


def test_an_adapter_that_was_never_trained_is_caught() -> None:
    model = tiny_model("llama")
    attach_adapter(model, rank=4, alpha=8.0)
    found = after_training(model)
    assert not found.holds
    assert found.measured == 14


@pytest.mark.parametrize("value", [0.0, float("nan"), float("inf")])
def test_one_layer_that_did_not_move_or_is_not_finite_is_caught(value: float) -> None:
    model = tiny_model("llama")
    attach_random_adapter(model)
    assert after_training(model).holds
    _, layer = list(adapted_layers(model))[5]
    with torch.no_grad():
        layer.lora_B.fill_(value)
    found = after_training(model)
    assert not found.holds
    assert found.measured >= 1


def test_an_update_that_overflows_is_caught() -> None:
    """A and B are finite, and their product is not."""
    model = tiny_model("llama")
    attach_random_adapter(model)
    _, layer = next(adapted_layers(model))
    with torch.no_grad():
        layer.lora_A.fill_(1e30)
        layer.lora_B.fill_(1e30)
    assert not after_training(model).holds


@pytest.mark.parametrize(
    ("smallest", "largest"),
    [(0.0, 1.0), (None, None), (0.1, float("inf")), (0.1, float("nan")), (float("nan"), 1.0)],
    ids=["a zero gradient", "no step", "infinite", "nan", "nan at the least"],
)
def test_gradients_that_were_zero_missing_or_not_finite_are_caught(
    smallest: float | None, largest: float | None
) -> None:
    model = tiny_model("llama")
    attach_random_adapter(model)
    assert not after_training(model, smallest, largest).holds


# --- invariant 10: the files hold what was in memory ---


def probed(one: Trained, model: PreTrainedModel, *, reference: bool = False) -> Invariant:
    if reference:
        return check_probe(one.probe, model, forward=padded_logprobs)
    with packed_attention_enabled(model):
        return check_probe(one.probe, model, forward=packed_logprobs)


def test_the_probe_holds_on_every_architecture(trained: Trained) -> None:
    found = probed(trained, trained.reloaded())
    assert (found.number, found.holds) == (10, True)
    assert found.measured < 1e-6
    assert found.checked.endswith("tokens of 3 rows")


def test_the_probe_holds_on_the_reference_path_within_its_bound(trained: Trained) -> None:
    assert probed(trained, trained.reloaded(), reference=True).holds


def test_the_probe_holds_what_a_plain_forward_of_each_row_gives(llama: Trained) -> None:
    """An independent reading of the file: row by row, without packing."""
    probe = load_file(llama.probe)
    rows = probe_sequences(llama.subject.sequences)
    assert probe["lengths"].tolist() == [len(row.ids) for row in rows]
    assert probe["ids"].tolist() == [token for row in rows for token in row.ids]
    model = llama.reloaded()
    for key in ("tuned", "base"):
        expected = []
        for row in rows:
            if key == "base":
                with adapter_disabled(model):
                    logprobs = torch.log_softmax(row_logits(model, row.ids), dim=-1)
            else:
                logprobs = torch.log_softmax(row_logits(model, row.ids), dim=-1)
            expected += [logprobs[at - 1, row.ids[at]] for at in range(1, len(row.ids)) if row.supervised[at]]
        torch.testing.assert_close(probe[key], torch.stack(expected), atol=1e-5, rtol=0)


def test_the_probe_reads_a_short_a_middle_and_the_longest_row() -> None:
    rows = [TokenSequence((5,) * length, (True,) * length, row=length) for length in (9, 3, 7, 5)]
    assert [row.row for row in probe_sequences(rows)] == [3, 7, 9]
    assert probe_sequences(rows[:1]) == rows[:1]


def zeroed(model: PreTrainedModel) -> None:
    for _, layer in adapted_layers(model):
        layer.lora_B.zero_()


def one_layer_zeroed(model: PreTrainedModel) -> None:
    list(adapted_layers(model))[-1][1].lora_B.zero_()


def scaled_wrongly(model: PreTrainedModel) -> None:
    """As where alpha / r is read as alpha / sqrt(r)."""
    for _, layer in adapted_layers(model):
        layer.scaling *= 1.25


def a_value_is_nan(model: PreTrainedModel) -> None:
    list(adapted_layers(model))[3][1].lora_A[0, 0] = float("nan")


def the_base_has_changed(model: PreTrainedModel) -> None:
    model.get_output_embeddings().weight.mul_(1.1)


@pytest.mark.parametrize(
    "damage", [zeroed, one_layer_zeroed, scaled_wrongly, the_base_has_changed], ids=lambda damage: damage.__name__
)
def test_what_was_damaged_on_the_way_is_caught(trained: Trained, damage: Callable[[PreTrainedModel], None]) -> None:
    model = trained.reloaded()
    with torch.no_grad():
        damage(model)
    assert not probed(trained, model).holds


def test_another_adapter_is_caught(trained: Trained, tmp_path: Path) -> None:
    other = tiny_model(trained.family)
    attach_random_adapter(other, rank=8, alpha=16.0, seed=5)
    save_adapter(other, tmp_path, base_name="other", notes={})
    found = probed(trained, trained.reloaded(tmp_path))
    assert not found.holds
    assert found.measured > 0.1


def test_another_base_is_caught(trained: Trained) -> None:
    assert not probed(trained, trained.reloaded(seed=1)).holds


def test_an_adapter_that_does_nothing_is_caught(tmp_path: Path) -> None:
    """It gives what it gave in memory, to the last bit, and that is what the base gives: a no-op."""
    one = subject("llama")
    attach_adapter(one.model, rank=4, alpha=8.0)
    with packed_attention_enabled(one.model):
        write_probe(tmp_path / "probe", one.model, one.sequences[:3], forward=packed_logprobs)
        found = check_probe(tmp_path / "probe", one.model, forward=packed_logprobs)
    assert found.measured == 0.0
    assert not found.holds


def test_a_small_change_is_still_told_from_the_base(tmp_path: Path) -> None:
    """Three steps at a low learning rate move the log-probabilities by less than the bound: that is no damage."""
    one = subject("llama")
    attach_random_adapter(one.model)
    with torch.no_grad():
        for _, layer in adapted_layers(one.model):
            layer.lora_B.mul_(1e-4)
    with packed_attention_enabled(one.model):
        write_probe(tmp_path / "probe", one.model, one.sequences[:3], forward=packed_logprobs)
        assert check_probe(tmp_path / "probe", one.model, forward=packed_logprobs).holds
        with adapter_disabled(one.model):
            assert not check_probe(tmp_path / "probe", one.model, forward=packed_logprobs).holds


def test_weights_that_are_not_finite_stop_the_writing_and_the_reading(llama: Trained, tmp_path: Path) -> None:
    model = llama.reloaded()
    with torch.no_grad():
        a_value_is_nan(model)
    with pytest.raises(TrainingError, match="not finite"):
        probed(llama, model)
    with packed_attention_enabled(model), pytest.raises(TrainingError, match="not finite"):
        write_probe(tmp_path / "probe", model, llama.subject.sequences[:3], forward=packed_logprobs)
    assert list(tmp_path.iterdir()) == []


# --- invariant 12: it ends its answers ---


def stopped_of(one: Trained, model: PreTrainedModel) -> list[bool]:
    prompts = [one.subject.renderer.prompt(example.messages[:1]) for example in one.subject.examples]
    answers = generate(
        model, prompts, stop_ids=one.subject.renderer.stop_ids, settings=SamplingSettings(max_new_tokens=24)
    )
    return [answer.stopped for answer in answers]


def test_a_trained_model_ends_its_answers_on_every_architecture(trained: Trained) -> None:
    found = check_stops(stopped_of(trained, trained.model))
    assert (found.number, found.holds, found.measured) == (12, True, 1.0)
    assert found.checked == "8 held-out answers"


def test_a_model_that_never_stops_is_caught(trained: Trained) -> None:
    """The same model without its adapter: random weights ramble until the limit."""
    with adapter_disabled(trained.model):
        found = check_stops(stopped_of(trained, trained.model))
    assert not found.holds
    assert found.measured < 0.5


def test_nine_of_ten_is_the_bound() -> None:
    assert check_stops([True] * 9 + [False]).holds
    assert not check_stops([True] * 8 + [False] * 2).holds
    assert check_stops([False] * 4).measured == 0.0


def test_where_no_step_had_a_gradient_no_rate_is_blamed() -> None:
    found = check_training({"a": (False, True)}, smallest_gradient_norm=0.0, largest_gradient_norm=0.0)
    assert not found.holds
    assert "learning-rate" not in found.remedy
    assert "rollouts.jsonl" in found.remedy
