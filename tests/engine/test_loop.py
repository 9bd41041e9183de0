"""The loop: a function of (seed, step); the best weights kept; interrupted and resumed as if it never had been."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from hone.data.pack import PackedBatch, pack
from hone.engine.checkpoint import Checkpoint, checkpoint_folders, load_newest_checkpoint
from hone.engine.events import Event
from hone.engine.loop import LoopResult, LoopSettings, micro_batches, train
from hone.engine.schedule import linear_warmup_decay
from hone.engine.step import mean_loss
from hone.errors import InterruptedRunError, TrainingError
from hone.model.attention import packed_attention_enabled
from hone.model.forward import packed_logprobs
from hone.model.lora import adapter_parameters, attach_adapter
from hone.objective.supervised import supervised_loss
from tests.tiny import tiny_model, token_rows

ROWS = token_rows([19, 5, 28, 11, 9, 16, 22, 7, 13, 31], seed=1)
VALIDATION = token_rows([12, 20, 9], seed=2)
SETTINGS = LoopSettings(
    batch_size=4,
    epochs=3,
    max_steps=None,
    learning_rate=2e-3,
    warmup_share=0.2,
    weight_decay=0.01,
    max_gradient_norm=1.0,
    micro_batch_tokens=40,
    seed=5,
    evaluate_every_steps=3,
    patience=None,
    save_every_steps=2,
    keep_checkpoints=0,
)  # 3 steps an epoch, 9 in all


@dataclass
class Heard:
    """A Recorder that remembers."""

    events: list[Event] = field(default_factory=list)

    def record(self, event: Event) -> None:
        self.events.append(event)

    def data(self, *kinds: str) -> list[Mapping[str, Any]]:
        return [event.data for event in self.events if not kinds or event.kind in kinds]


@dataclass
class Run:
    """A model in training and what was heard of it."""

    model: PreTrainedModel = field(default_factory=lambda: tiny_model("llama", num_hidden_layers=1))
    heard: Heard = field(default_factory=Heard)
    seen: list[tuple[int, ...]] = field(default_factory=list)

    def __post_init__(self) -> None:
        attach_adapter(self.model, rank=4, alpha=8.0, seed=0)

    def forward(self, model: PreTrainedModel, batch: PackedBatch) -> Tensor:
        if torch.is_grad_enabled():
            self.seen.append(batch.rows)
        return packed_logprobs(model, batch)

    def validation_loss(self) -> float:
        return mean_loss(self.model, [pack(VALIDATION)], forward=packed_logprobs, objective=supervised_loss)

    def train(self, folder: Path, settings: LoopSettings = SETTINGS, **changes: Any) -> LoopResult:
        arguments: dict[str, Any] = {
            "parameters": adapter_parameters(self.model),
            "forward": self.forward,
            "objective": supervised_loss,
            "settings": settings,
            "evaluate": self.validation_loss,
            "recorder": self.heard,
            "checkpoints": folder,
            **changes,
        }
        with packed_attention_enabled(self.model):
            return train(self.model, ROWS, **arguments)

    def weights(self) -> dict[str, Tensor]:
        return {name: tensor.detach().clone() for name, tensor in adapter_parameters(self.model).items()}


def _equal(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def _losses(*losses: float) -> Callable[[], float]:
    remaining = list(losses)
    return lambda: remaining.pop(0)


def test_the_events_of_a_run(tmp_path: Path) -> None:
    run = Run()
    result = run.train(tmp_path)
    kinds = [event.kind for event in run.heard.events]
    # per step: the step, then validation where it is due, then the checkpoint where it is due; the last has all
    assert kinds == [
        "step", "step", "checkpoint", "step", "validation",
        "step", "checkpoint", "step", "step", "validation", "checkpoint",
        "step", "step", "checkpoint", "step", "validation", "checkpoint",
    ]  # fmt: skip
    steps = run.heard.data("step")
    assert [data["step"] for data in steps] == list(range(1, 10))
    assert [data["epoch"] for data in steps] == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert {data["total_steps"] for data in steps} == {9}
    rates = [linear_warmup_decay(step, total_steps=9, warmup_steps=2, peak=2e-3) for step in range(1, 10)]
    assert [data["learning_rate"] for data in steps] == rates
    assert all(data["gradient_norm"] > 0 for data in steps)
    assert [data["step"] for data in run.heard.data("validation")] == [3, 6, 9]
    assert sum(data["tokens"] for data in steps) == 3 * sum(len(row.ids) for row in ROWS) == result.progress.tokens
    supervised = 3 * sum(sum(row.supervised[1:]) for row in ROWS)
    assert sum(data["supervised_tokens"] for data in steps) == supervised == result.progress.supervised_tokens
    for event in run.heard.events:
        if event.kind == "step":
            assert set(event.timing) == {"seconds", "tokens_per_second", "seconds_left"}
        assert not {"seconds", "tokens_per_second", "seconds_left"} & set(event.data), "the clock has its own place"


def test_rows_come_in_the_order_of_seed_and_step(tmp_path: Path) -> None:
    run = Run()
    run.train(tmp_path)
    wanted = []
    for epoch in range(3):
        order = list(range(10))
        random.Random(f"hone-order-5-{epoch}").shuffle(order)
        wanted += [{ROWS[index].row for index in order[start : start + 4]} for start in (0, 4, 8)]
    found: list[set[int]] = []
    parts = iter(run.seen)
    for step in wanted:
        rows: set[int] = set()
        while len(rows) < len(step):
            rows |= set(next(parts))
        found.append(rows)
    assert found == wanted
    assert next(parts, None) is None
    assert len(run.seen) > 9, "the budget of tokens splits some steps"


def test_micro_batches_keep_to_the_budget() -> None:
    batches = micro_batches(ROWS, max_tokens=40)
    assert all(batch.num_tokens <= 40 for batch in batches)
    assert sorted(row for batch in batches for row in batch.rows) == [row.row for row in ROWS]


def test_the_size_of_micro_batches_does_not_matter(tmp_path: Path) -> None:
    runs = []
    for tokens in (1, 10_000):
        run = Run()
        run.train(tmp_path / str(tokens), replace(SETTINGS, micro_batch_tokens=tokens))
        runs.append(run)
    for name, tensor in runs[0].weights().items():
        torch.testing.assert_close(tensor, runs[1].weights()[name], atol=1e-5, rtol=1e-5)


def test_the_same_run_twice_is_the_same_to_the_bit_and_another_seed_is_another(tmp_path: Path) -> None:
    first, second, third = Run(), Run(), Run()
    first.train(tmp_path / "1" / "checkpoints")
    second.train(tmp_path / "2" / "checkpoints")
    third.train(tmp_path / "3" / "checkpoints", replace(SETTINGS, seed=6))
    assert _equal(first.weights(), second.weights())
    assert first.heard.data() == second.heard.data()
    assert not _equal(first.weights(), third.weights())


def test_training_lowers_the_loss_and_moves_every_layer(tmp_path: Path) -> None:
    run = Run()
    before = run.weights()
    run.train(tmp_path, replace(SETTINGS, epochs=8, learning_rate=5e-3), evaluate=None)
    losses = [data["loss"] for data in run.heard.data("step")]
    assert sum(losses[-3:]) / 3 < sum(losses[:3]) / 3 - 0.5
    assert all(not torch.equal(tensor, before[name]) for name, tensor in run.weights().items())


@pytest.mark.parametrize(("max_steps", "steps"), [(1, 1), (4, 4), (9, 9), (100, 9)])
def test_max_steps_bounds_the_run_and_its_schedule(tmp_path: Path, max_steps: int, steps: int) -> None:
    settings = replace(SETTINGS, max_steps=max_steps)
    run = Run()
    result = run.train(tmp_path, settings)
    assert settings.total_steps(len(ROWS)) == result.total_steps == result.progress.step == steps
    assert [data["step"] for data in run.heard.data("step")] == list(range(1, steps + 1))
    warmup = round(0.2 * steps)
    last = run.heard.data("step")[-1]["learning_rate"]
    assert last == linear_warmup_decay(steps, total_steps=steps, warmup_steps=warmup, peak=2e-3)
    assert not result.stopped_early
    assert run.heard.data("validation")[-1]["step"] == steps, "the last step is always validated"


def test_the_best_weights_are_kept(tmp_path: Path) -> None:
    run = Run()
    snapshots: list[dict[str, Tensor]] = []
    losses = _losses(2.0, 1.0, 1.5)

    def evaluate() -> float:
        snapshots.append(run.weights())
        return losses()

    result = run.train(tmp_path, evaluate=evaluate)
    assert _equal(run.weights(), snapshots[1])
    assert _equal(result.best, snapshots[1])
    assert not _equal(snapshots[1], snapshots[2]), "training went on after the best"
    assert (result.progress.best_step, result.progress.best_loss) == (6, 1.0)
    assert [(data["loss"], data["best"]) for data in run.heard.data("validation")] == [
        (2.0, True), (1.0, True), (1.5, False),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("losses", "best"),
    [
        ((1.0, 1.0, float("nan")), [True, False, False]),
        ((float("nan"), 1.0, 2.0), [False, True, False]),
        ((float("nan"), float("inf"), 7.0), [False, False, True]),
        ((float("nan"),) * 3, [False, False, False]),
    ],
)
def test_an_equal_loss_is_no_gain_and_a_broken_one_is_no_best(
    tmp_path: Path, losses: tuple[float, ...], best: list[bool]
) -> None:
    run = Run()
    result = run.train(tmp_path, evaluate=_losses(*losses))
    assert [data["best"] for data in run.heard.data("validation")] == best
    assert result.progress.best_step == (3 * (best.index(True) + 1) if any(best) else 0)


def test_a_later_loss_that_is_little_above_the_lowest_takes_its_place(tmp_path: Path) -> None:
    # a tenth above 1.0 is tolerated: 1.09 is kept, 1.2 is not, and 1.095 is measured against 1.0, not against 1.09
    run = Run()
    settings = replace(SETTINGS, evaluate_every_steps=1, tolerated_loss_rise=0.1)
    result = run.train(tmp_path, settings, evaluate=_losses(2.0, 1.0, 1.09, 1.2, 1.095, 1.1, 3.0, 3.0, 3.0))
    assert [data["best"] for data in run.heard.data("validation")] == [True] * 3 + [False, True] + [False] * 4
    progress = result.progress
    assert (progress.best_step, progress.best_loss, progress.lowest_loss) == (5, 1.095, 1.0)


def test_without_validation_the_last_weights_are_kept(tmp_path: Path) -> None:
    run = Run()
    result = run.train(tmp_path, evaluate=None)
    assert result.progress.step == 9
    assert (result.progress.best_step, result.progress.best_loss) == (0, None)
    assert _equal(result.best, run.weights())
    newest, _ = load_newest_checkpoint(tmp_path)
    assert newest is not None
    assert _equal(newest.adapter, run.weights())


@pytest.mark.parametrize(("patience", "last_step"), [(1, 2), (2, 5), (4, 7), (6, 9), (None, 9)])
def test_a_run_stops_when_validation_gains_nothing(tmp_path: Path, patience: int | None, last_step: int) -> None:
    # validated after every step: 1 is the first best, 2 is worse, 3 is better, and nothing after it
    losses = {1: 2.0, 2: 2.5, 3: 1.9, 4: 1.9, 5: 1.95, 6: 3.0, 7: 3.0, 8: 3.0, 9: 3.0}
    run = Run()
    evaluate = _losses(*losses.values())
    result = run.train(tmp_path, replace(SETTINGS, evaluate_every_steps=1, patience=patience), evaluate=evaluate)
    assert result.progress.step == last_step
    assert result.stopped_early is (last_step < 9)
    assert [data["step"] for data in run.heard.data("validation")] == list(range(1, last_step + 1))


@dataclass
class StopAfter:
    """Says stop once a number of steps was asked about."""

    steps: int

    def __call__(self) -> bool:
        self.steps -= 1
        return self.steps <= 0


def _interrupt(folder: Path, after: int, settings: LoopSettings) -> Run:
    run = Run()
    with pytest.raises(InterruptedRunError, match=f"after step {after} of"):
        run.train(folder, settings, should_stop=StopAfter(after))
    return run


def _resume(folder: Path, settings: LoopSettings) -> tuple[Run, LoopResult, Checkpoint]:
    """A fresh process's view: another model object, all that is known read from disk."""
    run = Run()
    found, damaged = load_newest_checkpoint(folder)
    assert found is not None
    assert not damaged
    torch.manual_seed(123)  # the global state has no say
    return run, run.train(folder, settings, resume_from=found), found


