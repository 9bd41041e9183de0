"""The schema's history: one function a step, in the order in which they are applied. Append only.

A released step is never edited, not even its comments' meaning: databases made by it exist. Each takes a connection
inside a transaction of its own and is recorded by its name, so that a crash between two of them is harmless.
The tables as they are after the last step are declared in ``store.py``; a test holds both equal.
"""

from __future__ import annotations

from collections.abc import Callable

from sqlalchemy import Connection

from hone.registry.job_tables import m004_jobs
from hone.registry.lineage_tables import m005_lineage
from hone.registry.ranking_tables import m006_rankings

__all__ = ["MIGRATIONS", "Migration"]

Migration = Callable[[Connection], None]


def m001_runs(connection: Connection) -> None:
    """Executions and where their folders lie."""
    connection.exec_driver_sql(
        """
        CREATE TABLE runs (
            id TEXT NOT NULL PRIMARY KEY,
            kind TEXT NOT NULL,
            name TEXT NOT NULL,
            folder TEXT NOT NULL,
            status TEXT NOT NULL CHECK (status IN ('created', 'running', 'done', 'failed', 'interrupted')),
            created_at TEXT NOT NULL,
            finished_at TEXT,
            config JSON,
            result JSON
        )
        """
    )


def m002_versions(connection: Connection) -> None:
    """Registered results, each of one run."""
    connection.exec_driver_sql(
        """
        CREATE TABLE versions (
            name TEXT NOT NULL,
            number INTEGER NOT NULL CHECK (number > 0),
            run_id TEXT NOT NULL REFERENCES runs (id),
            base_name TEXT NOT NULL,
            base_hash TEXT NOT NULL,
            adapter_sha256 TEXT NOT NULL,
            adapter_files JSON NOT NULL,
            template_hash TEXT NOT NULL,
            data_manifest JSON NOT NULL,
            evaluation JSON,
            proof JSON,
            status TEXT NOT NULL CHECK (status IN ('proven', 'unproven')),
            created_at TEXT NOT NULL,
            PRIMARY KEY (name, number)
        )
        """
    )
    connection.exec_driver_sql("CREATE INDEX versions_run_id ON versions (run_id)")


def m003_aliases(connection: Connection) -> None:
    """Movable names for versions, and every place that each has stood in."""
    connection.exec_driver_sql(
        """
        CREATE TABLE aliases (
            name TEXT NOT NULL,
            alias TEXT NOT NULL,
            number INTEGER NOT NULL,
            changed_at TEXT NOT NULL,
            PRIMARY KEY (name, alias),
            FOREIGN KEY (name, number) REFERENCES versions (name, number)
        )
        """
    )
    connection.exec_driver_sql(
        """
        CREATE TABLE alias_history (
            id INTEGER NOT NULL PRIMARY KEY,
            name TEXT NOT NULL,
            alias TEXT NOT NULL,
            number INTEGER NOT NULL,
            changed_at TEXT NOT NULL,
            FOREIGN KEY (name, number) REFERENCES versions (name, number)
        )
        """
    )


MIGRATIONS: tuple[Migration, ...] = (
    m001_runs,
    m002_versions,
    m003_aliases,
    m004_jobs,
    m005_lineage,
    m006_rankings,
)
