"""What methods that write their own answers cost, as a plan knows it: how long answers will be, and the work they are.

Lengths come from answers that the same base was seen to write to the same rows, by a run or a probe; else from the
reference answers of the rows; else every answer is taken to be as long as it may be. A run that is over is counted with
the answers that it wrote: the history corrects speed, and not lengths that nobody could know.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from hone.config.schema import TrainConfig
from hone.engine.events import Event
from hone.planning.choose import TrainingChoices
from hone.planning.estimate import Place
from hone.planning.rollout_work import Answered, RolloutRules, plan_rollouts, rollout_workload
from hone.planning.shape import ModelShape
from hone.planning.workload import Workload
from hone.recipe.method import is_policy_method
from hone.recipe.policy import asked_prompts
from hone.recipe.policy_options import PolicyOptions, resolve_policy_options, sequences_to_compute
from hone.recipe.rows import PreparedRows
from hone.types import JsonDict, TokenSequence

__all__ = [
    "PLANNED_POLICIES",
    "PlannedRollouts",
    "WrittenAnswers",
    "is_planned_method",
    "kept_answers",
    "planned_rollouts",
]

PLANNED_POLICIES = ("grpo", "rloo", "ppo", "raft")
"""Methods that write their own answers and whose passes over them are known."""
_BEST_ALONE = "raft"
_KEPT_LENGTHS = 64
_SMALLEST_GROUP, _FEWEST_TOKENS = 2, 16


def is_planned_method(config: TrainConfig) -> bool:
    """Whether it is known what the method computes: all but some that write their own answers."""
    return not is_policy_method(config.method) or config.method in PLANNED_POLICIES


@dataclass
class WrittenAnswers:
    """A recorder that keeps how long the answers were that steps wrote.

    Args:
        lines: ``step``, ``row``, ``tokens``, ``ended`` and ``kept`` (whether it was trained on) of each.
    """

    lines: list[JsonDict] = field(default_factory=list)

    def record(self, event: Event) -> None:
        """Take one event; all but answers are passed over."""
        if event.kind == "rollout":
            line = {name: event.data[name] for name in ("step", "row", "tokens", "ended")}
            self.lines.append({**line, "kept": event.data.get("kept", True)})


@dataclass(frozen=True, slots=True)
class PlannedRollouts:
    """The answers of a run that is planned.

    Args:
        rows: as prepared; their examples are tasks.
        context_length: tokens that the base sees.
        known: lengths of answers that were written before, sorted; empty where none were seen.
        longest_known: tokens that those were allowed to have.
    """

    rows: PreparedRows
    context_length: int
    known: tuple[int, ...] = ()
    longest_known: int = 0
    _planned: dict[Any, tuple[Workload, Workload]] = field(default_factory=dict, compare=False, repr=False)

    @property
    def rendered(self) -> list[TokenSequence]:
        """The rows as the proof computes them."""
        return self.rows.rendered(self.rows.train)

    def smaller(self, config: TrainConfig) -> dict[str, JsonDict]:
        """Changes that take less memory, by the options that ask for them."""
        options = self.options(config)
        group, tokens = options.group_size // 2, options.rollout_tokens // 2
        changes: dict[str, JsonDict] = {}
        if group >= _SMALLEST_GROUP:
            changes[f"--group-size {group}"] = {"group_size": group}
        if tokens >= _FEWEST_TOKENS:
            changes[f"--rollout-tokens {tokens}"] = {"rollout_tokens": tokens}
        return changes

    def options(self, config: TrainConfig) -> PolicyOptions:
        """The method's own numbers."""
        assert config.method is not None, "a method that writes answers is named"
        return resolve_policy_options(config, config.method, self.rows.answered(self.rows.train))

    def sequences(self, config: TrainConfig) -> list[TokenSequence]:
        """What a step computes for each row, at most."""
        return sequences_to_compute(config, self.rows)[0]

    def lengths(self, config: TrainConfig) -> tuple[list[int], str]:
        """Lengths that answers are taken to have, and where they come from."""
        most = self.options(config).rollout_tokens
        if self.known and (self.longest_known >= most or self.known[-1] < self.longest_known):
            return [min(one, most) for one in self.known], "as long as this base wrote before to these rows"
        references = [one.num_supervised for one in self.rows.answered(self.rows.train)]
        if references:
            return [min(one, most) for one in references], "as long as the reference answers"
        return [most], "as long as they may be: nothing tells how long this base writes"

    def workloads(
        self, config: TrainConfig, choices: TrainingChoices, shape: ModelShape, place: Place
    ) -> tuple[Workload, Workload]:
        """The work of a run with answers of the lengths that are expected, and with the longest ones.

        Raises:
            DataError: no prompt leaves room for an answer.
        """
        rules = self._rules(config, choices, place)
        of_run = (choices.batch_size, choices.epochs, choices.max_steps, config.seed)
        key = (rules, shape, place.bytes_per_value, *of_run)
        if key not in self._planned:
            prompts = list(self._prompts(config).values())
            lengths = self.lengths(config)[0]
            found = [
                plan_rollouts(
                    prompts, each, rules, shape=shape, bytes_per_value=place.bytes_per_value,
                    batch_size=choices.batch_size, epochs=choices.epochs, max_steps=choices.max_steps, seed=config.seed,
                )
                for each in (lengths, [rules.longest])
            ]  # fmt: skip
            self._planned[key] = (found[0], found[1])
        return self._planned[key]

    def written(
        self,
        config: TrainConfig,
        choices: TrainingChoices,
        shape: ModelShape,
        place: Place,
        *,
        lines: Sequence[Mapping[str, Any]],
        steps: int,
    ) -> Workload:
        """The work of a run that has written answers.

        Args:
            config: the options.
            choices: the numbers that were used.
            shape: of the base.
            place: where it ran.
            lines: see :class:`WrittenAnswers`.
            steps: optimizer steps that it took.
        """
        prompts = self._prompts(config)
        rounds: dict[int, dict[int, list[Mapping[str, Any]]]] = {}
        for line in lines:
            rounds.setdefault(line["step"], {}).setdefault(line["row"], []).append(line)
        answered = [[_answered(prompts[row], found) for row, found in one.items()] for one in rounds.values()]
        return rollout_workload(
            answered, self._rules(config, choices, place), shape=shape, bytes_per_value=place.bytes_per_value,
            rows=len(prompts), steps=steps,
        )  # fmt: skip

    def _prompts(self, config: TrainConfig) -> dict[int, tuple[int, ...]]:
        limit = self.context_length - self.options(config).rollout_tokens
        return {one.row: one.ids for one in asked_prompts(self.rows, self.rows.train, limit=limit)}

    def _rules(self, config: TrainConfig, choices: TrainingChoices, place: Place) -> RolloutRules:
        options = self.options(config)
        return RolloutRules(
            group_size=options.group_size,
            longest=options.rollout_tokens,
            steps_each=options.policy_epochs,
            base_passes=1,
            policy_passes=1 if options.reads_ahead else 0,
            keeps_best=options.method == _BEST_ALONE,
            micro_batch_tokens=choices.micro_batch_tokens,
            block_queries=place.block_queries,
        )