@pytest.mark.parametrize("after", range(1, 9))
def test_interrupted_and_resumed_equals_uninterrupted_to_the_bit(tmp_path: Path, after: int) -> None:
    whole = Run()
    whole_result = whole.train(tmp_path / "whole" / "checkpoints")

    first = _interrupt(tmp_path / "parts" / "checkpoints", after, SETTINGS)
    second, result, found = _resume(tmp_path / "parts" / "checkpoints", SETTINGS)

    assert found.progress.step == after
    assert _equal(second.weights(), whole.weights())
    assert first.heard.data() + second.heard.data() == whole.heard.data(), "not even checkpoint events differ"
    assert replace(result.progress, seconds=0.0) == replace(whole_result.progress, seconds=0.0)
    last = [load_newest_checkpoint(tmp_path / name / "checkpoints")[0] for name in ("parts", "whole")]
    assert _equal(last[0].adapter, last[1].adapter)
    assert _equal(last[0].optimizer, last[1].optimizer)
    assert _equal(last[0].best, last[1].best)


def test_interrupted_many_times_is_still_the_same(tmp_path: Path) -> None:
    whole = Run()
    whole.train(tmp_path / "whole" / "checkpoints")
    events: list[Mapping[str, Any]] = []
    found = None
    for _ in range(20):
        run = Run()
        with suppress(InterruptedRunError):
            run.train(tmp_path / "parts" / "checkpoints", resume_from=found, should_stop=StopAfter(2))
        events += run.heard.data()
        found, _ = load_newest_checkpoint(tmp_path / "parts" / "checkpoints")
        if found.progress.step == 9:
            break
    assert _equal(run.weights(), whole.weights())
    assert events == whole.heard.data()


