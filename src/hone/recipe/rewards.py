"""Rewards: what an answer is worth, from a Python function, a grader in OpenAI's format, or a reward model.

A function is called as ``reward(prompt, answer, row) -> float``:

    prompt   the turns before the answer, as ``[{"role": "user", "content": "..."}]``
    answer   the text that the model wrote
    row      the columns of the row, and ``reference_answer`` where it has one

A grader or reward model that fails on one answer is no reason to end a run: the answer is worth nothing, and that is
told. One that fails on all is.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from hone.config.schema import TrainConfig
from hone.errors import ConfigError, TemplateError
from hone.evaluation.grader_template import missing_of_item
from hone.evaluation.grading import Grading, check_grader, check_places, grade, parts_of, templates_of
from hone.model.score_head import score_head_of
from hone.recipe.function_reward import FunctionReward
from hone.recipe.graded_answer import GradedAnswer
from hone.recipe.grader_judges import GraderJudges
from hone.recipe.inference import Answerer, load_answerer
from hone.recipe.reward import answer_scores
from hone.recipe.teacher import TeacherLikeness
from hone.types import Example, JsonDict, Message, Task, TokenSequence

__all__ = ["GradedAnswer", "Reward", "open_reward", "open_stored_reward", "require_rewards"]

Note = Callable[[str], None]

_ONE_GRADER = "write one grader as an object (docs/preferences.md)"
_FUNCTION = re.compile(r"(.+):([A-Za-z_]\w*)")
_SHOWN_CHARACTERS = 300


class Reward(Protocol):
    """What answers are worth."""

    def describe(self) -> JsonDict:
        """What it is, as :func:`open_stored_reward` reads it."""

    def check(self, rows: Sequence[Task]) -> None:
        """Refuse rows that it cannot grade.

        Args:
            rows: all that it is to grade.

        Raises:
            ConfigError: it reads a column that a row does not have.
        """

    def __call__(self, answers: Sequence[GradedAnswer]) -> list[float]:
        """A finite number for each answer.

        Raises:
            ConfigError: it fails, or gives none.
        """


def open_reward(
    text: str,
    *,
    home: Path,
    option: str = "--reward",
    device: str | None = None,
    dtype: str | None = None,
    note: Note = lambda text: None,
) -> Reward:
    """The reward that an option names; nothing heavy is loaded before it is called.

    Args:
        text: ``module:function``, ``file.py:function``, a JSON file with a grader, the grader itself as JSON, or a
            version that is a reward model.
        home: hone's home folder.
        option: the option's name, for messages.
        device: on which models that it asks are loaded; chosen where None.
        dtype: of their weights; chosen where None.
        note: receives sentences for the user.

    Raises:
        ConfigError: there is no such function, file or grader.
        GraderError: the grader could not run.
    """
    if text.endswith(".py"):
        raise ConfigError(f"{text} names no function", where=option, remedy=f"write {option} {text}:FUNCTION")
    judges = GraderJudges(home, device, dtype, note)
    if text.lstrip().startswith("{"):
        return _graded_by(_parse_grader(text, "the grader", option), judges, option, note)
    if text.endswith(".json") or os.path.isfile(text):
        return _graded_by(_read_grader(Path(text), option), judges, option, note)
    found = _FUNCTION.fullmatch(text)
    if found:
        return FunctionReward(found[1], found[2], option)
    return _ModelReward(text, home, option, device, dtype, note, _Failures("the reward model", option, note))


def require_rewards(config: TrainConfig, *, home: Path) -> None:
    """Open the rewards that the options name, and leave them: a missing one is to be found before a model is loaded.

    Raises:
        ConfigError: as :func:`open_reward`.
        GraderError: as :func:`open_reward`.
    """
    for text, option in ((config.reward, "--reward"), (config.watch_reward, "--watch-reward")):
        if text:
            open_reward(text, home=home, option=option)


def open_stored_reward(
    stored: JsonDict,
    *,
    home: Path,
    device: str | None = None,
    dtype: str | None = None,
    note: Note = lambda text: None,
) -> Reward:
    """The reward that a version was trained by, from its notes.

    Args:
        stored: as :meth:`Reward.describe` gave it.
        home: hone's home folder.
        device: on which models that it asks are loaded; chosen where None.
        dtype: of their weights; chosen where None.
        note: receives sentences for the user.

    Raises:
        ConfigError: its function is no longer there.
        GraderError: its grader could not run.
    """
    if stored["kind"] == "teacher":
        return TeacherLikeness(stored["name"], stored["max_new_tokens"], home, note, device=device, dtype=dtype)
    if stored["kind"] == "grader":
        check_grader(stored["grader"])
        return _graded_by(stored["grader"], GraderJudges(home, device, dtype, note), "--reward", note)
    return open_reward(stored["name"], home=home, device=device, dtype=dtype, note=note)


@dataclass
class _Failures:
    """Tells of answers that could not be graded, of each kind of fault again once it has become twice as frequent."""

    who: str
    option: str
    note: Note
    told: dict[str, int] = field(default_factory=dict)

    def take(self, faults: Sequence[Sequence[str]]) -> None:
        """Tell what failed.

        Args:
            faults: of each answer, as ``kind: sentence``; none where it was graded.

        Raises:
            ConfigError: every one of several answers failed. A single held-out row says nothing of the grader.
        """
        failed = [of_answer for of_answer in faults if of_answer]
        if len(failed) == len(faults) > 1:
            raise ConfigError(
                f"{self.who} fails on every answer, so that nothing can be learned",
                where=self.option,
                details=sorted({text[:_SHOWN_CHARACTERS] for of_answer in failed for text in of_answer}),
                remedy="mend it; `hone serve` tries a grader on an answer (docs/serve.md)",
            )
        first = {text.partition(":")[0]: text for of_answer in reversed(failed) for text in reversed(of_answer)}
        for kind, text in sorted(first.items()):
            count = sum(any(one.partition(":")[0] == kind for one in of_answer) for of_answer in failed)
            if count >= 2 * self.told.get(kind, 0):
                self.told[kind] = count
                many = "an answer, which is" if count == 1 else f"{count} of {len(faults)} answers, which are"
                self.note(f"{self.who} failed on {many} worth nothing: {text[:_SHOWN_CHARACTERS]}")


def _graded_by(grader: JsonDict, judges: GraderJudges, option: str, note: Note) -> _GraderReward:
    return _GraderReward(grader, judges, option, _Failures("the grader", option, note))


@dataclass
class _GraderReward:
    grader: JsonDict
    judges: GraderJudges
    option: str
    failures: _Failures

    def describe(self) -> JsonDict:
        return {"kind": "grader", "grader": self.grader}

    def check(self, rows: Sequence[Task]) -> None:
        items = [row.item for row in rows]
        templates = [template for part in parts_of(self.grader) for _, template in templates_of(part)]
        missing = [sorted({one for template in templates for one in missing_of_item(template, item)}) for item in items]
        lacking = [place for place, names in enumerate(missing) if names]
        if not lacking:
            return
        columns = sorted({f"item.{key}" for item in items for key in item})
        names = ", ".join(sorted({name for names in missing for name in names}))
        in_words = "no row has that" if len(lacking) == len(items) else f"{len(lacking)} of {len(items)} rows lack it"
        raise ConfigError(
            f"the grader reads {names}, and {in_words}",
            where=self.option,
            details=[f"{rows[place].source}:{rows[place].line}: no {', '.join(missing[place])}" for place in lacking],
            why="it would be read as an empty text, which stands in every answer",
            remedy=f"fill it in, leave those rows out, or name one of: {', '.join(columns[:20])}",
        )

    def __call__(self, answers: Sequence[GradedAnswer]) -> list[float]:
        found, faults = [], []
        for one in answers:
            grading = Grading.of(one.text, one.item, answer_chat=self.judges.answer, run_programs=True)
            found.append(grade(self.grader, grading)[0])
            faults.append(grading.faults)
        self.failures.take(faults)
        return found


@dataclass
class _ModelReward:
    name: str
    home: Path
    option: str
    device: str | None
    dtype: str | None
    note: Note
    failures: _Failures
    judge: Answerer | None = None

    def describe(self) -> JsonDict:
        return {"kind": "model", "name": self.name}

    def check(self, rows: Sequence[Task]) -> None:
        self._loaded()

    def __call__(self, answers: Sequence[GradedAnswer]) -> list[float]:
        judge = self._loaded()
        sequences: list[TokenSequence] = []
        faults: list[list[str]] = []
        for one in answers:
            try:
                sequences.append(_judged(judge, one))
                faults.append([])
            except TemplateError as error:  # it spells a control token, or is longer than the judge can see
                faults.append([f"template: {error.what}"])
        self.failures.take(faults)
        scores = answer_scores(judge, sequences)
        # Scores have no zero of their own: what cannot be graded must not be worth more than what can.
        nothing, each = min([0.0, *scores]), iter(scores)
        return [nothing if of_answer else next(each) for of_answer in faults]

    def _loaded(self) -> Answerer:
        if self.judge is None:
            self.judge = load_answerer(self.name, home=self.home, device=self.device, dtype=self.dtype, note=self.note)
            if score_head_of(self.judge.base.model) is None:
                raise ConfigError(
                    f"{self.name} is neither a function, nor a file with a grader, nor a reward model",
                    where=self.option,
                    remedy="give module:function, a JSON file with a grader, or a version trained with --method reward",
                )
            self.name = self.judge.reference
        return self.judge


def _judged(judge: Answerer, answer: GradedAnswer) -> TokenSequence:
    """Prompt and answer as the reward model reads them; of an empty answer the token alone that ends it.

    Raises:
        TemplateError: the judge's template refuses or drops a part, or the answer is too long for it.
    """
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
    check_places(grader)
    return grader
