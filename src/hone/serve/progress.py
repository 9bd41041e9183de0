"""What a training run has written so far, as a job's events, its checkpoints' metrics and its result file.

All of it is read from the run's ``metrics.jsonl``, which an interrupted and resumed run writes as one that was never
interrupted; an event's id follows from its line, so that nothing is told twice.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hone.config.load import load_config
from hone.config.schema import RunConfig
from hone.registry.leases import Lease, tell_job
from hone.serve.job_config import resolved_numbers
from hone.types import JsonDict

__all__ = ["Progress", "checkpoint_metrics", "measured_lines", "result_csv"]

_COLUMNS = ("step", "train_loss", "train_accuracy", "valid_loss", "valid_mean_token_accuracy")


class Progress:
    """Tells a job what its run has written since the last call.

    Args:
        lease: of the worker.
        run: the run's folder.
        multiplier: of the learning rate, as the job shows it.
    """

    def __init__(self, lease: Lease, run: Path, *, multiplier: float) -> None:
        self._lease = lease
        self._run = run
        self._multiplier = multiplier
        self._told: set[str] = set()
        self._has_numbers = False
        self._first: tuple[float, int] | None = None

    def tell(self) -> None:
        """Write what is new.

        Raises:
            StorageError: the registry cannot be written, or the run's files cannot be read.
        """
        events = []
        values: dict[str, Any] = {}
        for line, measured in measured_lines(self._run):
            identity = _event_id(self._lease.job.id, line)
            if identity in self._told:
                continue
            self._told.add(identity)
            if (event := _event_of(measured)) is not None:
                events.append((identity, *event))
            if measured["event"] == "step":
                values |= self._estimate(measured)
        if not self._has_numbers and (self._run / "config.yaml").exists():
            resolved = load_config(RunConfig, {}, file=self._run / "config.yaml")
            values["hyperparameters"] = resolved_numbers(resolved, multiplier=self._multiplier)
            self._has_numbers = True
        if events or values:
            tell_job(self._lease, events=tuple(events), **values)

    def _estimate(self, measured: JsonDict) -> dict[str, int]:
        now, step = time.time(), int(measured["step"])
        if self._first is None:
            self._first = (now, step)
        began, first = self._first
        if step == first:
            return {}
        return {"estimated_finish": int(now + (now - began) / (step - first) * (measured["total_steps"] - step))}


def measured_lines(run: Path) -> Iterator[tuple[str, JsonDict]]:
    """The whole lines of a run's metrics, as text and as read."""
    path = run / "metrics.jsonl"
    for line in path.read_bytes().split(b"\n")[:-1] if path.exists() else ():
        try:
            value = json.loads(line)
        except ValueError:
            continue  # torn by a kill; the run that goes on writes it again
        yield line.decode(), value


def checkpoint_metrics(run: Path) -> dict[int, JsonDict]:
    """For each step with a checkpoint: its step, training loss and, where there is one, validation loss."""
    found: dict[int, JsonDict] = {}
    for _, one in measured_lines(run):
        place = found.setdefault(int(one["step"]), {"step": int(one["step"])})
        if one["event"] == "step":
            place["train_loss"] = _number(one["loss"])
        elif one["event"] == "validation":
            place["full_valid_loss"] = place["valid_loss"] = _number(one["loss"])
        elif one["event"] == "checkpoint":
            place["saved"] = True
    return {step: {k: v for k, v in one.items() if k != "saved"} for step, one in found.items() if one.get("saved")}


def result_csv(run: Path) -> bytes:
    """The result file, a line a step; accuracies are empty, because hone measures losses."""
    rows: dict[int, dict[str, Any]] = {}
    for _, one in measured_lines(run):
        row = rows.setdefault(int(one["step"]), {"step": one["step"]})
        if one["event"] == "step":
            row["train_loss"] = one["loss"]
        elif one["event"] == "validation":
            row["valid_loss"] = one["loss"]
    written = io.StringIO()
    table = csv.DictWriter(written, _COLUMNS, restval="", lineterminator="\n")
    table.writeheader()
    table.writerows(rows[step] for step in sorted(rows))
    return written.getvalue().encode()


def _event_of(measured: JsonDict) -> tuple[str, JsonDict] | None:
    step = measured["step"]
    if measured["event"] == "step":
        total, loss = measured["total_steps"], measured["loss"]
        data = {"step": step, "total_steps": total, "train_loss": _number(loss)}
        if "reward" in measured:  # of reinforcement, whose loss says nothing
            data["train_mean_reward"] = _number(measured["reward"])
            return f"Step {step}/{total}: mean reward={float(measured['reward']):.2f}", data
        return f"Step {step}/{total}: training loss={float(loss):.2f}", data
    if measured["event"] == "validation":
        loss = _number(measured["loss"])
        data = {"step": step, "valid_loss": loss, "full_valid_loss": loss}
        return f"Step {step}: full validation loss={float(measured['loss']):.2f}", data
    return None


def _number(value: float | str) -> float | None:
    """A figure; None for one that is not finite, which stands as text in the file."""
    return None if isinstance(value, str) else float(value)


def _event_id(job_id: str, line: str) -> str:
    return "ftevent-" + hashlib.sha256(f"{job_id}\n{line}".encode()).hexdigest()[:24]