def test_resumed_from_an_older_checkpoint_it_is_still_the_same(tmp_path: Path) -> None:
    # as when the newest was damaged: steps are done once more, and come out alike
    whole = Run()
    whole.train(tmp_path / "whole" / "checkpoints")
    _interrupt(tmp_path / "parts" / "checkpoints", 7, SETTINGS)
    newest = checkpoint_folders(tmp_path / "parts" / "checkpoints")[-1]
    (newest / "optimizer.safetensors").write_bytes(b"")
    run = Run()
    found, damaged = load_newest_checkpoint(tmp_path / "parts" / "checkpoints")
    assert found is not None
    assert (found.progress.step, len(damaged)) == (6, 1)
    run.train(tmp_path / "parts" / "checkpoints", resume_from=found)
    assert _equal(run.weights(), whole.weights())
    assert run.heard.data("step") == whole.heard.data("step")[6:]


def test_a_run_killed_in_a_step_goes_on_from_its_last_checkpoint(tmp_path: Path) -> None:
    whole = Run()
    whole.train(tmp_path / "whole" / "checkpoints")

    killed = Run()
    calls = []

    def dies(model: PreTrainedModel, batch: PackedBatch) -> Tensor:
        calls.append(1)
        if len(calls) == 14:
            raise KeyboardInterrupt
        return packed_logprobs(model, batch)

    with pytest.raises(KeyboardInterrupt):
        killed.train(tmp_path / "parts" / "checkpoints", forward=dies)
    run, _, found = _resume(tmp_path / "parts" / "checkpoints", SETTINGS)
    assert 0 < found.progress.step < 9
    assert _equal(run.weights(), whole.weights())


