"""A method of training as the one loop needs it: rows, how they are packed, the forward pass and the objective."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial, reduce
from typing import Any

from torch import nn

from hone.config.check import POLICY_METHODS, method_problems
from hone.config.schema import TrainConfig
from hone.data.loader import LoadedData, load_examples
from hone.engine.around import AroundSteps
from hone.engine.checkpoint import Progress
from hone.engine.events import Event, Recorder
from hone.engine.loop import Collate, micro_batches
from hone.engine.parallel import started_in_group
from hone.engine.step import Objective
from hone.errors import ConfigError
from hone.model.forward import Forward, padded_logprobs
from hone.objective.supervised import supervised_loss
from hone.planning.choose import TOLERATED_LOSS_RISE, Choice
from hone.proof.invariant import Invariant
from hone.recipe.rows import PreparedRows
from hone.types import JsonDict, MethodName, TokenSequence

__all__ = [
    "ROLLOUTS_BETWEEN",
    "Method",
    "choose_method",
    "is_policy_method",
    "joined_proof",
    "load_for",
    "load_rows",
    "say_choice",
    "supervised_method",
]

ROLLOUTS_BETWEEN = 8
"""Steps that write answers of their own, from one checkpoint to the next."""
_OF_PAIRS = ("dpo", "ipo", "orpo", "simpo", "reward")


@dataclass(frozen=True, slots=True)
class Method:
    """What makes a method, once the base stands ready.

    Args:
        train: what a step takes ``batch_size`` of.
        validation: the same for the validation loss; empty where nothing was set aside.
        collate: packs some of them into micro-batches.
        forward: what the objective takes, of a micro-batch.
        objective: a pure function.
        tolerated_loss_rise: see :class:`hone.engine.loop.LoopSettings`.
        proof: invariants that are the method's own, measured before the first step.
        facts: how it is set, for the result and for whoever loads the version.
        around: what it does around the steps; None where rows are trained on as they are.
        parameters: tensors of its own that are trained beside the adapter, and are no part of a version.
    """

    train: Sequence[Any]
    validation: Sequence[Any]
    collate: Collate
    forward: Forward
    objective: Objective
    tolerated_loss_rise: float = 0.0
    proof: tuple[Invariant, ...] = ()
    facts: JsonDict = field(default_factory=dict)
    around: AroundSteps | None = None
    parameters: Mapping[str, nn.Parameter] = field(default_factory=dict)

    @property
    def grading_seconds(self) -> float:
        """What the user's own rewards have taken so far."""
        return 0.0 if self.around is None else self.around.grading_seconds

    def least_gradient_norm(self, progress: Progress) -> float | None:
        """The gradient norm that must not be 0: the smallest; where steps write their own answers, the largest.

        A step whose answers are all worth the same has no gradient, and nothing is wrong with it.

        Args:
            progress: of the training.
        """
        return progress.smallest_gradient_norm if self.around is None else progress.largest_gradient_norm

    def steps_between_checkpoints(self, batch_size: int) -> int:
        """A pass over the rows; where steps write their own answers, which takes long, a few at the most.

        Args:
            batch_size: rows of a step.
        """
        of_pass = -(-len(self.train) // batch_size)
        return of_pass if self.around is None else min(of_pass, ROLLOUTS_BETWEEN) * self.around.steps_each


def supervised_method(rows: PreparedRows, forward: Forward, *, replay: Sequence[TokenSequence] = ()) -> Method:
    """Supervised fine-tuning on rendered rows, and on rows outside of the domain among them.

    Args:
        rows: as prepared.
        forward: the path that training takes.
        replay: rendered rows outside of the domain; validation is without them.
    """
    return Method(
        train=[*rows.rendered(rows.train), *replay],
        validation=rows.rendered(rows.validation),
        collate=partial(micro_batches, padded=forward is padded_logprobs),
        forward=forward,
        objective=supervised_loss,
        tolerated_loss_rise=TOLERATED_LOSS_RISE,
    )


def joined_proof(found: Sequence[Invariant], own: Sequence[Invariant]) -> list[Invariant]:
    """The invariants before training, with the method's own part of each joined to the model's of the same number.

    Args:
        found: of rows and model.
        own: the method's.
    """
    return [reduce(_both, [one, *(part for part in own if part.number == one.number)]) for one in found]


def _both(one: Invariant, other: Invariant) -> Invariant:
    return replace(
        one,
        name=f"{one.name}, and {other.name}",
        holds=one.holds and other.holds,
        measured=other.measured if one.holds and not other.holds else one.measured,
        bound=f"{one.bound}; {other.bound}",
        checked=f"{one.checked}; {other.checked}",
        remedy=other.remedy if one.holds else one.remedy,
        found="; ".join(filter(None, (one.found, other.found))),
    )


def say_choice(recorder: Recorder, choice: Choice) -> None:
    """Tell a number that was chosen, with its reason.

    Args:
        recorder: receives the event.
        choice: the number.
    """
    text = f"{choice.name} = {choice.value:g} ({choice.reason})"
    told = {"text": text, "choice": choice.name, "value": f"{choice.value:g}", "reason": choice.reason}
    recorder.record(Event("note", told))


def is_policy_method(method: str | None) -> bool:
    """Whether a method learns from answers of the model's own."""
    return method in POLICY_METHODS


def load_rows(config: TrainConfig, source: str, *, preferences: bool = True) -> LoadedData:
    """Read rows as the method asked for takes them.

    Args:
        config: names method and columns.
        source: a file or a hub data set.
        preferences: whether rows may compare or judge answers, where the method does not say.

    Raises:
        HoneError: as :func:`hone.data.loader.load_examples`.
    """
    return load_for(config.method, source, mapping=config.mapping, preferences=preferences)


def load_for(
    method: str | None, source: str, *, mapping: Mapping[str, str] | None = None, preferences: bool = True
) -> LoadedData:
    """Read rows as a method takes them; what a run stored of its rows reads back so.

    Args:
        method: which; None where the rows say.
        source: a file or a hub data set.
        mapping: columns of the user's own.
        preferences: whether rows may compare or judge answers, where the method does not say.

    Raises:
        HoneError: as :func:`hone.data.loader.load_examples`.
    """
    tasks = is_policy_method(method)
    return load_examples(source, mapping=mapping, preferences=preferences and not tasks, tasks=tasks)


def choose_method(config: TrainConfig, loaded: LoadedData) -> MethodName:
    """The method that is asked for, or that goes with the rows: sft, dpo for compared answers, kto for judged ones.

    Raises:
        ConfigError: the method asked for cannot be trained on such rows, or not on so many devices.
    """
    fitting: MethodName = "sft"
    if loaded.are_preferences:
        fitting = "kto" if loaded.format == "preference-label" else "dpo"
    wanted = config.method or fitting
    reason = None
    if wanted == "sft" and loaded.are_preferences:
        reason = "sft needs one right answer a row, and these rows compare or judge answers"
    elif wanted != "sft" and not is_policy_method(wanted) and not loaded.are_preferences:
        reason = f"{wanted} needs rows that compare or judge answers, and these have one answer each"
    elif wanted in _OF_PAIRS and fitting == "kto":
        reason = f"{wanted} needs two answers to a prompt, and these rows judge one each"
    if wanted != "sft" and (config.devices > 1 or started_in_group()):
        raise ConfigError(
            f"{wanted} trains on one device in this version of hone, not on several",
            where="--devices",
            remedy="leave --devices out, and start hone without torchrun",
        )
    _require_grading(config, wanted)
    if reason:
        raise ConfigError(
            f"method = {wanted} does not go with the rows of {loaded.source} ({loaded.format})",
            where="--method",
            why=reason,
            remedy=f"use --method {fitting}, or leave it out; docs/preferences.md has the shapes of rows",
        )
    if config.method is None:
        _require_effect(config, wanted)
    return wanted


def _require_effect(config: TrainConfig, method: MethodName) -> None:
    """Refuse what has no effect with the method that the rows have chosen; with a given one it was refused before."""
    words = {name: f"--{name.replace('_', '-')}" for name in type(config).model_fields}
    problems = method_problems({**config.model_dump(), "method": method}, words=words)
    if problems:
        raise ConfigError(
            f"the rows are trained on by {method}, and {len(problems)} of the options have no effect with it",
            why="no method was given, so it follows from the rows",
            details=problems,
            remedy="leave them out, or give the method that they belong to: --method",
        )


def _require_grading(config: TrainConfig, method: MethodName) -> None:
    """Refuse a method without what it learns from, and rewards or a teacher that it would not look at."""
    given = "--reward" if config.reward else "--watch-reward" if config.watch_reward else None
    if given and not is_policy_method(method):
        raise ConfigError(
            f"{method} learns from the rows and grades no answers",
            where=given,
            remedy="say which method learns from rewards (--method grpo, rloo, ppo or raft), or leave the reward out",
        )
    if config.teacher and method != "distill":
        raise ConfigError(
            f"{method} learns from the rows and asks no teacher",
            where="--teacher",
            remedy="give --method distill, or leave the teacher out",
        )
    if method == "distill" and not config.teacher:
        raise ConfigError(
            "distill makes the model like another one, and nothing says which",
            where="--teacher",
            remedy="give a base, a version, or an endpoint as URL#MODEL, with the same tokenizer",
        )
    if is_policy_method(method) and method != "distill" and not config.reward:
        raise ConfigError(
            f"{method} learns from what answers are worth, and nothing says that",
            where="--reward",
            remedy="give module:function, a JSON file with a grader, or a reward model; docs/preferences.md shows each",
        )
