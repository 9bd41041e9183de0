"""What a run will take, before it trains: predicted, refused where it cannot fit, and compared with what it took."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from hone.config.schema import TrainConfig
from hone.engine.events import Recorder, Tee
from hone.engine.loop import LoopResult
from hone.errors import ConfigError
from hone.files import write_json
from hone.model.attention import supports_packing
from hone.model.load import LoadedModel
from hone.model.machine import peak_device_memory_bytes, peak_memory_bytes
from hone.planning.choose import TrainingChoices
from hone.planning.cost import training_seconds
from hone.planning.estimate import Estimate, Place
from hone.planning.history import error_margin, read_history, record_outcome
from hone.planning.machines import THIS_MACHINE, read_machines
from hone.planning.rates import Rates, machine_key, measured_rates, rough_rates
from hone.planning.shape import ModelShape, shape_of
from hone.recipe.planned_rollouts import (
    PlannedRollouts,
    WrittenAnswers,
    is_planned_method,
    kept_answers,
    planned_rollouts,
)
from hone.recipe.planner import PLANNED_ADAPTATIONS, Planner
from hone.recipe.rows import PreparedRows
from hone.registry.runs import SEED_RUN, RunFolder
from hone.types import JsonDict, TokenSequence

__all__ = ["RunPlan", "does_not_fit", "plan_run", "rates_for"]

# A smaller model trains in the seconds that a measurement of the machine takes.
_LEAST_MEASURED_PARAMETERS = 20_000_000


def rates_for(shape: ModelShape, *, home: Path, device: str, dtype: torch.dtype, note: Callable[[str], None]) -> Rates:
    """Measured rates of this machine; rough ones for a model that is not worth the measurement."""
    if shape.num_parameters < _LEAST_MEASURED_PARAMETERS:
        return rough_rates(device, dtype)
    return measured_rates(home=home, device=device, dtype=dtype, note=note)


@dataclass(frozen=True, slots=True)
class RunPlan:
    """A run's prediction, to be compared with what it takes.

    Args:
        estimate: the prediction.
        key: see :meth:`Planner.key_of`.
        process_bytes: that the process held before it loaded the base.
        home: hone's home folder.
        folder: the run's.
        device: that it computes on.
        planner: that predicted it.
        config: the options.
        choices: the numbers that are used.
        heard: the answers that the run writes.
    """

    estimate: Estimate
    key: str
    process_bytes: int
    home: Path
    folder: RunFolder
    device: str
    planner: Planner
    config: TrainConfig
    choices: TrainingChoices
    heard: WrittenAnswers = field(default_factory=WrittenAnswers)

    def hearing(self, recorder: Recorder) -> Recorder:
        """``recorder``, and beside it what the comparison needs of the answers that are written.

        Args:
            recorder: of the run.
        """
        return Tee(recorder, self.heard)

    def compare(self, result: LoopResult, *, seconds: float, grading_seconds: float = 0.0) -> JsonDict:
        """Write what was predicted and what it took to the run's ``plan.json``, and of a first seed to the history.

        Args:
            result: of the training; where it stopped early, the prediction counts for the steps that were done.
            seconds: that the training loop took.
            grading_seconds: of these, what the user's own rewards took, which nobody predicts.

        Returns:
            ``predicted`` and ``actual``, for the run's result.
        """
        foreseen, steps = self.estimate, result.progress.step
        done = steps / max(1, foreseen.workload.steps)
        formula = foreseen.formula_seconds * done
        own: JsonDict = {}
        if self.planner.rollouts is not None:
            formula, own = self._of_answers(self.planner.rollouts, steps)
            own["grading_seconds"] = round(grading_seconds, 3)
        on_card = torch.device(self.device).type == "cuda"
        peak = peak_device_memory_bytes(self.device) if on_card else peak_memory_bytes()
        process = 0 if on_card else self.process_bytes
        compared: JsonDict = {
            "predicted": {
                "seconds": round(foreseen.seconds * done, 3),
                "peak_memory_bytes": foreseen.peak_memory_bytes,
            },
            "actual": {
                "seconds": round(seconds - grading_seconds, 3),
                "peak_memory_bytes": peak,
                "beyond_process_bytes": max(1, peak - process),
            },
            "formula": {
                "seconds": round(formula, 3),
                "peak_memory_bytes": foreseen.memory.total,
                "beyond_process_bytes": foreseen.memory.total - foreseen.memory.process,
            },
            "steps": steps,
            "planned_steps": foreseen.workload.steps,
            "corrected_by": foreseen.corrected_by,
            **own,
        }
        write_json(self.folder.plan, {"schema": 1, "plan": foreseen.to_json(), **compared})
        if self.folder.kind != SEED_RUN:  # its process has trained before: the peak may be that training's
            outcome = {"key": self.key, "kind": "run", "method": foreseen.name, **compared}
            record_outcome(self.home, self.folder.id, outcome)
        return {"predicted": compared["predicted"], "actual": compared["actual"]}

    def _of_answers(self, rollouts: PlannedRollouts, steps: int) -> tuple[float, JsonDict]:
        """Seconds by the formulas of the answers that were written, and what is kept of these."""
        planner, lines = self.planner, self.heard.lines
        workload = rollouts.written(self.config, self.choices, planner.shape, planner.place, lines=lines, steps=steps)
        training = planner.training_of(self.config, self.choices, steps)
        seconds = sum(training_seconds(planner.shape, workload, training, planner.place.rates).values())
        answers = kept_answers(self.config, rollouts, lines)
        return seconds, {"answers": answers, "tokens": round(workload.training.tokens)}


def plan_run(
    config: TrainConfig,
    base: LoadedModel,
    choices: TrainingChoices,
    *,
    train: Sequence[TokenSequence],
    validation: Sequence[TokenSequence],
    process_bytes: int,
    free_bytes: int | None,
    home: Path,
    folder: RunFolder,
    note: Callable[[str], None],
    rows: PreparedRows,
    replay: Sequence[TokenSequence] = (),
) -> RunPlan | None:
    """Predict a run that is about to train, and refuse one that cannot fit.

    Args:
        config: the options.
        base: as loaded, plain.
        choices: the numbers that are used.
        train: rendered rows trained on.
        validation: rendered rows that choose the best pass.
        process_bytes: that this process held before the base was loaded.
        free_bytes: that were free then; None where the system does not tell.
        home: hone's home folder.
        folder: the run's; receives ``plan.json``.
        note: receives sentences for the user.
        rows: as prepared.
        replay: rendered rows outside of the domain that are trained on beside it.

    Returns:
        The prediction; None for methods whose cost is not planned.

    Raises:
        ConfigError: it needs more than is free, even if the prediction is too high by its margin.
    """
    if config.adaptation not in PLANNED_ADAPTATIONS or not is_planned_method(config):
        return None
    shape = shape_of(base.model, context_length=base.context_length)
    history = read_history(home)
    place = Place(
        machine=read_machines(home)[THIS_MACHINE],
        rates=rates_for(shape, home=home, device=base.device, dtype=base.dtype, note=note),
        on_host=not base.on_card,
        free_bytes=free_bytes,
        process_bytes=process_bytes,
        bytes_per_value=base.dtype.itemsize,
        margin=error_margin(history),
    )
    is_packed = supports_packing(base.model) and not config.reference_path
    rollouts = planned_rollouts(config, rows, context_length=base.context_length, history=history)
    machine = machine_key(base.device, base.dtype)
    planner = Planner(shape, train, validation, place, history, machine, is_packed, replay, rollouts=rollouts)
    foreseen = planner.estimate(config, name=config.adaptation, choices=choices)
    if foreseen.cannot_fit and is_packed and rollouts is None:  # of rollouts, memory was 20% under and 60% over
        raise does_not_fit(foreseen, planner.remedies(config, choices), place, base.device)
    write_json(folder.plan, {"schema": 1, "plan": foreseen.to_json()})
    key = planner.key_of(config, choices.recompute_layers)
    return RunPlan(foreseen, key, process_bytes, home, folder, base.device, planner, config, choices)


def does_not_fit(foreseen: Estimate, remedies: Sequence[Estimate], place: Place, device: str) -> ConfigError:
    """The refusal of a run, with what it needs, what is free, and the cheapest changes that would make it fit."""
    needed = foreseen.peak_memory_bytes - foreseen.memory.process
    parts = foreseen.memory
    details = [
        f"weights {parts.weights / 1e9:.2f} GB, trained values {parts.state / 1e9:.2f} GB, activations "
        f"{parts.activations / 1e9:.2f} GB, saving {parts.saving / 1e9:.2f} GB"
    ]
    details += [
        f"{one.options}: {(one.peak_memory_bytes - one.memory.process) / 1e9:.2f} GB, about {one.seconds:.0f} s"
        for one in remedies
    ]
    return ConfigError(
        f"this run needs about {needed / 1e9:.2f} GB and {device} has {(place.free_bytes or 0) / 1e9:.2f} GB free",
        details=details,
        why="a system ends a process that takes more memory than there is, in the middle of its work",
        remedy=f"{remedies[0].options} is the cheapest change that fits; the others are named above"
        if remedies
        else "no single change makes it fit: use a smaller model, or a machine with more memory (see `hone plan`)",
    )