def test_patience_is_remembered_over_an_interruption(tmp_path: Path) -> None:
    settings = replace(SETTINGS, evaluate_every_steps=1, patience=3)
    first = Run()
    with pytest.raises(InterruptedRunError):
        first.train(tmp_path, settings, evaluate=_losses(1.0, 2.0, 2.0), should_stop=StopAfter(3))
    found, _ = load_newest_checkpoint(tmp_path)
    second = Run()
    result = second.train(tmp_path, settings, evaluate=_losses(2.0, 0.5), resume_from=found)
    assert result.stopped_early
    assert (result.progress.step, result.progress.best_step, result.progress.best_loss) == (4, 1, 1.0)
    assert found is not None
    assert _equal(second.weights(), found.best), "the best is from before the interruption"


def test_a_finished_run_resumed_does_nothing(tmp_path: Path) -> None:
    run = Run()
    run.train(tmp_path)
    again, result, found = _resume(tmp_path, SETTINGS)
    assert found.progress.step == 9
    assert result.progress.step == 9
    assert not again.heard.events
    assert _equal(again.weights(), run.weights())


def test_stopping_at_the_last_step_is_finishing(tmp_path: Path) -> None:
    result = Run().train(tmp_path, should_stop=StopAfter(9))
    assert result.progress.step == 9


