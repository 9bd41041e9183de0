"""What a method does around the optimizer steps: rows become something else before, and figures come out after."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

__all__ = ["AroundSteps", "NothingAround"]


class AroundSteps(Protocol):
    """A method that makes what it trains on while it trains, as rollouts of reinforcement learning."""

    @property
    def steps_each(self) -> int:
        """Optimizer steps over what :meth:`before` gives once; a checkpoint stands only behind the last of them."""

    @property
    def grading_seconds(self) -> float:
        """What the user's own rewards have taken so far, for whoever compares a run's time with what was predicted."""

    def before(self, step: int, rows: Sequence[Any]) -> Sequence[Any]:
        """What is trained on in place of ``rows``, as a function of the weights, the seed and ``step`` alone.

        Args:
            step: the first optimizer step that trains on it, from 1.
            rows: of the step.
        """

    def after(self, step: int) -> Mapping[str, float]:
        """Figures of a step, for its event.

        Args:
            step: that was made.
        """


class NothingAround:
    """For methods that train on their rows as they are."""

    steps_each = 1
    grading_seconds = 0.0

    def before(self, step: int, rows: Sequence[Any]) -> Sequence[Any]:
        """``rows``."""
        return rows

    def after(self, step: int) -> Mapping[str, float]:
        """No figures."""
        return {}
