"""Rewards: what an answer is worth, from a Python function, a grader in OpenAI's format, or a reward model.

A function is called as ``reward(prompt, answer, row) -> float``:

    prompt   the turns before the answer, as ``[{"role": "user", "content": "..."}]``
    answer   the text that the model wrote
    row      the columns of the row, and ``reference_answer`` where it has one
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from hone.config.schema import TrainConfig
from hone.errors import ConfigError
from hone.evaluation.grading import AnswerChat, Grading, check_grader, grade
from hone.model.endpoint import ask_endpoint, parse_endpoint
from hone.model.generate import SamplingSettings, generate
from hone.model.score_head import score_head_of
from hone.recipe.arm_answers import KEY_VARIABLE
from hone.recipe.function_reward import FunctionReward
from hone.recipe.graded_answer import GradedAnswer
from hone.recipe.inference import Answerer, load_answerer
from hone.recipe.reward import answer_scores
from hone.recipe.teacher import TeacherLikeness
from hone.types import Example, JsonDict, Message, TokenSequence

__all__ = ["GradedAnswer", "Reward", "open_reward", "open_stored_reward", "require_rewards"]

Note = Callable[[str], None]

_GRADE_TOKENS = 256
_ONE_GRADER = "write one grader as an object (docs/preferences.md)"
_FUNCTION = re.compile(r"(.+):([A-Za-z_]\w*)")
_ITEM_PLACE = re.compile(r"\{\{\s*item\.([\w-]+)")


class Reward(Protocol):
    """What answers are worth."""

    def describe(self) -> JsonDict:
        """What it is, as :func:`open_stored_reward` reads it."""

    def check(self, items: Sequence[JsonDict]) -> None:
        """Refuse rows that it cannot grade.

        Args:
            items: of all rows.

        Raises:
            ConfigError: it names a column that no row has.
        """

    def __call__(self, answers: Sequence[GradedAnswer]) -> list[float]:
        """A finite number for each answer.

        Raises:
            ConfigError: it fails, or gives none.
        """


def open_reward(text: str, *, home: Path, option: str = "--reward", note: Note = lambda text: None) -> Reward:
    """The reward that an option names; nothing heavy is loaded before it is called.

    Args:
        text: ``module:function``, ``file.py:function``, a JSON file with a grader, the grader itself as JSON, or a
            version that is a reward model.
        home: hone's home folder.
        option: the option's name, for messages.
        note: receives sentences for the user.

    Raises:
        ConfigError: there is no such function, file or grader.
        GraderError: the grader could not run.
    """
    if text.endswith(".py"):
        raise ConfigError(f"{text} names no function", where=option, remedy=f"write {option} {text}:FUNCTION")
    if text.lstrip().startswith("{"):
        return _GraderReward(_parse_grader(text, "the grader", option), home, option, note)
    if text.endswith(".json") or os.path.isfile(text):
        return _GraderReward(_read_grader(Path(text), option), home, option, note)
    found = _FUNCTION.fullmatch(text)
    if found:
        return FunctionReward(found[1], found[2], option)
    return _ModelReward(text, home, option, note)


def require_rewards(config: TrainConfig, *, home: Path) -> None:
    """Open the rewards that the options name, and leave them: a missing one is to be found before a model is loaded.

    Raises:
        ConfigError: as :func:`open_reward`.
        GraderError: as :func:`open_reward`.
    """
    for text, option in ((config.reward, "--reward"), (config.watch_reward, "--watch-reward")):
        if text:
            open_reward(text, home=home, option=option)


def open_stored_reward(stored: JsonDict, *, home: Path, note: Note = lambda text: None) -> Reward:
    """The reward that a version was trained by, from its notes.

    Args:
        stored: as :meth:`Reward.describe` gave it.
        home: hone's home folder.
        note: receives sentences for the user.

    Raises:
        ConfigError: its function is no longer there.
    """
    if stored["kind"] == "teacher":
        return TeacherLikeness(stored["name"], stored["max_new_tokens"], home, note)
    if stored["kind"] == "grader":
        return _GraderReward(stored["grader"], home, "--reward", note)
    return open_reward(stored["name"], home=home, note=note)


@dataclass
class _GraderReward:
    grader: JsonDict
    home: Path
    option: str
    note: Note
    models: dict[str, Answerer] = field(default_factory=dict)
    told: set[str] = field(default_factory=set)

    def describe(self) -> JsonDict:
        return {"kind": "grader", "grader": self.grader}

    def check(self, items: Sequence[JsonDict]) -> None:
        wanted = set(_ITEM_PLACE.findall(json.dumps(self.grader, ensure_ascii=False)))
        missing = sorted(wanted - {key for item in items for key in item})
        if missing:
            columns = sorted({key for item in items for key in item})
            raise ConfigError(
                f"the grader reads {', '.join(f'item.{name}' for name in missing)}, and no row has such a column",
                where=self.option,
                remedy=f"name one of: {', '.join(f'item.{name}' for name in columns[:20])}",
            )

    def __call__(self, answers: Sequence[GradedAnswer]) -> list[float]:
        found, failed, failing = [], [], 0
        for one in answers:
            grading = Grading.of(one.text, one.item, answer_chat=self._answer_chat(), run_programs=True)
            found.append(grade(self.grader, grading)[0])
            faults = grading.errors - {"invalid_variable_error"}  # a place in an answer that is no JSON
            failing += bool(faults)
            failed += [f"{name}: {next(iter(grading.details.values()), '')}" for name in faults]
        if failing == len(answers) > 1:  # a single held-out row says nothing of the grader
            raise ConfigError(
                "the grader fails on every answer, so that nothing can be learned",
                where=self.option,
                details=sorted(set(failed)),
                remedy="mend the grader; `hone serve` tries one on an answer (docs/serve.md)",
            )
        for text in sorted({text[:300] for text in failed} - self.told):
            self.told.add(text)
            self.note(f"the grader failed on an answer, which counts as 0: {text}")
        if not all(map(math.isfinite, found)):
            raise ConfigError("the grader's formula gave no finite number", where=self.option, remedy="mend it")
        return found

    def _answer_chat(self) -> AnswerChat:
        def answer(model: str, messages: list[JsonDict], sampling: JsonDict) -> str:
            limit = int(sampling.get("max_completions_tokens") or _GRADE_TOKENS)
            endpoint = parse_endpoint(model)
            if endpoint is not None:
                key = os.environ.get(KEY_VARIABLE)
                return ask_endpoint(endpoint, [(messages, [])], max_new_tokens=limit, key=key)[0].text
            if model not in self.models:
                self.models[model] = load_answerer(model, home=self.home, note=self.note)
            judge = self.models[model]
            turns = [Message(one["role"], one["content"]) for one in messages]
            (given,) = generate(
                judge.base.model, [judge.prompt(turns)], stop_ids=judge.renderer.stop_ids,
                settings=SamplingSettings(max_new_tokens=limit),
            )  # fmt: skip
            return judge.text(given.ids)

        return answer


@dataclass
class _ModelReward:
    name: str
    home: Path
    option: str
    note: Note
    judge: Answerer | None = None

    def describe(self) -> JsonDict:
        return {"kind": "model", "name": self.name}

    def check(self, items: Sequence[JsonDict]) -> None:
        self._loaded()

    def __call__(self, answers: Sequence[GradedAnswer]) -> list[float]:
        judge = self._loaded()
        sequences = []
        for one in answers:
            sequences.append(_judged(judge, one))
        return answer_scores(judge, sequences)

    def _loaded(self) -> Answerer:
        if self.judge is None:
            self.judge = load_answerer(self.name, home=self.home, note=self.note)
            if score_head_of(self.judge.base.model) is None:
                raise ConfigError(
                    f"{self.name} is neither a function, nor a file with a grader, nor a reward model",
                    where=self.option,
                    remedy="give module:function, a JSON file with a grader, or a version trained with --method reward",
                )
            self.name = self.judge.reference
        return self.judge


def _judged(judge: Answerer, answer: GradedAnswer) -> TokenSequence:
    """Prompt and answer as the reward model reads them; of an empty answer the token alone that ends it."""
    said = answer.text if answer.text.strip() else "."
    turns = (*answer.example.prompt, Message("assistant", said, supervised=True))
    whole = judge.renderer.render(Example(turns, answer.example.tools)).sequences[-1]
    if said == answer.text:
        return whole
    begins, ends = whole.supervised.index(True), len(whole.ids) - whole.supervised[::-1].index(True) - 1
    return TokenSequence((*whole.ids[:begins], whole.ids[ends]), (False,) * begins + (True,), whole.row)


def _read_grader(path: Path, option: str) -> JsonDict:
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror or error}", where=option, remedy="check the file's name") from error
    except ValueError as error:
        raise ConfigError(f"{path} is no text: {error}", where=option, remedy=_ONE_GRADER) from error
    return _parse_grader(text, str(path), option)


def _parse_grader(text: str, name: str, option: str) -> JsonDict:
    try:
        grader = json.loads(text)
    except ValueError as error:
        raise ConfigError(f"{name} is no JSON: {error}", where=option, remedy=_ONE_GRADER) from error
    if not isinstance(grader, dict):
        raise ConfigError(f"{name} holds no object", where=option, remedy=_ONE_GRADER)
    check_grader(grader)
    return grader
