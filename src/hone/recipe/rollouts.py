"""Rollouts: the model answers the prompts of a step several times, the answers are graded, and the step trains on them.

    generated   by hone's batched generator, each prompt read once for its group; the draws follow from (seed, step,
                row, sample) alone, so that a resumed run writes the same answers
    graded      by the reward, and by a second one that is only watched
    compared    with the base: the adapter is switched off for log-probabilities of the same tokens
    kept        a line for each answer in ``rollouts.jsonl``, once the step has been made

Shape legend: S tokens of all answers of a batch, B answers.
"""

from __future__ import annotations

import hashlib
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from hone.data.rollouts import RolloutBatch, RolloutGroup, TokenFigures, pack_rollouts
from hone.engine.events import Event, Recorder
from hone.model.attention import attention_named
from hone.model.forward import Forward
from hone.model.generate import Generation, SamplingSettings, generate
from hone.model.load import LoadedModel
from hone.model.lora import adapter_disabled
from hone.recipe.rewards import GradedAnswer, Reward
from hone.recipe.rows import last_user_text
from hone.types import JsonDict, Task, TokenSequence

__all__ = ["Actor", "AskedPrompt", "Rollouts", "repetition"]

_REPEATED_TOKENS = 4
_DECIMALS = 6

Finish = Callable[[list[RolloutGroup]], list[RolloutGroup]]


@dataclass(frozen=True, slots=True)
class AskedPrompt:
    """A row that is answered.

    Args:
        task: the row.
        ids: its prompt's tokens.
    """

    task: Task
    ids: tuple[int, ...]

    @property
    def row(self) -> int:
        """Ordinal of the input row."""
        return self.task.row


@dataclass(frozen=True, slots=True)
class Actor:
    """The policy as it answers.

    Args:
        base: with its adapter.
        stop_ids: tokens that end an answer.
        max_new_tokens: the longest answer.
        attention: the model's own, which decoding takes; None where the model attends so anyway.
        forward: the pass of log-probabilities.
        micro_batch_tokens: tokens computed at once.
    """

    base: LoadedModel
    stop_ids: tuple[int, ...]
    max_new_tokens: int
    attention: str | None
    forward: Forward
    micro_batch_tokens: int

    def answer(self, prompts: Sequence[tuple[int, ...]], seeds: Sequence[int]) -> list[Generation]:
        """Draw an answer to each prompt at temperature 1, from the whole vocabulary.

        Args:
            prompts: token ids; one that stands there several times is read once.
            seeds: of the draws.
        """
        with self._own_attention():
            return generate(
                self.base.model, prompts, stop_ids=self.stop_ids, seeds=seeds,
                settings=SamplingSettings(max_new_tokens=self.max_new_tokens, temperature=1.0),
            )  # fmt: skip

    def sequence(self, prompt: tuple[int, ...], answer: Generation, row: int) -> TokenSequence:
        """What is trained on: the prompt, and the answer with the token that ended it."""
        written = answer.ids if answer.stop_id is None else (*answer.ids, answer.stop_id)
        return TokenSequence((*prompt, *written), (False,) * len(prompt) + (True,) * len(written), row)

    def text(self, answer: Generation) -> str:
        """An answer's text."""
        return str(self.base.tokenizer.decode(list(answer.ids), skip_special_tokens=True)).strip()

    def references(self, groups: Sequence[RolloutGroup]) -> list[RolloutGroup]:
        """The groups with log-probabilities under the base."""
        with adapter_disabled(self.base.model):
            found = self.figures(groups, self.forward)
        return [replace(one, references=figures[0]) for one, figures in zip(groups, found, strict=True)]

    @torch.no_grad()
    def figures(self, groups: Sequence[RolloutGroup], forward: Forward) -> list[list[TokenFigures]]:
        """What ``forward`` gives for each token of each answer, group by group; one entry a row of what it gives."""
        answers: dict[int, list[tuple[float, ...]]] = {}
        for batch in pack_rollouts(groups, max_tokens=self.micro_batch_tokens):
            values_RS = forward(self.base.model, batch)
            values_RS = values_RS.unsqueeze(0) if values_RS.dim() == 1 else values_RS
            counts = torch.bincount(torch.tensor(batch.owners_S), minlength=len(batch.leaves)).tolist()
            for place, part_RS in zip(batch.places_B, torch.split(values_RS.float().cpu(), counts, dim=1), strict=True):
                answers[place] = [tuple(row) for row in part_RS.tolist()]
        rows = range(len(next(iter(answers.values()))))
        return [[tuple(answers[place][row] for place in one.places) for row in rows] for one in groups]

    def _own_attention(self) -> AbstractContextManager[None]:
        return nullcontext() if self.attention is None else attention_named(self.base.model, self.attention)


def repetition(ids: Sequence[int]) -> float:
    """Share of an answer's runs of four tokens that it has written before; 0 for an answer of fewer."""
    runs = [tuple(ids[at : at + _REPEATED_TOKENS]) for at in range(len(ids) - _REPEATED_TOKENS + 1)]
    return 1 - len(set(runs)) / len(runs) if runs else 0.0


@dataclass
class _Told:
    """What the training pass said of an answer; one that only stands in for others is not ``kept``."""

    kl: float
    advantage: float | None
    kept: bool


