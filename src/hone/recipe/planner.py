"""Estimates for one base and one set of rows: what each way of training them would cost, and which would fit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

from hone.config.schema import TrainConfig
from hone.data.pack import shared_length
from hone.evaluation.shape import ShapeKind
from hone.model.adaptation import ADAPTATIONS
from hone.planning.choose import (
    AS_BEGUN,
    PREFERENCE_RATE_FACTOR,
    Facts,
    Given,
    MethodRules,
    TrainingChoices,
    choose_training,
)
from hone.planning.cost import Training
from hone.planning.estimate import Estimate, Place, cheapest_that_fit, estimate
from hone.planning.history import WRITING, correction_of
from hone.planning.peak import weight_bytes
from hone.planning.rollouts import POLICY_EPOCHS, POLICY_RATE_FACTOR
from hone.planning.shape import ModelShape
from hone.planning.workload import Workload, plan_workload
from hone.proof.sample import sample_sequences
from hone.recipe.method import ROLLOUTS_BETWEEN
from hone.recipe.planned_rollouts import PlannedRollouts
from hone.types import JsonDict, TokenSequence

__all__ = ["FREE_TEXT", "PLANNED_ADAPTATIONS", "Planner", "choose_numbers"]

FREE_TEXT: tuple[ShapeKind, ...] = ("text", "summary")
"""Answers that may be worded in many ways."""
# Whose trained values follow from the shape of the base; of PEFT's other methods they are known once attached.
PLANNED_ADAPTATIONS = ("lora", "rslora", "dora", "pissa", "full")


def choose_numbers(
    config: TrainConfig,
    shape: ModelShape,
    sequences: Sequence[TokenSequence],
    *,
    free_bytes: int | None,
    bytes_per_value: int,
    has_validation: bool,
    answers: ShapeKind,
    on_card: bool = False,
    beside: Sequence[TokenSequence] = (),
    resumed: bool = False,
) -> TrainingChoices:
    """Every number that ``config`` leaves open, from the one place that chooses.

    Args:
        config: the options.
        shape: of the base.
        sequences: rendered rows to train on and to validate with.
        free_bytes: memory for activations; None where the system does not tell.
        bytes_per_value: of the dtype of compute.
        has_validation: whether rows choose the best pass.
        answers: their kind; free text is trained at another rate than exact answers.
        on_card: whether a graphics card trains.
        beside: rows outside of the domain that are trained on with them.
        resumed: the numbers were chosen when the run began.
    """
    method = ADAPTATIONS[config.adaptation]
    facts = Facts(
        num_parameters=shape.num_parameters,
        num_layers=shape.num_layers,
        width=shape.width,
        context_length=shape.context_length,
        row_lengths=[len(sequence.ids) for sequence in sequences],
        available_bytes=free_bytes,
        bytes_per_value=bytes_per_value,
        has_validation=has_validation,
        free_text=config.method in (None, "sft") and answers in FREE_TEXT,
        shared_tokens=0 if config.reference_path else shared_length(sequences),
        on_card=on_card,
        longest_beside=max((len(sequence.ids) for sequence in beside), default=0),
    )
    own = {one.name: getattr(config, one.name) for one in fields(Given) if one.name != "reason"}
    given = Given(**own, reason=AS_BEGUN if resumed else "as given")
    # what people prefer is learned from small differences, and a model that moves far forgets how to speak
    usual_epochs = POLICY_EPOCHS.get(config.method or "")
    factor = PREFERENCE_RATE_FACTOR if usual_epochs is None else POLICY_RATE_FACTOR
    factor = method.rate_factor * (1.0 if config.method in (None, "sft") else factor)
    each = None if usual_epochs is None else config.policy_epochs or usual_epochs
    rules = MethodRules(method.has_rank, method.alpha_of_rank, method.alpha_reason, factor, each)
    return choose_training(facts, given, rules)


@dataclass(frozen=True, slots=True)
class Planner:
    """Estimates for one base, one set of rows and one place.

    Args:
        shape: of the base.
        train: rendered rows trained on.
        validation: rendered rows that choose the best pass.
        place: where.
        history: outcomes of earlier runs.
        key: of the machine; the rest of an outcome's key is the base and the method.
        is_packed: rows are packed, and not padded as on the reference path.
        replay: rendered rows outside of the domain that are trained on beside it.
        answers: the kind of the rows' answers.
        rollouts: of methods that write their own answers; None for others.
    """

    shape: ModelShape
    train: Sequence[TokenSequence]
    validation: Sequence[TokenSequence]
    place: Place
    history: Sequence[JsonDict]
    key: str
    is_packed: bool = True
    replay: Sequence[TokenSequence] = ()
    answers: ShapeKind = "text"
    rollouts: PlannedRollouts | None = None

    def choose(self, config: TrainConfig) -> TrainingChoices:
        """The numbers for ``config`` as a run would choose them that found this much memory free."""
        place = self.place
        weights = weight_bytes(self.shape, place.bytes_per_value, is_quantized=config.quantize is not None)
        state = ADAPTATIONS[config.adaptation].state_bytes_per_weight * self.shape.num_parameters
        free = None if place.free_bytes is None else max(0, place.free_bytes - weights - state)
        if config.memory_budget is not None:
            budget = max(0, config.memory_budget - weights - state)
            free = budget if free is None else min(free, budget)
        return choose_numbers(
            config, self.shape, [*self.train, *self.validation], free_bytes=free,
            bytes_per_value=place.bytes_per_value, has_validation=bool(self.validation), answers=self.answers,
            on_card=not place.on_host, beside=self.replay,
        )  # fmt: skip

    def key_of(self, config: TrainConfig, recompute_layers: int) -> str:
        """Under which outcomes of the same machine, base and method are kept."""
        shape, path = self.shape, "packed" if self.is_packed else "padded"
        base = f"{shape.architecture}/{shape.num_parameters}/{shape.num_layers}x{shape.width}"
        method = f"{config.adaptation}/{config.quantize or 'plain'}/{'again' if recompute_layers else 'once'}/{path}"
        # an answer that is written takes another time than one that is only trained on
        return f"{self.key}/{base}/{method}" + ("" if self.rollouts is None else WRITING)

    def training_of(self, config: TrainConfig, choices: TrainingChoices, steps: int) -> Training:
        """What ``config`` trains."""
        is_full = config.adaptation == "full"
        values = self.shape.num_parameters
        if not is_full:
            values = self.shape.adapter_values(choices.rank or 0, config.layers)
        steps_of_pass = -(-(len(self.train) + len(self.replay)) // choices.batch_size)
        if self.rollouts is not None:
            steps_of_pass = min(steps_of_pass, ROLLOUTS_BETWEEN) * self.rollouts.options(config).policy_epochs
        return Training(
            is_full=is_full,
            trained_values=values,
            rank=choices.rank or 0,
            recompute_layers=min(choices.recompute_layers, self.shape.num_layers),
            is_quantized=config.quantize is not None,
            has_validation=bool(self.validation),
            checkpoints=-(-steps // (config.save_every_steps or steps_of_pass)),
        )

    def estimate(
        self, config: TrainConfig, *, name: str, options: str = "", choices: TrainingChoices | None = None
    ) -> Estimate:
        """What ``config`` would cost; its adaptation is one of :data:`PLANNED_ADAPTATIONS`.

        Raises:
            ModelError: a pattern of ``layers`` fits nothing.
        """
        chosen = choices or self.choose(config)
        workload, longest = self._workloads(config, chosen)
        adapted = None if config.layers is None else sum(layer.values for layer in self.shape.adapted(config.layers))
        return estimate(
            name, options, shape=self.shape, workload=workload, place=self.place, sampled_rows=self._sampled_rows(),
            training=self.training_of(config, chosen, workload.steps), adapted_values=adapted,
            correction=correction_of(self.history, self.key_of(config, chosen.recompute_layers)), longest=longest,
        )  # fmt: skip

    def _workloads(self, config: TrainConfig, chosen: TrainingChoices) -> tuple[Workload, Workload | None]:
        """The work of a run; and with the longest answers, where it writes them."""
        if self.rollouts is not None:
            return self.rollouts.workloads(config, chosen, self.shape, self.place)
        workload = plan_workload(
            [*self.train, *self.replay], self.validation, batch_size=chosen.batch_size, epochs=chosen.epochs,
            max_steps=config.max_steps, micro_batch_tokens=chosen.micro_batch_tokens, seed=config.seed,
            block_queries=self.place.block_queries,
        )  # fmt: skip
        return workload, None

    def _sampled_rows(self) -> tuple[int, ...]:
        """Tokens of the rows that the proof computes."""
        rows = [*self.train, *self.validation] if self.rollouts is None else self.rollouts.rendered
        return tuple(len(sequence.ids) for sequence in sample_sequences(rows))

    def remedies(self, config: TrainConfig, choices: TrainingChoices) -> Sequence[Estimate]:
        """The three cheapest changes of ``config`` that would make it fit, each with its figures."""
        longest = max(len(sequence.ids) for sequence in (*self.train, *self.validation, *self.replay))
        changes: dict[str, JsonDict] = {} if self.rollouts is None else self.rollouts.smaller(config)
        every = self.shape.num_layers
        if choices.recompute_layers < every:
            changes[f"--recompute-layers {every}"] = {"recompute_layers": every}
        if choices.micro_batch_tokens > longest:
            changes[f"--micro-batch-tokens {longest}"] = {"micro_batch_tokens": longest}
        changes[f"--recompute-layers {every} --micro-batch-tokens {longest}"] = {
            "recompute_layers": every, "micro_batch_tokens": longest,
        }  # fmt: skip
        if config.adaptation == "full":
            changes["--adaptation lora"] = {"adaptation": "lora", "learning_rate": None, "recompute_layers": None}
            changes[f"--adaptation lora --recompute-layers {every}"] = {
                "adaptation": "lora", "learning_rate": None, "recompute_layers": every,
            }  # fmt: skip
        if (choices.rank or 0) > 8:
            changes["--rank 8"] = {"rank": 8, "alpha": None}
        if config.quantize is None and config.adaptation != "full":
            changes[f"--quantize nf4 --recompute-layers {every}"] = {"quantize": "nf4", "recompute_layers": every}
        for length in (longest // 2, longest // 4):
            if length >= 64 and self.rollouts is None:
                changes[f"--max-length {length} --recompute-layers {every}"] = {
                    "max_length": length, "micro_batch_tokens": length, "recompute_layers": every,
                }  # fmt: skip
        found = []
        for options, update in changes.items():
            changed = config.model_copy(update=update)
            planner = self if "max_length" not in update else self._shortened(update["max_length"])
            if self.rollouts is not None:
                planner = replace(self, train=self.rollouts.sequences(changed))
            found.append(planner.estimate(changed, name=options, options=options))
        return cheapest_that_fit(found)

    def _shortened(self, length: int) -> Planner:
        return replace(self, train=_cut(self.train, length), validation=_cut(self.validation, length))


def _cut(sequences: Sequence[TokenSequence], length: int) -> list[TokenSequence]:
    return [replace(one, ids=one.ids[:length], supervised=one.supervised[:length]) for one in sequences]
