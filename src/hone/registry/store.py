"""The registry's database: ``<home>/hone.db``, SQLite in WAL mode, migrated when it is opened.

Readers never block; writers take the write lock at the start of their transaction (``BEGIN IMMEDIATE``), so what they
read stays true until they commit. Every database error leaves here as a :class:`StorageError` that names the file.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from sqlalchemy import (
    JSON,
    URL,
    Column,
    Connection,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    MetaData,
    NullPool,
    Table,
    Text,
    create_engine,
    event,
)
from sqlalchemy.exc import DBAPIError, IntegrityError

from hone.errors import StorageError
from hone.files import exclusive_lock
from hone.registry.job_tables import declare_job_tables
from hone.registry.migrations import MIGRATIONS
from hone.registry.ranking_tables import declare_ranking_tables

__all__ = [
    "DATABASE_NAME",
    "Store",
    "alias_history",
    "aliases",
    "checkpoint_permissions",
    "job_checkpoints",
    "job_events",
    "jobs",
    "metadata",
    "open_store",
    "ranking_candidates",
    "ranking_items",
    "ranking_sessions",
    "ranking_votes",
    "runs",
    "stored_completions",
    "timestamp",
    "uploads",
    "versions",
]

DATABASE_NAME = "hone.db"
_BUSY_TIMEOUT_SECONDS = 30.0

metadata = MetaData()

runs = Table(
    "runs",
    metadata,
    Column("id", Text, primary_key=True),
    Column("kind", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("folder", Text, nullable=False),  # relative to the home where it lies there, so that a home can be moved
    Column("status", Text, nullable=False),  # created, running, done, failed, interrupted
    Column("created_at", Text, nullable=False),
    Column("finished_at", Text),
    Column("config", JSON(none_as_null=True)),
    Column("result", JSON(none_as_null=True)),
)

versions = Table(
    "versions",
    metadata,
    Column("name", Text, primary_key=True),
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("run_id", Text, ForeignKey("runs.id"), nullable=False),
    Column("base_name", Text, nullable=False),
    Column("base_hash", Text, nullable=False),
    Column("adapter_sha256", Text, nullable=False),
    Column("adapter_files", JSON, nullable=False),  # {name in the adapter's folder: sha256}
    Column("template_hash", Text, nullable=False),
    Column("data_manifest", JSON, nullable=False),
    Column("evaluation", JSON(none_as_null=True)),
    Column("proof", JSON(none_as_null=True)),
    Column("status", Text, nullable=False),  # proven, unproven
    Column("created_at", Text, nullable=False),
    Index("versions_run_id", "run_id"),
    Column("lineage", JSON(none_as_null=True)),  # parent, relation, replay, forgotten rows; None straight from a base
    Column("code", JSON(none_as_null=True)),
    Column("removed_at", Text),  # the row stays, so that numbers, lineage and histories do
)

aliases = Table(
    "aliases",
    metadata,
    Column("name", Text, primary_key=True),
    Column("alias", Text, primary_key=True),
    Column("number", Integer),  # None stands for the base
    Column("base_name", Text),
    Column("base_hash", Text),
    Column("changed_at", Text, nullable=False),
    ForeignKeyConstraint(["name", "number"], ["versions.name", "versions.number"]),
)

alias_history = Table(
    "alias_history",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("name", Text, nullable=False),
    Column("alias", Text, nullable=False),
    Column("number", Integer),
    Column("base_name", Text),
    Column("base_hash", Text),
    Column("changed_at", Text, nullable=False),
    Column("action", Text, nullable=False),  # promote, revert
    Column("forced", Integer, nullable=False),
    Column("reason", Text),
    Column("gate", JSON(none_as_null=True)),  # what was measured before the move
    ForeignKeyConstraint(["name", "number"], ["versions.name", "versions.number"]),
)

# the server's tables, which job_tables.py describes
uploads, jobs, job_events, job_checkpoints, checkpoint_permissions, stored_completions = declare_job_tables(metadata)
ranking_sessions, ranking_items, ranking_candidates, ranking_votes = declare_ranking_tables(metadata)


class Store:
    """Transactions on one database file; :func:`open_store` makes it.

    Args:
        path: the database file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        # No pool: a connection must not be carried over a fork, and opening one costs less than a millisecond.
        # AUTOCOMMIT keeps the driver from opening transactions by itself; this class does, with the lock it needs.
        self._engine = create_engine(
            URL.create("sqlite", database=str(path)),
            poolclass=NullPool,
            isolation_level="AUTOCOMMIT",
            connect_args={"timeout": _BUSY_TIMEOUT_SECONDS},
            json_serializer=partial(json.dumps, ensure_ascii=False, allow_nan=False),
        )
        event.listen(self._engine, "connect", _enforce_foreign_keys)

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """One consistent view of the database.

        Raises:
            StorageError: the database cannot be read, or is damaged.
        """
        with self._transaction("BEGIN") as connection:
            yield connection

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """One transaction that holds the write lock from its start: committed at the end, undone by an error.

        Raises:
            StorageError: the database cannot be written, is damaged, or another process held the lock for 30 seconds.
            sqlalchemy.exc.IntegrityError: a constraint does not hold; left to the caller, who knows its meaning.
        """
        with self._transaction("BEGIN IMMEDIATE") as connection:
            yield connection

    @contextmanager
    def _transaction(self, begin: str) -> Iterator[Connection]:
        try:
            with self._engine.connect() as connection:
                connection.exec_driver_sql(begin)
                yield connection  # an error leaves without the commit; closing the connection rolls back
                connection.exec_driver_sql("COMMIT")
        except IntegrityError:
            raise
        except DBAPIError as error:
            raise _storage_error(self.path, error.orig) from error

    def _enable_wal(self) -> None:
        try:
            with self._engine.connect() as connection:
                connection.exec_driver_sql("PRAGMA journal_mode = WAL")
        except DBAPIError as error:
            raise _storage_error(self.path, error.orig) from error


