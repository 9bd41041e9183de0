"""What a run says while it works, on standard error: bars on a terminal, plain lines elsewhere.

Away from a terminal a line comes for each stage, note and validation, and for each tenth of the steps; nothing is
ever overwritten and no control character is written.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn

from hone.cli.output import LABEL_COLUMNS, console, labelled, paragraph, text_columns
from hone.engine.events import Event, Recorder

__all__ = ["ProgressRecorder", "reported"]

_LINES_A_TRAINING = 10
_ROOMY_COLUMNS = 100
# Of reinforcement learning: figures of a step that are shown beside its loss, and how.
_FIGURES = {"reward": ".3f", "watch_reward": ".3f", "kl": ".4f", "length": ".0f"}


class _Meter(Protocol):
    """Shows how far a piece of work has come."""

    def update(self, task: str, done: int, total: int, detail: str) -> None: ...

    def close(self) -> None: ...


class ProgressRecorder:
    """Shows the events of a run.

    Args:
        target: a console on standard error.
    """

    def __init__(self, target: Console) -> None:
        self._console = target
        live = target.is_terminal and not target.is_dumb_terminal
        self._meter: _Meter = _Bars(target) if live else _Lines(target)
        self._choices: list[Mapping[str, Any]] = []
        self._validation: float | None = None
        self._tokens = 0
        self._seconds = 0.0

    def record(self, event: Event) -> None:
        """Show one event; kinds that a person has no use for are passed over."""
        data = event.data
        if event.kind == "note" and "choice" in data:
            self._choices.append(data)
            return
        if event.kind == "rollout":
            return
        self._print_choices()
        if event.kind == "stage":
            self.close()
            self._line(str(data.get("name", "")), str(data.get("detail", "")))
        elif event.kind == "note":
            self._line("", str(data.get("text", "")))
        elif event.kind == "progress":
            self._meter.update(str(data["task"]), int(data["done"]), int(data["total"]), "")
        elif event.kind == "step":
            self._meter.update("step", data["step"], data["total_steps"], self._step_detail(event))
        elif event.kind == "validation":
            self._show_validation(data)

    def close(self) -> None:
        """Print what is still held back, and end the bars."""
        self._print_choices()
        self._meter.close()

    def _show_validation(self, data: Mapping[str, Any]) -> None:
        self._validation = data["loss"]
        if isinstance(self._meter, _Lines):
            best = ", kept so far" if data["best"] else ""
            self._line("", f"validation loss {data['loss']:.3f} after step {data['step']}{best}")

    def _step_detail(self, event: Event) -> str:
        parts = [f"loss {event.data['loss']:.3f}"]
        parts += [f"{name} {event.data[name]:{form}}" for name, form in _FIGURES.items() if name in event.data]
        if self._validation is not None:
            parts.append(f"val {self._validation:.3f}")
        self._tokens += event.data.get("tokens", 0)
        self._seconds += event.timing.get("seconds", 0.0)
        if self._seconds:
            parts.append(f"{self._tokens / self._seconds:.0f} tok/s")
        if "seconds_left" in event.timing:
            parts.append(f"{_clock(event.timing['seconds_left'])} left")
        return "  ".join(parts)

    def _print_choices(self) -> None:
        """The numbers that were chosen, as a block: name, value, reason."""
        chosen, self._choices = self._choices, []
        if not chosen:
            return
        names = max(len(str(one["choice"])) for one in chosen)
        values = max(len(str(one["value"])) for one in chosen)
        for one in chosen:
            margin = " " * LABEL_COLUMNS + f"{one['choice']:<{names}}  {one['value']!s:<{values}}  "
            self._console.print(paragraph(str(one["reason"]), columns=text_columns(self._console), first=margin))

    def _line(self, label: str, text: str) -> None:
        self._console.print(labelled(label, text, columns=text_columns(self._console)))


class _Bars:
    """One bar for each piece of work, redrawn in place."""

    def __init__(self, target: Console) -> None:
        self._console = target
        self._progress: Progress | None = None
        self._tasks: dict[str, TaskID] = {}

    def update(self, task: str, done: int, total: int, detail: str) -> None:
        if self._progress is None:
            self._progress = Progress(
                TextColumn(" " * (LABEL_COLUMNS - 1)),
                TextColumn("{task.description}", markup=False),
                BarColumn(bar_width=6 if self._console.width < _ROOMY_COLUMNS else 20),
                MofNCompleteColumn(),
                TextColumn("{task.fields[detail]}", markup=False),
                console=self._console,
                refresh_per_second=4,
            )
            self._progress.start()
        if task not in self._tasks:
            self._tasks[task] = self._progress.add_task(task, total=total, detail=detail)
        self._progress.update(self._tasks[task], completed=done, total=total, detail=detail)

    def close(self) -> None:
        if self._progress is not None:
            self._progress.stop()
        self._progress, self._tasks = None, {}


class _Lines:
    """A line when a tenth more of the steps is done, or when other work ends."""

    def __init__(self, target: Console) -> None:
        self._console = target
        self._next_share = 0.0

    def update(self, task: str, done: int, total: int, detail: str) -> None:
        share = done / total if total else 1.0
        due = share >= self._next_share if task == "step" else done == total
        if not (due or done == total):
            return
        self._next_share = share + 1 / _LINES_A_TRAINING
        self._console.print(f"{'':<{LABEL_COLUMNS}}{task} {done}/{total}  {detail}".rstrip())

    def close(self) -> None:
        self._next_share = 0.0


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


@contextmanager
def reported() -> Iterator[Recorder]:
    """A recorder that shows events on standard error while the block lasts."""
    recorder = ProgressRecorder(console(sys.stderr))
    try:
        yield recorder
    finally:
        recorder.close()
