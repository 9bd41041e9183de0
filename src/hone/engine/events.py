"""What a run says while it works: events, and the Recorder that receives them.

The engine and the recipes only emit; the registry writes events to ``metrics.jsonl`` and the
command line draws a progress bar from the same stream. ``data`` depends on (seed, step) alone, so
that a resumed run writes the same bytes; whatever the clock decides stands in ``timing``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

__all__ = ["Event", "EventKind", "Recorder", "Tee"]

EventKind = Literal["stage", "note", "progress", "step", "rollout", "validation", "checkpoint"]


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that happened.

    Args:
        kind: ``stage`` {name, detail}: a new part of the job begins;
            ``note`` {text}: a sentence for the user; of a number that was chosen also {choice, value, reason};
            ``progress`` {task, done, total}: work that is no training step;
            ``step`` {step, total_steps, epoch, loss, learning_rate, gradient_norm, tokens, supervised_tokens}, and of
            reinforcement learning {reward, kl, length, ...};
            ``rollout`` {step, row, sample, answer, reward, ...}: an answer that was trained on;
            ``validation`` {step, loss, best};
            ``checkpoint`` {step, path}.
        data: figures that depend on data, model and seed alone.
        timing: figures of the clock: {seconds, tokens_per_second, seconds_left}.
    """

    kind: EventKind
    data: Mapping[str, Any]
    timing: Mapping[str, float] = field(default_factory=dict)


class Recorder(Protocol):
    """Receives events; the only way in which the engine speaks."""

    def record(self, event: Event) -> None:
        """Take one event; must not raise for an event it does not know."""


class Tee:
    """Hands each event to several recorders, in order."""

    def __init__(self, *recorders: Recorder) -> None:
        self._recorders = recorders

    def record(self, event: Event) -> None:
        """Pass ``event`` on."""
        for recorder in self._recorders:
            recorder.record(event)