def open_store(home: Path) -> Store:
    """Open the registry of a home folder; a missing one is made, an older one is migrated.

    Raises:
        StorageError: the database cannot be used, is damaged, or was written by a newer hone.
    """
    path = home / DATABASE_NAME
    try:
        home.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(
            f"the home folder cannot be made: {error.strerror or error}",
            where=str(home),
            remedy="set HONE_HOME to a folder that may be written to",
        ) from error
    store = Store(path)
    if _missing_migrations(store):
        # SQLite does not wait for its lock while it switches to WAL, so a file lock keeps the others away.
        with exclusive_lock(home / f"{DATABASE_NAME}.lock", what="the registry", wait_seconds=_BUSY_TIMEOUT_SECONDS):
            store._enable_wal()
            for name in _missing_migrations(store):
                _apply(store, name)
    return store


def timestamp() -> str:
    """Now, in UTC, as the registry writes it: ``2026-11-22T04:44:14.123456Z``; sorts as text."""
    return datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def _missing_migrations(store: Store) -> list[str]:
    known = [migration.__name__ for migration in MIGRATIONS]
    if not store.path.exists():
        return known
    with store.read() as connection:
        tables = connection.exec_driver_sql("SELECT name FROM sqlite_master WHERE name = 'migrations'").all()
        applied = set(connection.exec_driver_sql("SELECT name FROM migrations").scalars()) if tables else set()
    newer = sorted(applied - set(known))
    if newer:
        raise StorageError(
            f"the registry was written by a newer hone (it has {', '.join(newer)})",
            where=str(store.path),
            why="an older hone would misread or damage it",
            remedy="pip install --upgrade hone-llm, or set HONE_HOME to another folder",
        )
    return [name for name in known if name not in applied]


def _apply(store: Store, name: str) -> None:
    migration = next(step for step in MIGRATIONS if step.__name__ == name)
    with store.write() as connection:
        connection.exec_driver_sql(
            "CREATE TABLE IF NOT EXISTS migrations (name TEXT NOT NULL PRIMARY KEY, applied_at TEXT NOT NULL)"
        )
        migration(connection)
        connection.exec_driver_sql("INSERT INTO migrations VALUES (?, ?)", (name, timestamp()))


def _enforce_foreign_keys(connection: sqlite3.Connection, _record: Any) -> None:
    connection.execute("PRAGMA foreign_keys = ON")


def _storage_error(path: Path, cause: BaseException | None) -> StorageError:
    code = getattr(cause, "sqlite_errorcode", 0) & 0xFF  # the low byte is the primary code
    if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        return StorageError(
            f"the registry is damaged: {cause}",
            where=str(path),
            remedy=f"restore {path.name} from a backup, or move it away: hone then starts an empty registry, "
            "and the run folders keep their adapters",
        )
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return StorageError(
            f"the registry was locked by another process for {_BUSY_TIMEOUT_SECONDS:.0f} seconds",
            where=str(path),
            remedy="try again when the other process has ended",
        )
    return StorageError(
        f"the registry cannot be used: {cause}",
        where=str(path),
        remedy="check that the disk has space and that the folder may be written to",
    )
