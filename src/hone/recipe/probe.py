"""Steps of the real model, timed: how far the formulas are off for this base on this machine.

Of methods that write their own answers one step is enough, with all that it writes: it also tells how long the answers
of this base to these rows are.
"""

from __future__ import annotations

import time
import zlib
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
from hone.recipe.inference import make_renderer, training_path
from hone.recipe.planned_rollouts import WrittenAnswers, kept_answers
from hone.recipe.planner import Planner
from hone.recipe.policy import policy_method
from hone.recipe.rows import PreparedRows
from hone.types import JsonDict

__all__ = ["any_reward", "probe_rollouts", "probe_speed"]

_STEPS = 2


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
        block_queries=planner.place.block_queries,
    )  # fmt: skip
    first = plan_workload(
        planner.train, (), batch_size=choices.batch_size, epochs=choices.epochs, max_steps=1,
        micro_batch_tokens=choices.micro_batch_tokens, seed=config.seed,
        block_queries=planner.place.block_queries,
    )  # fmt: skip
    training = replace(planner.training_of(config, choices, done), checkpoints=0)
    rates, shape = planner.place.rates, planner.shape
    both, one = (sum(training_seconds(shape, part, training, rates).values()) for part in (workload, first))
    _record(home, key, formula=both - one, actual=seconds)


def _record(home: Path, key: str, *, formula: float, actual: float, answers: JsonDict | None = None) -> None:
    said = {"seconds": round(formula, 4)}
    outcome = {"key": key, "kind": "probe", "predicted": said, "formula": said, "actual": {"seconds": round(actual, 4)}}
    name = f"{datetime.now(UTC):%Y%m%d-%H%M%S-%f}-probe"
    record_outcome(home, name, outcome if answers is None else {**outcome, "answers": answers})


def any_reward(prompt: list[JsonDict], answer: str, row: JsonDict) -> float:
    """The reward of a probe, called as any reward function: from 0 to 1, and the same for the same answer.

    Args:
        prompt: not looked at.
        answer: what was written.
        row: not looked at.
    """
    return zlib.crc32(answer.encode()) / 2**32


def probe_rollouts(
    config: TrainConfig, planner: Planner, rows: PreparedRows, *, key: str, home: Path, note: Callable[[str], None]
) -> None:
    """Load the base, write the answers of one step and train on them, and keep in the history what that took.

    Nothing of the model is kept, and the user's reward is not asked.

    Args:
        config: the options; the base is loaded as they say.
        planner: of the same base and rows.
        rows: as prepared.
        key: under which the outcome is kept.
        home: hone's home folder.
        note: receives sentences for the user.

    Raises:
        HoneError: the base cannot be loaded, no prompt leaves room for an answer, or a step is not finite.
    """
    rollouts, choices = planner.rollouts, planner.choose(config)
    assert rollouts is not None, "of methods that write answers"
    assert config.method is not None, "which are named"
    base = load_base_as(
        config.model, quantize=config.quantize, home=home, device=config.device, dtype=config.dtype, note=note
    )
    renderer = make_renderer(base, rows.train, max_length=config.max_length, note=note)
    adaptation = attach_method(config, base, choices, None, home=home)
    forward, path = training_path(base.model, reference=config.reference_path)
    keep_freed_memory()
    told = WrittenAnswers()
    ours = config.model_copy(update={"reward": f"{__name__}:{any_reward.__name__}", "watch_reward": None})
    with path, recompute_enabled(base.model, choices.recompute_layers):
        # what it checks before the first step also makes what later passes find
        method = policy_method(
            ours, config.method, base, rows, renderer=renderer, forward=forward, max_tokens=choices.micro_batch_tokens,
            home=home, recorder=told,
        )  # fmt: skip
        parameters = {**adaptation.parameters(), **method.parameters}
        optimizer = make_optimizer(parameters, weight_decay=0.0)
        around = method.around
        assert around is not None, "it writes answers"
        order = plan_steps(len(method.train), batch_size=choices.batch_size, epochs=1, seed=config.seed)
        _, _, indices = next(order)
        started = time.perf_counter()
        groups = around.before(1, [method.train[index] for index in indices])
        for _ in range(around.steps_each):
            train_step(
                base.model, method.collate(groups, max_tokens=choices.micro_batch_tokens), forward=method.forward,
                objective=method.objective, parameters=list(parameters.values()), optimizer=optimizer,
                learning_rate=0.0, max_gradient_norm=config.max_gradient_norm,
            )  # fmt: skip
            adaptation.refresh()
        seconds = time.perf_counter() - started - around.grading_seconds
        around.after(1)
    place, shape = planner.place, planner.shape
    workload = rollouts.written(config, choices, shape, place, lines=told.lines, steps=around.steps_each)
    training = replace(planner.training_of(config, choices, around.steps_each), checkpoints=0)
    formula = sum(training_seconds(shape, workload, training, place.rates).values())
    _record(home, key, formula=formula, actual=seconds, answers=kept_answers(config, rollouts, told.lines))
