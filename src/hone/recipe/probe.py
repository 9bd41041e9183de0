"""Two steps of the real model, timed: how far the formulas are off for this base on this machine."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path

from hone.config.schema import TrainConfig
from hone.data.pack import plan_steps
from hone.engine.loop import micro_batches
from hone.engine.optimizer import make_optimizer
from hone.engine.step import train_step
from hone.model.allocator import keep_freed_memory
from hone.model.recompute import recompute_enabled
from hone.objective.supervised import supervised_loss
from hone.planning.cost import training_seconds
from hone.planning.history import record_outcome
from hone.planning.workload import plan_workload
from hone.recipe.adapting import attach_method, load_base_as
from hone.recipe.inference import training_path
from hone.recipe.planner import Planner

__all__ = ["probe_speed"]

_STEPS = 2
_CPU_BLOCK = 256


def probe_speed(config: TrainConfig, planner: Planner, *, key: str, home: Path, note: Callable[[str], None]) -> None:
    """Load the base, take one step that is not counted and two that are, and keep what they took in the history.

    Nothing of the model is kept.

    Args:
        config: the options; the base is loaded as they say.
        planner: of the same base and rows.
        key: under which the outcome is kept.
        home: hone's home folder.
        note: receives sentences for the user.

    Raises:
        HoneError: the base cannot be loaded, or a step is not finite.
    """
    choices = planner.choose(config)
    base = load_base_as(
        config.model, quantize=config.quantize, home=home, device=config.device, dtype=config.dtype, note=note
    )
    adaptation = attach_method(config, base, choices, None, home=home)
    forward, path = training_path(base.model, reference=config.reference_path)
    parameters = adaptation.parameters()
    optimizer = make_optimizer(parameters, weight_decay=0.0)
    keep_freed_memory()
    seconds = 0.0
    done = 0
    order = plan_steps(len(planner.train), batch_size=choices.batch_size, epochs=choices.epochs, seed=config.seed)
    with path, recompute_enabled(base.model, choices.recompute_layers):
        for step, _, indices in islice(order, _STEPS + 1):
            batches = micro_batches([planner.train[index] for index in indices], max_tokens=choices.micro_batch_tokens)
            started = time.perf_counter()
            train_step(
                base.model, batches, forward=forward, objective=supervised_loss, parameters=list(parameters.values()),
                optimizer=optimizer, learning_rate=0.0, max_gradient_norm=config.max_gradient_norm,
            )  # fmt: skip
            adaptation.refresh()
            if step > 1:  # the first one also makes what the others find
                seconds += time.perf_counter() - started
                done = step
    if not seconds:
        return
    workload = plan_workload(
        planner.train, (), batch_size=choices.batch_size, epochs=choices.epochs, max_steps=done,
        micro_batch_tokens=choices.micro_batch_tokens, seed=config.seed,
        block_queries=_CPU_BLOCK if planner.place.on_host else 1,
    )  # fmt: skip
    first = plan_workload(
        planner.train, (), batch_size=choices.batch_size, epochs=choices.epochs, max_steps=1,
        micro_batch_tokens=choices.micro_batch_tokens, seed=config.seed,
        block_queries=_CPU_BLOCK if planner.place.on_host else 1,
    )  # fmt: skip
    training = replace(planner.training_of(config, choices, done), checkpoints=0)
    rates, shape = planner.place.rates, planner.shape
    both, one = (sum(training_seconds(shape, part, training, rates).values()) for part in (workload, first))
    formula = {"seconds": round(both - one, 4)}
    actual = {"seconds": round(seconds, 4)}
    name = f"{datetime.now(UTC):%Y%m%d-%H%M%S-%f}-probe"
    record_outcome(
        home, name, {"key": key, "kind": "probe", "predicted": formula, "formula": formula, "actual": actual}
    )
