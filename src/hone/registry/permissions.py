"""Which projects may use a fine-tuned model's checkpoints, as the API's permissions of checkpoints."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import insert, select, update

from hone.registry.store import checkpoint_permissions, open_store
from hone.registry.uploads import new_id

__all__ = ["Permission", "delete_permission", "grant_permissions", "list_permissions"]

_table = checkpoint_permissions


@dataclass(frozen=True, slots=True)
class Permission:
    """One project's permission for one model; times in seconds since 1970."""

    sequence: int
    id: str
    model: str
    project_id: str
    created_at: int
    deleted_at: int | None


def grant_permissions(
    home: Path, model: str, project_ids: Sequence[str], *, identity: str | None = None
) -> list[Permission]:
    """Allow projects to use a model, in one transaction; a project that may already keeps its permission.

    Args:
        home: the home folder.
        model: its name on the wire.
        project_ids: the projects.
        identity: the first permission's id; a new one unless given.

    Raises:
        StorageError: the registry cannot be written.
    """
    granted = []
    with open_store(home).write() as connection:
        for place, project in enumerate(project_ids):
            there = (_table.c.model == model, _table.c.project_id == project, _table.c.deleted_at.is_(None))
            row = connection.execute(select(_table).where(*there)).first()
            if row is None:
                own = identity if identity and place == 0 else new_id("cp_")
                values = {"id": own, "model": model, "project_id": project, "created_at": int(time.time())}
                connection.execute(insert(_table).values(values))
                row = connection.execute(select(_table).where(_table.c.id == own)).one()
            granted.append(Permission(**row._mapping))
    return granted


def list_permissions(home: Path, model: str) -> list[Permission]:
    """The permissions of a model, oldest first; withdrawn ones too, which pages may begin after.

    Raises:
        StorageError: the registry cannot be read.
    """
    query = select(_table).where(_table.c.model == model).order_by(_table.c.sequence)
    with open_store(home).read() as connection:
        return [Permission(**row._mapping) for row in connection.execute(query)]


def delete_permission(home: Path, model: str, permission_id: str) -> bool:
    """Withdraw a permission.

    Returns:
        Whether there was one.

    Raises:
        StorageError: the registry cannot be written.
    """
    there = (_table.c.id == permission_id, _table.c.model == model, _table.c.deleted_at.is_(None))
    with open_store(home).write() as connection:
        return connection.execute(update(_table).where(*there).values(deleted_at=int(time.time()))).rowcount > 0
