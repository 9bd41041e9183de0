"""The one training loop: every method is an objective over packed batches.

The loop knows no data format, no model name and no file but its checkpoints. It emits events, asks ``evaluate`` for
the validation loss, keeps the best weights, and stops early, when told to, or at the end. Several processes run it
together: each computes its part of every step, all decide alike, and the first one alone speaks and saves.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from hone.data.pack import PackedBatch, pack, plan_micro_batches, plan_steps
from hone.engine.around import AroundSteps, NothingAround
from hone.engine.checkpoint import Checkpoint, Progress, save_checkpoint
from hone.engine.events import Event, Recorder
from hone.engine.optimizer import load_optimizer_state, make_optimizer, optimizer_state
from hone.engine.parallel import ALONE, Parallel
from hone.engine.schedule import linear_warmup_decay
from hone.engine.step import Objective, StepResult, train_step
from hone.errors import InterruptedRunError
from hone.model.forward import Forward
from hone.types import TokenSequence

__all__ = ["Collate", "LoopResult", "LoopSettings", "micro_batches", "train"]

Collate = Callable[..., Sequence[PackedBatch]]
"""As :func:`micro_batches`: the rows of a step, and ``max_tokens`` of a pass, to micro-batches."""


@dataclass(frozen=True, slots=True)
class LoopSettings:
    """The plain numbers of a training loop.

    Args:
        batch_size: sequences per optimizer step.
        epochs: passes over the sequences.
        max_steps: upper bound on optimizer steps; None for none.
        learning_rate: peak of the schedule.
        warmup_share: share of all steps spent warming up.
        weight_decay: AdamW's, on all trainable tensors.
        max_gradient_norm: clipping bound on the L2 norm.
        micro_batch_tokens: real tokens of one forward and backward pass.
        seed: of the order of the sequences.
        evaluate_every_steps: steps between validations; also the cadence of checkpoints by default.
        patience: validations in a row that are not kept before the run stops; None never stops early.
        save_every_steps: steps between checkpoints; None saves at each validation.
        keep_checkpoints: how many are kept; 0 keeps all.
        tolerated_loss_rise: share of the lowest validation loss by which a later one may be above it and still take
            its place; 0 keeps the lowest.
    """

    batch_size: int
    epochs: int
    max_steps: int | None
    learning_rate: float
    warmup_share: float
    weight_decay: float
    max_gradient_norm: float
    micro_batch_tokens: int
    seed: int
    evaluate_every_steps: int
    patience: int | None
    save_every_steps: int | None
    keep_checkpoints: int
    tolerated_loss_rise: float = 0.0

    def total_steps(self, num_sequences: int, *, steps_each: int = 1) -> int:
        """Optimizer steps of the whole run.

        Args:
            num_sequences: trained on.
            steps_each: optimizer steps over the same ``batch_size`` of them.
        """
        steps = -(-num_sequences // self.batch_size) * self.epochs * steps_each
        return steps if self.max_steps is None else min(steps, self.max_steps)

    def learning_rate_at(self, step: int, total_steps: int) -> float:
        """The schedule's value for ``step``, from 1."""
        warmup_steps = round(self.warmup_share * total_steps)
        return linear_warmup_decay(step, total_steps=total_steps, warmup_steps=warmup_steps, peak=self.learning_rate)


@dataclass(frozen=True, slots=True)
class LoopResult:
    """What a finished loop gives.

    Args:
        progress: where it ended.
        total_steps: steps it had planned.
        stopped_early: validation loss had stopped falling.
        best: the weights that are kept; the last ones where nothing was validated.
        taken: indices of the sequences that a step was computed on; all, unless the steps end within the first pass.
    """

    progress: Progress
    total_steps: int
    stopped_early: bool
    best: Mapping[str, Tensor]
    taken: frozenset[int] = frozenset()


def micro_batches(sequences: Sequence[TokenSequence], *, max_tokens: int, padded: bool = False) -> list[PackedBatch]:
    """Pack ``sequences`` into batches of at most ``max_tokens`` tokens to compute (see ``plan_micro_batches``)."""
    plan = plan_micro_batches(sequences, max_tokens=max_tokens, padded=padded)
    return [pack([sequences[index] for index in indices]) for indices in plan]


