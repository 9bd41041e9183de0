"""What nothing in the registry refers to: found here, taken away by ``removal.py``.

What is referred to is never named: a run that a version was made by, that can go on, or that a process works in; rows
that such a run was begun with. What is younger than the age asked for is passed over, because a process may be about
to refer to it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal

from sqlalchemy import Row, func, select

from hone.errors import HoneError
from hone.registry.runs import RunFolder
from hone.registry.store import open_store, runs, versions

__all__ = [
    "COMPOSED_FOLDER",
    "MERGED_FOLDER",
    "Leftover",
    "LeftoverKind",
    "find_leftovers",
    "folder_bytes",
    "is_composed",
]

COMPOSED_FOLDER = "composed"
"""In the home: rows that ``hone models continue`` put together, a folder for each."""

MERGED_FOLDER = "models/versions"
"""In the home: versions that became bases of others, merged, a folder for each."""

LeftoverKind = Literal[
    "removed version", "ended run", "run without a folder", "unlisted run", "temporary", "rows", "merged version"
]


@dataclass(frozen=True, slots=True)
class Leftover:
    """One thing that can go.

    Args:
        kind: what it is. An ``unlisted run`` does not go: it is listed again.
        path: where it lies, or would.
        reason: why it can go, as a clause.
        size_bytes: that are freed.
        run_id: the run that it is, where it is one.
    """

    kind: LeftoverKind
    path: Path
    reason: str
    size_bytes: int
    run_id: str | None = None


def find_leftovers(home: Path, *, least_age_seconds: float) -> list[Leftover]:
    """Everything that can go, by path.

    Args:
        home: the home folder.
        least_age_seconds: what is younger is passed over.

    Raises:
        StorageError: the registry or a folder cannot be read.
    """
    home = home.absolute()
    with open_store(home).read() as connection:
        live = func.count(versions.c.number) - func.count(versions.c.removed_at)
        query = select(runs, func.count(versions.c.number).label("made"), live.label("live"))
        rows = connection.execute(query.outerjoin(versions).group_by(runs.c.id)).all()
    limit = time.time() - least_age_seconds
    found = [one for row in rows if (one := _of_run(home, row, limit))]
    known = {str(home / row.folder) for row in rows}
    found += _unlisted(home, known)
    found += _temporaries(home)
    found += _unused(home, COMPOSED_FOLDER, "rows", _used(home, rows, ("data", "eval"), of_files=True), limit)
    found += _unused(home, MERGED_FOLDER, "merged version", _used(home, rows, ("model",), of_files=False), limit)
    return sorted(found, key=lambda one: str(one.path))


def folder_bytes(path: Path) -> int:
    """Bytes of all files below a folder; of one that goes in the meantime, those that were seen."""
    total = 0
    for parent, _folders, names in os.walk(path):
        for name in names:
            try:
                total += os.lstat(os.path.join(parent, name)).st_size
            except FileNotFoundError:
                continue
    return total


def is_composed(home: Path, path: str | Path) -> bool:
    """Whether a file of rows is one that ``hone models continue`` put together."""
    return Path(path).is_relative_to(home.absolute() / COMPOSED_FOLDER)


def _of_run(home: Path, row: Row[Any], limit: float) -> Leftover | None:
    folder = home / row.folder
    if not folder.is_relative_to(home / "runs"):
        return None  # a folder of the user's own
    if row.made:
        if row.live or not folder.exists():
            return None
        return Leftover("removed version", folder, "its version was removed", folder_bytes(folder), row.id)
    if not _is_older(row.finished_at or row.created_at, limit):
        return None
    if not folder.exists():
        return Leftover("run without a folder", folder, "it ended before it had begun", 0, row.id)
    if not (folder / "run.json").is_file():
        hidden = all(entry.name.startswith(".") for entry in folder.iterdir())
        why = "it ended before it had begun"
        return Leftover("ended run", folder, why, folder_bytes(folder), row.id) if hidden else None
    try:
        run = RunFolder.open(folder)
        if run.status not in ("created", "failed", "interrupted") or _has_more(run):
            return None
    except HoneError:
        return None  # damaged: a person has to look at it
    return Leftover(
        "ended run", folder, f"it is {run.status}, and nothing of it can go on", folder_bytes(folder), row.id
    )


def _has_more(run: RunFolder) -> bool:
    """Whether something was computed: weights to go on from, or an adapter."""
    return run.adapter.exists() or (run.checkpoints.is_dir() and any(run.checkpoints.iterdir()))


def _unlisted(home: Path, known: set[str]) -> Iterator[Leftover]:
    for folder in sorted((home / "runs").glob("*")):
        if str(folder) not in known and (folder / "run.json").is_file():
            try:
                run = RunFolder.open(folder)
            except HoneError:
                continue
            yield Leftover("unlisted run", folder, "the registry does not list it", 0, run.id)


def _temporaries(home: Path) -> Iterator[Leftover]:
    for parent in (home / "runs", home / COMPOSED_FOLDER, home / MERGED_FOLDER):
        for entry in sorted(parent.glob(".*.tmp")):
            yield Leftover("temporary", entry, "a killed process left it", folder_bytes(entry))


def _used(home: Path, rows: Iterable[Row[Any]], options: tuple[str, ...], *, of_files: bool) -> set[str]:
    """The folders that these options of runs name; with ``of_files``, those that the named files lie in."""
    configs = [row.config or {} for row in rows if (home / row.folder).exists()]
    named = [Path(config[option]) for config in configs for option in options if config.get(option)]
    return {str(path.parent if of_files else path) for path in named}


def _unused(home: Path, below: str, kind: LeftoverKind, used: set[str], limit: float) -> Iterator[Leftover]:
    for folder in sorted((home / below).glob("[!.]*")):
        if folder.is_dir() and str(folder) not in used and folder.stat().st_mtime < limit:
            yield Leftover(kind, folder, "no run that is there was begun with it", folder_bytes(folder))


def _is_older(text: str, limit: float) -> bool:
    when = datetime.fromisoformat(text.replace("Z", "+00:00"))
    return when < datetime.fromtimestamp(0, UTC) + timedelta(seconds=limit)