@pytest.mark.parametrize(
    ("save_every", "keep", "steps"),
    [(2, 0, [2, 4, 6, 8, 9]), (2, 2, [8, 9]), (4, 1, [9]), (None, 0, [3, 6, 9]), (None, 2, [6, 9])],
)
def test_checkpoints_come_at_their_cadence_and_as_many_as_wanted_stay(
    tmp_path: Path, save_every: int | None, keep: int, steps: list[int]
) -> None:
    run = Run()
    run.train(tmp_path, replace(SETTINGS, save_every_steps=save_every, keep_checkpoints=keep))
    assert [path.name for path in checkpoint_folders(tmp_path)] == [f"step-{step:06d}" for step in steps]
    for data in run.heard.data("checkpoint"):
        assert data["path"] == f"{tmp_path.name}/step-{data['step']:06d}"


def test_a_loss_that_is_not_finite_stops_the_run_before_the_update(tmp_path: Path) -> None:
    run = Run()
    steps: list[dict[str, Tensor]] = []

    def breaks(model: PreTrainedModel, batch: PackedBatch) -> Tensor:
        steps.append(run.weights())
        logprobs_S = packed_logprobs(model, batch)
        return logprobs_S * float("nan") if len(run.heard.data("step")) == 4 else logprobs_S

    with pytest.raises(TrainingError, match="loss was nan") as caught:
        run.train(tmp_path, forward=breaks)
    assert caught.value.remedy
    assert [data["step"] for data in run.heard.data("step")] == [1, 2, 3, 4]
    assert _equal(run.weights(), steps[-1]), "the weights are those before the broken step"
    assert all(bool(torch.isfinite(tensor).all()) for tensor in run.weights().values())
    found, _ = load_newest_checkpoint(tmp_path)
    assert found is not None
    assert found.progress.step == 4


def test_the_base_is_never_touched(tmp_path: Path) -> None:
    run = Run()
    frozen = {name: tensor.clone() for name, tensor in run.model.state_dict().items() if "lora_" not in name}
    run.train(tmp_path)
    after = run.model.state_dict()
    assert frozen
    assert all(torch.equal(tensor, after[name]) for name, tensor in frozen.items())
