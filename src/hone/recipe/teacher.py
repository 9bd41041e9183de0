"""Teachers of on-policy distillation: a model of this machine, or one behind an endpoint that scores token ids.

A teacher reads the very tokens that the student wrote, so both must have one tokenizer. A model of this machine tells
its whole distribution at each of them; an endpoint the log-probability of the token that was drawn.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from hone.data.rollouts import RolloutGroup
from hone.errors import ConfigError
from hone.evaluation.text_scores import chrf_aggregate, chrf_statistics
from hone.model.endpoint import Endpoint, ask_endpoint, parse_endpoint, score_tokens
from hone.model.generate import SamplingSettings, generate
from hone.model.load import LoadedModel
from hone.model.score_head import score_head_of
from hone.recipe.arm_answers import KEY_VARIABLE, asked_messages
from hone.recipe.graded_answer import GradedAnswer
from hone.recipe.inference import Answerer, load_answerer
from hone.types import Example, JsonDict, Task

__all__ = ["EndpointTeacher", "LocalTeacher", "TeacherLikeness", "open_teacher"]

Note = Callable[[str], None]

_TEXT = "The quick brown fox jumps over 12 lazy dogs."
_OPTION = "--teacher"


@dataclass(frozen=True, slots=True)
class LocalTeacher:
    """A base or version of this machine."""

    answerer: Answerer

    @property
    def name(self) -> str:
        """``support@3``, or the base's name."""
        return self.answerer.name

    @property
    def reference(self) -> str:
        """What opens it again, from any working folder."""
        return self.answerer.reference

    def answers(self, examples: Sequence[Example], *, max_new_tokens: int) -> list[str]:
        """Its own greedy answer to each."""
        judge = self.answerer
        found = generate(
            judge.base.model, [judge.prompt(one.prompt, list(map(dict, one.tools))) for one in examples],
            stop_ids=judge.renderer.stop_ids, settings=SamplingSettings(max_new_tokens=max_new_tokens),
        )  # fmt: skip
        return [judge.text(one.ids).strip() for one in found]


@dataclass(frozen=True, slots=True)
class EndpointTeacher:
    """A model behind an endpoint whose completions echo log-probabilities of a prompt, as vLLM's and hone's do."""

    endpoint: Endpoint

    @property
    def name(self) -> str:
        """``URL#model``."""
        return self.endpoint.name

    @property
    def reference(self) -> str:
        """What opens it again."""
        return self.endpoint.name

    def answers(self, examples: Sequence[Example], *, max_new_tokens: int) -> list[str]:
        """Its own greedy answer to each.

        Raises:
            ModelError, HoneError: as :func:`hone.model.endpoint.ask_endpoint`.
        """
        asked = [(asked_messages(one), list(map(dict, one.tools))) for one in examples]
        found = ask_endpoint(self.endpoint, asked, max_new_tokens=max_new_tokens, key=os.environ.get(KEY_VARIABLE))
        return [one.text.strip() for one in found]

    def references(self, groups: Sequence[RolloutGroup]) -> list[RolloutGroup]:
        """The groups with the teacher's log-probability of each token of their answers.

        Raises:
            ModelError, HoneError: as :func:`hone.model.endpoint.score_tokens`.
        """
        sequences = [sequence for group in groups for sequence in group.sequences]
        scored = iter(score_tokens(self.endpoint, [one.ids for one in sequences], key=os.environ.get(KEY_VARIABLE))[0])
        return [
            replace(
                group,
                references=tuple(
                    tuple(value for value, flag in zip(next(scored), one.supervised, strict=True) if flag)
                    for one in group.sequences
                ),
            )
            for group in groups
        ]