def train(
    model: PreTrainedModel,
    sequences: Sequence[Any],
    *,
    parameters: Mapping[str, nn.Parameter],
    forward: Forward,
    objective: Objective,
    settings: LoopSettings,
    evaluate: Callable[[], float] | None,
    recorder: Recorder,
    checkpoints: Path,
    resume_from: Checkpoint | None = None,
    should_stop: Callable[[], bool] = lambda: False,
    rate_factors: Mapping[str, float] | None = None,
    refresh: Callable[[], None] = lambda: None,
    parallel: Parallel = ALONE,
    collate: Collate = micro_batches,
    around: AroundSteps | None = None,
) -> LoopResult:
    """Train ``parameters`` of ``model`` on ``sequences``.

    Args:
        model: in the mode and dtype it is to be trained in.
        sequences: rendered rows, each with supervised tokens; or whatever else ``collate`` packs.
        parameters: the trainable tensors by name; where they are sharded, the shards.
        forward: log-probabilities of the supervised tokens of a batch, or what else the objective takes.
        objective: the method, with ``collate``.
        settings: the numbers.
        evaluate: gives the validation loss; None where there are no validation rows.
        recorder: receives step, validation and checkpoint events, in the first process.
        checkpoints: folder for checkpoints, which the first process writes.
        resume_from: the checkpoint to go on from; the first process's counts, whatever number of them wrote it.
        should_stop: asked after each step; True in any process saves a checkpoint and stops all.
        rate_factors: factors on the learning rate by parameter name; 1 where none is given.
        refresh: called after each change of the parameters, for what the model derives from them.
        parallel: the processes of the run.
        collate: packs the rows of one step into micro-batches; called before each step.
        around: makes of the rows what is packed, and gives figures of a step; None packs them as they are.

    Returns:
        The result; ``parameters`` hold the best weights.

    Raises:
        TrainingError: loss or gradient became non-finite.
        InterruptedRunError: ``should_stop`` said so; a checkpoint was saved.
        LostProcessError: the first process could not save; raised in the others.
    """
    recorder = parallel.recorder(recorder)
    state = _LoopState(parameters, settings, recorder, checkpoints, rate_factors, parallel)
    state.restore(resume_from)
    refresh()
    around = around or NothingAround()
    each = around.steps_each
    total = settings.total_steps(len(sequences), steps_each=each)
    rows: Sequence[Any] = ()
    for step, epoch, indices in _planned(settings, len(sequences), each, after=state.progress.step):
        if step > total or state.out_of_patience:
            break
        started = time.perf_counter()
        rate = settings.learning_rate_at(step, total)
        if (step - 1) % each == 0:
            rows = around.before(step, parallel.share([sequences[index] for index in indices]))
        result = train_step(
            model, collate(rows, max_tokens=settings.micro_batch_tokens), forward=forward, objective=objective,
            parameters=list(parameters.values()), optimizer=state.optimizer, learning_rate=rate,
            max_gradient_norm=settings.max_gradient_norm, parallel=parallel,
        )  # fmt: skip
        refresh()
        seconds = time.perf_counter() - started
        state.count(step, result, seconds)
        recorder.record(_step_event(state.progress, total, epoch, rate, result, seconds, around.after(step)))
        if evaluate is not None and (step % settings.evaluate_every_steps == 0 or step == total):
            state.validate(parallel.from_first(evaluate()))
        is_whole = step % each == 0  # what a step in between trains on could not be made again from its weights
        if _is_due(step, settings.save_every_steps or settings.evaluate_every_steps, each) or step == total:
            state.save()
        if is_whole and step < total and any(parallel.everyones(should_stop())):
            state.save_unscheduled()
            raise InterruptedRunError(f"stopped after step {step} of {total}; the state is saved")
    finished = state.finish(total)
    refresh()
    steps = itertools.islice(_planned(settings, len(sequences), each, after=0), finished.progress.step)
    return replace(finished, taken=frozenset(index for _, _, indices in steps for index in indices))


def _planned(settings: LoopSettings, count: int, each: int, *, after: int) -> Iterator[tuple[int, int, list[int]]]:
    """(step, epoch, indices) of every step behind ``after``, with ``each`` steps over the same rows."""
    order = plan_steps(
        count, batch_size=settings.batch_size, epochs=settings.epochs, seed=settings.seed, start_step=after // each
    )
    for number, epoch, indices in order:
        for step in range((number - 1) * each + 1, number * each + 1):
            if step > after:
                yield step, epoch, indices


def _is_due(step: int, every: int, each: int) -> bool:
    """Whether a checkpoint is due: at every so many steps, or at the end of the rollouts in which that fell."""
    return step % each == 0 and step // every > (step - each) // every