def planned_rollouts(
    config: TrainConfig, rows: PreparedRows, *, context_length: int, history: Sequence[JsonDict]
) -> PlannedRollouts | None:
    """What is known of the answers that ``config`` would write; None for methods that write none.

    Args:
        config: the options.
        rows: as prepared.
        context_length: tokens that the base sees.
        history: outcomes of earlier runs and probes.
    """
    if not is_policy_method(config.method):
        return None
    asked = _asked(config, rows)
    before = [entry["answers"] for entry in history if entry.get("answers", {}).get("asked") == asked]
    if not before:
        return PlannedRollouts(rows, context_length)
    return PlannedRollouts(rows, context_length, tuple(before[-1]["tokens"]), before[-1]["most_tokens"])


def kept_answers(config: TrainConfig, rollouts: PlannedRollouts, lines: Sequence[Mapping[str, Any]]) -> JsonDict:
    """What the history keeps of answers that were written: who was asked what, and a sample of the lengths.

    Args:
        config: the options.
        rollouts: as planned.
        lines: see :class:`WrittenAnswers`.
    """
    tokens = sorted(map(_tokens, lines))
    count = min(len(tokens), _KEPT_LENGTHS)
    return {
        "asked": _asked(config, rollouts.rows),
        "most_tokens": rollouts.options(config).rollout_tokens,
        "tokens": [tokens[(2 * place + 1) * len(tokens) // (2 * count)] for place in range(count)],
    }


def _answered(prompt: tuple[int, ...], lines: Sequence[Mapping[str, Any]]) -> Answered:
    trained = tuple(_tokens(line) for line in lines if line["kept"])
    return Answered(prompt, tuple(map(_tokens, lines)), trained)


def _asked(config: TrainConfig, rows: PreparedRows) -> JsonDict:
    return {"model": config.model, "start_from": config.start_from, "data": rows.manifest["source"]["sha256"]}


def _tokens(line: Mapping[str, Any]) -> int:
    """Of an answer, with the token that ended it."""
    return int(line["tokens"]) + (1 if line["ended"] else 0)
