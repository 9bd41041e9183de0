"""Rewards that are a user's own Python function; whatever goes wrong in one is told with its name and its line."""

from __future__ import annotations

import importlib
import importlib.util
import math
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any

from hone.errors import ConfigError
from hone.recipe.graded_answer import GradedAnswer
from hone.types import JsonDict, Task

__all__ = ["FunctionReward"]


_REMEDY = "mend the function; it is called as reward(prompt, answer, row) and gives a number"
# beyond it the mean and the deviation of a group are no numbers any more
_LARGEST = 1e9


class _Checked:
    """Turns whatever goes wrong in a user's own function into an error that names it, its line and the answer.

    ``sys.exit`` is no way out either: the run would end as if all were well.
    """

    def __init__(self, name: str, option: str, answer: GradedAnswer | None = None) -> None:
        self._name = name
        self._option = option
        self._answer = answer

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not isinstance(error, Exception | SystemExit) or isinstance(error, ConfigError):
            return
        own = str(Path(__file__).parents[1])
        where = [one for one in traceback.extract_tb(trace) if not one.filename.startswith((own, "<frozen"))]
        place = f" (line {where[-1].lineno} of {where[-1].filename})" if where else ""
        raise ConfigError(
            f"{self._name} failed: {type(error).__name__}: {error}{place}",
            where=self._option,
            details=[] if self._answer is None else _said_of(self._answer),
            remedy=_REMEDY,
        ) from error


def _said_of(answer: GradedAnswer) -> list[str]:
    return [f"row {answer.example.row}, the answer: {answer.text[:200]!r}"]


class FunctionReward:
    """A function as a :class:`hone.recipe.rewards.Reward`.

    Args:
        place: a module, as Python imports it from the working folder, or a path that ends in ``.py``.
        name: of the function in it.
        option: the option that names it, for messages.

    Raises:
        ConfigError: there is no such function, or its module fails.
    """

    def __init__(self, place: str, name: str, option: str) -> None:
        self._function = _function(place, name, option)
        # under which it is found again from another working folder
        self._name = f"{Path(place).absolute() if place.endswith('.py') else place}:{name}"
        self._option = option

    def describe(self) -> JsonDict:
        """What it is, as a version's notes keep it."""
        return {"kind": "function", "name": self._name}

    def check(self, rows: Sequence[Task]) -> None:
        """Any row may be given to a function."""

    def __call__(self, answers: Sequence[GradedAnswer]) -> list[float]:
        """What the function gives each answer."""
        found = []
        for one in answers:
            prompt = [{"role": turn.role, "content": turn.content} for turn in one.example.prompt]
            with _Checked(self._name, self._option, one):
                value = self._function(prompt, one.text, dict(one.item))
            found.append(_number(value, self._name, self._option, one))
        return found


def _number(value: Any, name: str, option: str, answer: GradedAnswer) -> float:
    try:
        number = value if isinstance(value, bool | int | float) else getattr(value, "item", lambda: None)()
        found = float(number) if isinstance(number, bool | int | float) else math.nan
    except (ValueError, RuntimeError, OverflowError):  # an array or tensor of several, or too large an integer
        found = math.nan
    if not abs(found) <= _LARGEST:
        raise ConfigError(
            f"{name} gave {value!r}, and a reward is a finite number, of {_LARGEST:g} at most either way",
            where=option,
            details=_said_of(answer),
            remedy=_REMEDY,
        )
    return found


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
