"""Taking things away: a version on request, and what nothing refers to any more.

A removed version keeps its row, so that its number is never given again and lineage and histories stay true; its files
go. The row is marked first: a kill in between leaves files that :func:`collect_garbage` finds. A version does not go
while an alias stands on it, or would after one revert, or while a training begins with it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import Connection, delete, func, select, update
from sqlalchemy.dialects.sqlite import insert as insert_or
from sqlalchemy.exc import IntegrityError

from hone.errors import VersionError
from hone.files import exclusive_lock, remove_abandoned, remove_folder
from hone.registry.alias_moves import places_in_use
from hone.registry.leftovers import Leftover, find_leftovers, folder_bytes
from hone.registry.runs import RunFolder, run_row
from hone.registry.store import open_store, runs, timestamp, versions
from hone.registry.versions import Version

__all__ = ["LEAST_AGE_SECONDS", "collect_garbage", "remove_version"]

LEAST_AGE_SECONDS = 3600.0
"""What is younger may belong to a process that has just begun."""

_LOCK = "upkeep.lock"
_WAIT_SECONDS = 30.0


def remove_version(home: Path, version: Version) -> Leftover | None:
    """Take a version out of every list, then its files away.

    Args:
        home: the home folder.
        version: the version.

    Returns:
        What went with it; None where its files stay, because they lie in a folder of the user's own, or another version
        is made of them.

    Raises:
        VersionError: it is referred to; every such place is named. Or it is removed already.
        StorageError: the registry cannot be written, or a file cannot be removed.
    """
    home = home.absolute()
    this = (versions.c.name == version.name, versions.c.number == version.number)
    with _upkeep(home):
        with open_store(home).write() as connection:
            _require_unused(connection, version)
            marked = connection.execute(
                update(versions).where(*this, versions.c.removed_at.is_(None)).values(removed_at=timestamp())
            )
            if marked.rowcount != 1:
                raise VersionError(f"{version.reference} is removed already", remedy="hone models list")
            of_run = (versions.c.run_id == version.run_id, versions.c.removed_at.is_(None))
            shared = connection.execute(select(func.count()).select_from(versions).where(*of_run)).scalar_one()
        folder = version.run_folder
        if shared or not folder.is_relative_to(home / "runs") or not folder.exists():
            return None
        size_bytes = folder_bytes(folder)
        remove_folder(folder)
        return Leftover("removed version", folder, "its version was removed", size_bytes, version.run_id)


def collect_garbage(
    home: Path, *, dry_run: bool = False, least_age_seconds: float = LEAST_AGE_SECONDS
) -> list[Leftover]:
    """Take away what nothing refers to; list runs again that the registry has lost.

    Args:
        home: the home folder.
        dry_run: only say what would go.
        least_age_seconds: what is younger is passed over.

    Returns:
        What went, or would.

    Raises:
        StorageError: the registry cannot be written, or something cannot be removed; what went before that is gone,
            and the rest is as it was.
    """
    home = home.absolute()
    if dry_run:
        return find_leftovers(home, least_age_seconds=least_age_seconds)
    with _upkeep(home):
        found = find_leftovers(home, least_age_seconds=least_age_seconds)
        return [one for one in found if _take_away(home, one)]


def _take_away(home: Path, one: Leftover) -> bool:
    """Whether it went: something else in the registry may refer to a run."""
    if one.kind == "unlisted run":
        with open_store(home).write() as connection:
            row = run_row(RunFolder.open(one.path), home)
            connection.execute(insert_or(runs).values(row).on_conflict_do_nothing())
    elif one.kind in ("ended run", "run without a folder"):
        try:
            # The row waits for the folder: undone by a kill, it is then a run without a folder.
            with open_store(home).write() as connection:
                connection.execute(delete(runs).where(runs.c.id == one.run_id))
                if one.path.exists():
                    remove_folder(one.path)
        except IntegrityError:
            return False
    elif one.kind == "temporary":
        # the name goes by the rule for such names; one that does not keep it is somebody else's
        return one.path.name in remove_abandoned(one.path.parent) or not one.path.exists()
    elif one.path.exists():
        remove_folder(one.path)
    return True


def _require_unused(connection: Connection, version: Version) -> None:
    reasons = places_in_use(connection, version.name, version.number)
    unfinished = select(runs.c.id, runs.c.config).where(runs.c.status.in_(("created", "running", "interrupted")))
    for row in connection.execute(unfinished):
        if (row.config or {}).get("start_from") == version.reference:
            reasons.append(f"the run {row.id} begins with it and is not finished")
    if reasons:
        raise VersionError(
            f"{version.reference} is in use",
            details=reasons,
            why="what answers under an alias, or would after a revert, must be there",
            remedy="promote other versions first, or finish or remove the run",
        )


@contextmanager
def _upkeep(home: Path) -> Iterator[None]:
    """One process takes things away at a time."""
    with exclusive_lock(home / _LOCK, what="the upkeep of the registry", wait_seconds=_WAIT_SECONDS):
        yield
