"""What was predicted of each run, and what it took: one small file a run in the home folder.

Predictions learn from it: the formulas are multiplied by what earlier runs and probes of the same model and method on
this machine took over what the formulas say, the median of the last five.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hone.files import write_json
from hone.types import JsonDict

__all__ = ["WRITING", "Correction", "correction_of", "error_margin", "error_summary", "read_history", "record_outcome"]

WRITING = "/writing"
"""How the key of a method ends that writes its own answers."""
_FOLDER = Path("plan") / "history"
_SCHEMA = 1
_LAST = 5
_MOST_ENTRIES = 1000
# How far a prediction may be off before the history says how far: relative, of memory.
_MARGIN = 0.15
_LEAST_MARGIN = 0.05
_RUNS_FOR_A_MARGIN = 8


@dataclass(frozen=True, slots=True)
class Correction:
    """What the formulas are multiplied by.

    Args:
        seconds: for time.
        memory: for what a run takes beyond the process itself.
        runs: runs and probes that it comes from; 0 where the formulas stand alone.
    """

    seconds: float = 1.0
    memory: float = 1.0
    runs: int = 0


def record_outcome(home: Path, name: str, outcome: Mapping[str, Any]) -> None:
    """Keep one run's figures.

    Args:
        home: hone's home folder.
        name: the run's id; a second outcome of the same run replaces the first.
        outcome: ``key``, ``kind``, ``predicted``, ``formula`` and ``actual``, each of the last three with ``seconds``
            and ``peak_memory_bytes``.

    Raises:
        StorageError: no space or no permission.
    """
    write_json(home / _FOLDER / f"{name}.json", {"schema": _SCHEMA, "name": name, **outcome})


def read_history(home: Path) -> list[JsonDict]:
    """All outcomes, oldest first; a damaged file counts as none."""
    folder = home / _FOLDER
    entries = []
    for path in sorted(folder.glob("*.json"))[-_MOST_ENTRIES:] if folder.is_dir() else []:
        try:
            entry = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        if isinstance(entry, dict) and entry.get("schema") == _SCHEMA:
            entries.append(entry)
    return entries


def correction_of(history: Sequence[Mapping[str, Any]], key: str) -> Correction:
    """The correction for runs of ``key``: of the same machine, libraries, model and method."""
    alike = [entry for entry in history if entry["key"] == key][-_LAST:]
    if alike:
        return Correction(_ratio(alike, "seconds"), _ratio(alike, "beyond_process_bytes"), len(alike))
    # another method on the same machine and base tells how fast both are, not what the method keeps in memory; writing
    # answers says nothing of training on them, and training nothing of writing
    near = [entry for entry in history if _near(entry["key"]) == _near(key)][-_LAST:]
    return Correction(_ratio(near, "seconds"), 1.0, len(near))


def _near(key: str) -> tuple[list[str], bool]:
    return key.split("/")[:4], key.endswith(WRITING)


def _ratio(entries: Sequence[Mapping[str, Any]], figure: str) -> float:
    found = [
        entry["actual"][figure] / entry["formula"][figure]
        for entry in entries
        if entry["actual"].get(figure) and entry["formula"].get(figure)
    ]
    return statistics.median(found) if found else 1.0


def error_margin(history: Sequence[Mapping[str, Any]]) -> float:
    """How far a prediction of memory may be off, relative: the largest error of the last runs, where there are some."""
    errors = [abs(one) for one in _errors(history, "peak_memory_bytes")][-3 * _RUNS_FOR_A_MARGIN :]
    return _MARGIN if len(errors) < _RUNS_FOR_A_MARGIN else max(_LEAST_MARGIN, max(errors))


def error_summary(history: Sequence[Mapping[str, Any]]) -> JsonDict:
    """Median and largest absolute error of time and memory over the runs; probes are not counted.

    Returns:
        ``runs``, and for ``seconds`` and ``peak_memory_bytes`` each ``median`` and ``largest``, None without a run.
    """
    summary: JsonDict = {"runs": sum(entry["kind"] == "run" for entry in history)}
    for figure in ("seconds", "peak_memory_bytes"):
        errors = [abs(one) for one in _errors(history, figure)]
        summary[figure] = {"median": statistics.median(errors), "largest": max(errors)} if errors else None
    return summary


def _errors(history: Sequence[Mapping[str, Any]], figure: str) -> list[float]:
    return [
        entry["predicted"][figure] / entry["actual"][figure] - 1
        for entry in history
        if entry["kind"] == "run" and entry["actual"].get(figure) and entry["predicted"].get(figure)
    ]