@dataclass
class Rollouts:
    """What reinforcement learning does around the steps of the loop (:class:`hone.engine.around.AroundSteps`).

    Args:
        actor: answers.
        reward: grades what is trained on; None where a teacher says what is better.
        watch: a second reward that nothing is trained on; None for none.
        group_size: answers to a prompt.
        steps_each: optimizer steps over the same answers.
        seed: of the draws.
        finish: picks what is trained on, and works out what the objective needs before the step.
        recorder: receives an event for each answer.
        grading_seconds: that the rewards have taken so far.
    """

    actor: Actor
    reward: Reward | None
    watch: Reward | None
    group_size: int
    steps_each: int
    seed: int
    finish: Finish
    recorder: Recorder
    grading_seconds: float = 0.0
    _lines: list[JsonDict] = field(default_factory=list)
    _figures: dict[str, float] = field(default_factory=dict)
    _told: dict[int, _Told] = field(default_factory=dict)
    _first: int = 0

    def before(self, step: int, rows: Sequence[AskedPrompt]) -> list[RolloutGroup]:
        """Answer the prompts of a step and grade the answers.

        Raises:
            ConfigError: the reward fails.
        """
        asked = [row for row in rows for _ in range(self.group_size)]
        samples = [sample for _ in rows for sample in range(self.group_size)]
        seeds = [self._draw(step, row, sample) for row, sample in zip(asked, samples, strict=True)]
        answers = self.actor.answer([row.ids for row in asked], seeds)
        graded = [
            GradedAnswer(row.task, row.task.item, self.actor.text(answer))
            for row, answer in zip(asked, answers, strict=True)
        ]
        started = time.perf_counter()
        rewards, watched = (None if one is None else one(graded) for one in (self.reward, self.watch))
        self.grading_seconds += time.perf_counter() - started
        groups = []
        for number, row in enumerate(rows):
            places = tuple(range(number * self.group_size, (number + 1) * self.group_size))
            sequences = tuple(self.actor.sequence(row.ids, answers[place], row.task.row) for place in places)
            worth = (0.0,) * len(places) if rewards is None else tuple(rewards[place] for place in places)
            groups.append(RolloutGroup(sequences, places, worth))
        self._first, self._told = step, {}
        self._lines = [
            {"step": step, "row": row.task.row, "sample": sample, "prompt": last_user_text(row.task),
             "answer": one.text, **({} if rewards is None else {"reward": rewards[place]}),
             **({} if watched is None else {"watch_reward": watched[place]}),
             "tokens": len(answers[place].ids), "ended": answers[place].stopped,
             "repetition": round(repetition(answers[place].ids), _DECIMALS)}
            for place, (row, sample, one) in enumerate(zip(asked, samples, graded, strict=True))
        ]  # fmt: skip
        self._figures = self._of_rollouts()
        return self.finish(groups)

    def tell(
        self,
        batch: RolloutBatch,
        kl_B: Tensor,
        advantages_B: Tensor | None,
        kept_B: Sequence[bool] | None = None,
    ) -> None:
        """Take what the training pass found of some answers.

        Args:
            batch: of the answers.
            kl_B: estimated divergence from the base, or from the teacher, a token.
            advantages_B: of each; None where the method has none.
            kept_B: whether it is trained on; None where all are.
        """
        kept = [True] * len(batch.places_B) if kept_B is None else kept_B
        advantages = [None] * len(batch.places_B) if advantages_B is None else advantages_B.tolist()
        for place, *told in zip(batch.places_B, kl_B.tolist(), advantages, kept, strict=True):
            self._told[place] = _Told(*told)

    def after(self, step: int) -> Mapping[str, float]:
        """Figures of the step; behind the first one over new answers, their lines are written."""
        kl = statistics.fmean(one.kl for one in self._told.values())
        if step == self._first:
            trained_on_all = sum(one.kept for one in self._told.values()) == len(self._lines)
            for place, line in enumerate(self._lines):
                told = self._told.get(place)
                kept = {} if trained_on_all else {"kept": told is not None and told.kept}
                self.recorder.record(Event("rollout", {**line, **kept, **({} if told is None else _line_of(told))}))
        return {**self._figures, "kl": round(kl, _DECIMALS)}

    def _of_rollouts(self) -> dict[str, float]:
        figures = {
            "length": statistics.fmean(line["tokens"] for line in self._lines),
            "ended": statistics.fmean(line["ended"] for line in self._lines),
            "repetition": statistics.fmean(line["repetition"] for line in self._lines),
        }
        if self.reward is not None:
            rewards, size = [line["reward"] for line in self._lines], self.group_size
            groups = [rewards[start : start + size] for start in range(0, len(rewards), size)]
            figures["reward"] = statistics.fmean(rewards)
            # groups whose answers are all worth the same teach nothing
            figures["undecided_groups"] = statistics.fmean(min(group) == max(group) for group in groups)
        if self.watch is not None:
            figures["watch_reward"] = statistics.fmean(line["watch_reward"] for line in self._lines)
        return {name: round(value, _DECIMALS) for name, value in figures.items()}

    def _draw(self, step: int, row: AskedPrompt, sample: int) -> int:
        digest = hashlib.sha256(f"hone-rollout-{self.seed}-{step}-{row.task.row}-{sample}".encode()).digest()
        return int.from_bytes(digest[:4], "big")


def _line_of(told: _Told) -> JsonDict:
    advantage = {} if told.advantage is None else {"advantage": round(told.advantage, _DECIMALS)}
    return {**advantage, "kl": round(told.kl, _DECIMALS)}