def open_teacher(text: str, student: LoadedModel, *, home: Path, note: Note) -> LocalTeacher | EndpointTeacher:
    """The teacher that ``--teacher`` names, made sure that it reads the student's tokens.

    Args:
        text: a base, a version, or ``URL#MODEL``.
        student: with its tokenizer.
        home: hone's home folder.
        note: receives sentences for the user.

    Raises:
        ConfigError: it has another tokenizer, or writes no text.
        ModelError, VersionError: there is no such model, or the endpoint does not score tokens.
    """
    endpoint = parse_endpoint(text, option=_OPTION)
    if endpoint is not None:
        _require_same_tokens(endpoint, student)
        return EndpointTeacher(endpoint)
    dtype = str(student.dtype).removeprefix("torch.")
    answerer = load_answerer(text, home=home, device=student.device, dtype=dtype, note=note)
    if score_head_of(answerer.base.model) is not None:
        raise ConfigError(
            f"{answerer.name} is a reward model, which writes nothing",
            where=_OPTION,
            remedy="give it as --reward to --method grpo, rloo, ppo or raft",
        )
    theirs, ours = answerer.base.tokenizer.get_vocab(), student.tokenizer.get_vocab()
    if theirs != ours:
        differing = sorted(set(theirs.items()) ^ set(ours.items()), key=lambda one: one[1])
        raise _other_tokenizer(answerer.name, student, f"{len(differing)} of their entries differ")
    return LocalTeacher(answerer)


def _require_same_tokens(endpoint: Endpoint, student: LoadedModel) -> None:
    """Let the endpoint read the tokens of a sentence and say what they are."""
    ids = tuple(student.tokenizer.encode(_TEXT, add_special_tokens=False))
    read = score_tokens(endpoint, [ids], key=os.environ.get(KEY_VARIABLE))[1][0]
    if read != _TEXT:
        raise _other_tokenizer(endpoint.name, student, f"it reads '{read}' where '{_TEXT}' was written")


def _other_tokenizer(name: str, student: LoadedModel, what: str) -> ConfigError:
    return ConfigError(
        f"{name} has another tokenizer than {student.name}: {what}",
        where=_OPTION,
        why="a teacher reads the student's own tokens and says how likely it finds each",
        remedy="take a teacher of the same family; of any other, let it write answers and train on them with sft",
    )


@dataclass
class TeacherLikeness:
    """A reward for held-out rows: how like the teacher's own greedy answer one is, by chrF from 0 to 1.

    Args:
        name: the teacher, as :func:`open_teacher` takes it.
        max_new_tokens: its longest answer.
        home: hone's home folder.
        note: receives sentences for the user.
        device: on which a teacher of this machine answers; chosen where None.
        dtype: of its weights; chosen where None.
    """

    name: str
    max_new_tokens: int
    home: Path
    note: Note
    device: str | None = None
    dtype: str | None = None
    _answers: dict[str, str] = field(default_factory=dict)

    def describe(self) -> JsonDict:
        """As :func:`hone.recipe.rewards.open_stored_reward` reads it."""
        return {"kind": "teacher", "name": self.name, "max_new_tokens": self.max_new_tokens}

    def check(self, rows: Sequence[Task]) -> None:
        """Every row can be graded."""

    def __call__(self, answers: Sequence[GradedAnswer]) -> list[float]:
        """The likeness of each answer.

        Raises:
            ModelError, VersionError, HoneError: the teacher is not there any more, or does not answer.
        """
        asked = {_question(one.example): one.example for one in answers}
        new = {question: example for question, example in asked.items() if question not in self._answers}
        if new:
            found = self._teacher().answers(list(new.values()), max_new_tokens=self.max_new_tokens)
            self._answers |= dict(zip(new, found, strict=True))
        own = [self._answers[_question(one.example)] for one in answers]
        scores = chrf_aggregate(chrf_statistics([one.text for one in answers], own)) / 100
        return [float(score) for score in scores]

    def _teacher(self) -> LocalTeacher | EndpointTeacher:
        endpoint = parse_endpoint(self.name, option=_OPTION)
        if endpoint is not None:
            return EndpointTeacher(endpoint)
        return LocalTeacher(
            load_answerer(self.name, home=self.home, device=self.device, dtype=self.dtype, note=self.note)
        )


def _question(example: Example) -> str:
    return json.dumps([asked_messages(example), list(map(dict, example.tools))], sort_keys=True, ensure_ascii=False)
