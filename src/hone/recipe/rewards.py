"""Rewards: what an answer is worth, from a Python function, a grader in OpenAI's format, or a reward model.

A function is called as ``reward(prompt, answer, row) -> float``:

    prompt   the turns before the answer, as ``[{"role": "user", "content": "..."}]``
    answer   the text that the model wrote
    row      the columns of the row, and ``reference_answer`` where it has one
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import math
import os
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any, Protocol

from hone.config.schema import TrainConfig
from hone.errors import ConfigError
from hone.evaluation.grading import AnswerChat, Grading, check_grader, grade
from hone.model.endpoint import ask_endpoint, parse_endpoint
from hone.model.generate import SamplingSettings, generate
from hone.model.score_head import score_head_of
from hone.recipe.arm_answers import KEY_VARIABLE
from hone.recipe.inference import Answerer, load_answerer
from hone.recipe.reward import answer_scores
from hone.types import Example, JsonDict, Message

__all__ = ["GradedAnswer", "Reward", "open_reward", "open_stored_reward", "require_rewards"]

Note = Callable[[str], None]

_GRADE_TOKENS = 256
_ONE_GRADER = "write one grader as an object (docs/preferences.md)"
_FUNCTION = re.compile(r"(.+):([A-Za-z_]\w*)")
_ITEM_PLACE = re.compile(r"\{\{\s*item\.([\w-]+)")


@dataclass(frozen=True, slots=True)
class GradedAnswer:
    """An answer that is to be graded.

    Args:
        example: the row; its own last turn is the reference.
        item: what a grader sees of the row.
        text: the answer.
    """

    example: Example
    item: JsonDict
    text: str


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
        text: ``module:function``, ``file.py:function``, a JSON file with a grader, or a version that is a reward model.
        home: hone's home folder.
        option: the option's name, for messages.
        note: receives sentences for the user.

    Raises:
        ConfigError: there is no such function, file or grader.
        GraderError: the grader could not run.
    """
    if text.endswith(".py"):
        raise ConfigError(f"{text} names no function", where=option, remedy=f"write {option} {text}:FUNCTION")
    if text.endswith(".json") or Path(text).is_file():
        return _GraderReward(_read_grader(Path(text), option), home, option, note)
    found = _FUNCTION.fullmatch(text)
    if found:
        return _FunctionReward(_function(found[1], found[2], option), _absolute(text), option)
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
    if stored["kind"] == "grader":
        return _GraderReward(stored["grader"], home, "--reward", note)
    return open_reward(stored["name"], home=home, note=note)


class _Checked:
    """Turns whatever goes wrong in a user's own function into an error that names it."""

    def __init__(self, name: str, option: str) -> None:
        self._name = name
        self._option = option

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, Exception) and not isinstance(error, ConfigError):
            at = trace
            while at is not None and at.tb_next is not None:
                at = at.tb_next
            place = "" if at is None else f" (line {at.tb_lineno} of {at.tb_frame.f_code.co_filename})"
            raise ConfigError(
                f"{self._name} failed: {type(error).__name__}: {error}{place}",
                where=self._option,
                remedy="mend the function; it is called as reward(prompt, answer, row) and gives a number",
            ) from error


class _FunctionReward:
    def __init__(self, function: Callable[..., Any], name: str, option: str) -> None:
        self._function = function
        self._name = name
        self._option = option

    def describe(self) -> JsonDict:
        return {"kind": "function", "name": self._name}

    def check(self, items: Sequence[JsonDict]) -> None:
        return None

    def __call__(self, answers: Sequence[GradedAnswer]) -> list[float]:
        found = []
        for one in answers:
            prompt = [{"role": turn.role, "content": turn.content} for turn in one.example.prompt]
            with _Checked(self._name, self._option):
                value = self._function(prompt, one.text, dict(one.item))
            found.append(_number(value, self._name, self._option, one))
        return found


def _number(value: Any, name: str, option: str, answer: GradedAnswer) -> float:
    number = value if isinstance(value, bool | int | float) else getattr(value, "item", lambda: None)()
    if not isinstance(number, bool | int | float) or not math.isfinite(number):
        raise ConfigError(
            f"{name} gave {value!r} for an answer to row {answer.example.row}, and a reward is a finite number",
            where=option,
            details=[f"the answer: {answer.text[:200]!r}"],
            remedy="mend the function; it is called as reward(prompt, answer, row) and gives a number",
        )
    return float(number)


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
        found, failed = [], []
        for one in answers:
            grading = Grading.of(one.text, one.item, answer_chat=self._answer_chat(), run_programs=True)
            found.append(grade(self.grader, grading)[0])
            failed += [
                f"{name}: {next(iter(grading.details.values()), '')}"
                for name in grading.errors
                if name != "invalid_variable_error"  # a place in an answer that is no JSON
            ]
        if len(failed) >= len(answers):
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
            turns = (*one.example.prompt, Message("assistant", one.text, supervised=True))
            sequences.append(judge.renderer.render(Example(turns, one.example.tools)).sequences[-1])
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
            self.name = self.judge.name
        return self.judge


def _read_grader(path: Path, option: str) -> JsonDict:
    try:
        grader = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror or error}", where=option, remedy="check the file's name") from error
    except ValueError as error:
        raise ConfigError(f"{path} is no JSON: {error}", where=option, remedy=_ONE_GRADER) from error
    if not isinstance(grader, dict):
        raise ConfigError(f"{path} holds no object", where=option, remedy=_ONE_GRADER)
    check_grader(grader)
    return grader


def _absolute(text: str) -> str:
    """The name under which it is found again from another working folder."""
    place, name = text.rsplit(":", 1)
    return f"{Path(place).absolute()}:{name}" if place.endswith(".py") else text


def _function(place: str, name: str, option: str) -> Callable[..., Any]:
    with _Checked(place, option):
        module = _module(place, option)
    function = getattr(module, name, None)
    if not callable(function):
        known = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        raise ConfigError(
            f"{place} has no function {name}",
            where=option,
            remedy=f"it has: {', '.join(known[:20]) or 'none'}",
        )
    found: Callable[..., Any] = function
    return found


def _module(place: str, option: str) -> ModuleType:
    if place.endswith(".py"):
        path = Path(place)
        spec = importlib.util.spec_from_file_location(f"hone_reward_{path.stem}", path) if path.is_file() else None
        if spec is None or spec.loader is None:
            raise ConfigError(f"no such file: {place}", where=option, remedy="check the path")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module
    folder = str(Path.cwd())
    if folder not in sys.path:
        sys.path.insert(0, folder)
    try:
        return importlib.import_module(place)
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"there is no module {place}: {error}",
            where=option,
            remedy="name it as Python imports it from this folder, or its file: path/rewards.py:function",
        ) from error