def _step_event(
    progress: Progress, total: int, epoch: int, rate: float, result: StepResult, seconds: float,
    figures: Mapping[str, float],
) -> Event:  # fmt: skip
    left = (total - progress.step) * progress.seconds / progress.step
    return Event(
        "step",
        {
            "step": progress.step,
            "total_steps": total,
            "epoch": epoch,
            "loss": result.loss,
            "learning_rate": rate,
            "gradient_norm": result.gradient_norm,
            "tokens": result.tokens,
            "supervised_tokens": result.supervised_tokens,
            **figures,
        },
        {"seconds": seconds, "tokens_per_second": result.tokens / seconds, "seconds_left": left},
    )


class _LoopState:
    """The tensors and counters that a checkpoint holds, and where it is written."""

    def __init__(
        self,
        parameters: Mapping[str, nn.Parameter],
        settings: LoopSettings,
        recorder: Recorder,
        checkpoints: Path,
        rate_factors: Mapping[str, float] | None,
        parallel: Parallel,
    ) -> None:
        self.parameters = parameters
        self.settings = settings
        self.parallel = parallel
        self.recorder = recorder
        self.checkpoints = checkpoints
        self.optimizer = make_optimizer(parameters, weight_decay=settings.weight_decay, rate_factors=rate_factors)
        self.progress = Progress()
        self.best: dict[str, Tensor] = {}
        self.saved_step = 0

    @property
    def out_of_patience(self) -> bool:
        patience = self.settings.patience
        return patience is not None and self.progress.evaluations_without_gain >= patience

    def count(self, step: int, result: StepResult, seconds: float) -> None:
        before = self.progress
        norm = result.gradient_norm
        smallest, largest = before.smallest_gradient_norm, before.largest_gradient_norm
        self.progress = replace(
            before,
            step=step,
            tokens=before.tokens + result.tokens,
            supervised_tokens=before.supervised_tokens + result.supervised_tokens,
            seconds=before.seconds + seconds,
            smallest_gradient_norm=norm if smallest is None else min(smallest, norm),
            largest_gradient_norm=norm if largest is None else max(largest, norm),
        )

    def validate(self, loss: float) -> None:
        before = self.progress
        lowest = before.lowest_loss
        better = math.isfinite(loss) and (lowest is None or loss < lowest * (1 + self.settings.tolerated_loss_rise))
        if better:
            self.best = {name: parameter.detach().clone() for name, parameter in self.parameters.items()}
            self.progress = replace(
                before, best_step=before.step, best_loss=loss, evaluations_without_gain=0,
                lowest_loss=loss if lowest is None else min(lowest, loss),
            )  # fmt: skip
        else:
            self.progress = replace(before, evaluations_without_gain=before.evaluations_without_gain + 1)
        self.recorder.record(Event("validation", {"step": before.step, "loss": loss, "best": better}))

    def save(self) -> None:
        # the event goes first: a run killed between the two takes both back when it resumes from the step before
        step = self.progress.step
        self.recorder.record(Event("checkpoint", {"step": step, "path": f"{self.checkpoints.name}/step-{step:06d}"}))
        self.save_unscheduled()

    def save_unscheduled(self) -> None:
        """Save without an event, which an uninterrupted run would not have."""
        if self.saved_step < self.progress.step:
            full, state = self.parallel.full, optimizer_state(self.optimizer, self.parameters)
            checkpoint = Checkpoint(full(self.parameters), full(self.best), full(state), self.progress)
            keep = self.settings.keep_checkpoints
            self.parallel.first_does(lambda: save_checkpoint(self.checkpoints, checkpoint, keep=keep))
            self.saved_step = self.progress.step

    def restore(self, checkpoint: Checkpoint | None) -> None:
        """Go on from the first process's checkpoint, where it has one."""
        progress = self.parallel.from_first(checkpoint and asdict(checkpoint.progress))
        if progress is None:
            return
        found = checkpoint or Checkpoint({}, {}, {}, Progress())  # the first process sends its own
        spread = self.parallel.spread
        _copy_into(self.parameters, spread(found.adapter, self.parameters))
        load_optimizer_state(self.optimizer, self.parameters, spread(found.optimizer, self.parameters))
        self.best = spread(found.best, self.parameters)
        self.progress = Progress(**progress)
        self.saved_step = self.progress.step

    def finish(self, total_steps: int) -> LoopResult:
        if self.best:
            _copy_into(self.parameters, self.best)
        last = {name: parameter.detach().clone() for name, parameter in self.parameters.items()}
        return LoopResult(self.progress, total_steps, self.progress.step < total_steps, last)


@torch.no_grad()
def _copy_into(parameters: Mapping[str, nn.Parameter], tensors: Mapping[str, Tensor]) -> None:
    for name, parameter in parameters.items():
        parameter.copy_(tensors[name])
