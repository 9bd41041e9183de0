"""The registry's Recorder: events become lines of the run's files, written one by one.

``metrics.jsonl`` holds only what depends on data, model and seed, so an interrupted and resumed run writes the bytes
of one that was never interrupted; so does ``rollouts.jsonl``, which holds the answers that were trained on. What the
clock decides goes to ``timings.jsonl``, sentences to ``log.txt``.
"""

from __future__ import annotations

import io
import json
import math
import os
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from hone.errors import StorageError
from hone.files import write_atomically

if TYPE_CHECKING:  # importing the engine imports torch, which listing versions does not need
    from hone.engine.events import Event

__all__ = ["RunRecorder"]

_METRICS = "metrics.jsonl"
_TIMINGS = "timings.jsonl"
_ROLLOUTS = "rollouts.jsonl"
_LOG = "log.txt"
_MEASURED = ("step", "validation", "checkpoint")


class RunRecorder:
    """Writes a run's events into its folder; also a context manager that closes the files.

    Lines of ``metrics.jsonl`` are ``{"event": "step", "step": 1, ...}``. A path in the run's folder is written
    relative to it, and a figure that is not finite, which JSON cannot hold, as the text ``"nan"`` or ``"inf"``.

    Args:
        folder: the run's folder, as a path or a ``RunFolder``.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self._folder = Path(folder).absolute()
        self._streams: dict[str, io.FileIO] = {}
        self._already_written: set[str] = set()

    @classmethod
    def resume(cls, folder: str | os.PathLike[str], step: int) -> RunRecorder:
        """A recorder for a run that goes on after ``step``: later lines and torn ones are removed first.

        The process may have died between a checkpoint and the events that belong to it. The engine can therefore emit
        the events of ``step`` again; those that are there already are not written twice.

        Args:
            folder: the run's folder.
            step: the last step that the checkpoint holds; 0 begins anew.

        Raises:
            StorageError: a file cannot be read or written.
        """
        recorder = cls(folder)
        for name in (_METRICS, _TIMINGS, _ROLLOUTS):
            path = recorder._folder / name
            if path.exists():
                kept = _lines_through(path, step)
                write_atomically(path, "".join(f"{line}\n" for line, _ in kept))
                if name == _METRICS:
                    recorder._already_written = {line for line, at_step in kept if at_step == step}
        return recorder

    def record(self, event: Event) -> None:
        """Write one event; kinds that no file is for are passed over.

        Raises:
            StorageError: the disk is full, or the folder cannot be written.
        """
        if event.kind == "rollout":
            self._append(_ROLLOUTS, _json_line(event.data))
        elif event.kind in _MEASURED:
            line = _json_line({"event": event.kind, **self._portable(event.data)})
            if event.kind == "checkpoint" and _ROLLOUTS in self._streams:
                self._synced(_ROLLOUTS)
            if line not in self._already_written:
                # on the disk before the checkpoint is: a run that goes on from it writes no earlier line again
                self._append(_METRICS, line, durable=event.kind == "checkpoint")
            if event.timing:
                place = {"event": event.kind, "step": event.data.get("step")}
                self._append(_TIMINGS, _json_line({**place, **event.timing}))
        elif event.kind == "stage":
            self._log(": ".join(str(event.data[key]) for key in ("name", "detail") if event.data.get(key)))
        elif event.kind == "note":
            self._log(str(event.data.get("text", "")))

    def close(self) -> None:
        """Close the files; the next event opens them again."""
        for stream in self._streams.values():
            stream.close()
        self._streams.clear()

    def __enter__(self) -> RunRecorder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _log(self, text: str) -> None:
        self._append(_LOG, f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ} {text}")

    def _append(self, name: str, line: str, *, durable: bool = False) -> None:
        try:
            if name not in self._streams:
                self._folder.mkdir(parents=True, exist_ok=True)
                # unbuffered: what a full disk has refused must not be written again when the file is closed
                self._streams[name] = (self._folder / name).open("ab", buffering=0)
            rest = f"{line}\n".encode()
            while rest:
                rest = rest[self._streams[name].write(rest) :]
        except OSError as error:
            raise self._unwritable(name, error) from error
        if name == _METRICS and durable:
            self._synced(name)

    def _synced(self, name: str) -> None:
        try:
            os.fsync(self._streams[name].fileno())
        except OSError as error:
            raise self._unwritable(name, error) from error

    def _unwritable(self, name: str, error: OSError) -> StorageError:
        return StorageError(
            f"cannot be written: {error.strerror or error}",
            where=str(self._folder / name),
            remedy="check that the disk has space and that the folder may be written to",
        )

    def _portable(self, data: Mapping[str, Any]) -> dict[str, Any]:
        path = data.get("path")
        if path is None or not Path(path).is_relative_to(self._folder):
            return dict(data)
        return {**data, "path": Path(path).relative_to(self._folder).as_posix()}


def _json_line(value: Mapping[str, Any]) -> str:
    finite = {
        key: str(item) if isinstance(item, float) and not math.isfinite(item) else item for key, item in value.items()
    }
    return json.dumps(finite, ensure_ascii=False, allow_nan=False)


def _lines_through(path: Path, step: int) -> list[tuple[str, int]]:
    """The whole lines of ``path`` up to ``step``, each with its own step; what is no JSON object is left out."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise StorageError(f"cannot be read: {error.strerror or error}", where=str(path)) from error
    kept = []
    for line in content.split(b"\n")[:-1]:  # after the last line end comes nothing, or a torn line
        try:
            value = json.loads(line)
        except ValueError:
            continue
        at_step = value.get("step") if isinstance(value, dict) else None
        if isinstance(at_step, int) and at_step <= step:
            kept.append((line.decode(), at_step))
    return kept
