"""The server's tables: uploaded files, fine-tuning jobs with their events and checkpoints, permissions.

Times are whole seconds since 1970, as the OpenAI API gives them. ``sequence`` is the order in which rows were made:
lists are ordered by it, and a page goes on after the row that its cursor names, also where that was deleted since.
"""

from __future__ import annotations

from sqlalchemy import JSON, REAL, Column, Connection, ForeignKey, Index, Integer, MetaData, Table, Text

__all__ = ["declare_job_tables"]


def declare_job_tables(metadata: MetaData) -> tuple[Table, Table, Table, Table, Table, Table]:
    """The tables as they are after :func:`m004_jobs`: uploads, jobs, events, checkpoints, permissions, completions."""
    return (
        Table(
            "uploads",
            metadata,
            Column("sequence", Integer, primary_key=True),
            Column("id", Text, nullable=False),
            Column("filename", Text, nullable=False),
            Column("bytes", Integer, nullable=False),
            Column("purpose", Text, nullable=False),
            Column("created_at", Integer, nullable=False),
            Column("expires_at", Integer),
            Column("deleted_at", Integer),
            Index("uploads_id", "id", unique=True),
        ),
        Table(
            "jobs",
            metadata,
            Column("sequence", Integer, primary_key=True),
            Column("id", Text, nullable=False),
            Column("status", Text, nullable=False),
            Column("request", Text),  # pause: what the worker is asked to do
            Column("spec", JSON, nullable=False),  # what was asked for: model, files, suffix, method, seed, metadata
            Column("idempotency_key", Text),
            Column("spec_sha256", Text, nullable=False),
            Column("hyperparameters", JSON(none_as_null=True)),  # resolved numbers, once running
            Column("created_at", Integer, nullable=False),
            Column("finished_at", Integer),
            Column("estimated_finish", Integer),
            Column("error", JSON(none_as_null=True)),  # {code, message, param}
            Column("trained_tokens", Integer),
            Column("fine_tuned_model", Text),
            Column("version", Text),  # as support@3
            Column("model_deleted_at", Integer),
            Column("result_file", Text),
            Column("lease_owner", Text),
            Column("lease_until", REAL),
            Column("lost_workers", Integer, nullable=False),
            Index("jobs_id", "id", unique=True),
            Index("jobs_idempotency_key", "idempotency_key", unique=True),
            Index("jobs_fine_tuned_model", "fine_tuned_model", unique=True),
            Index("jobs_status", "status"),
        ),
        _events(metadata),
        _checkpoints(metadata),
        Table(
            "checkpoint_permissions",
            metadata,
            Column("sequence", Integer, primary_key=True),
            Column("id", Text, nullable=False),
            Column("model", Text, nullable=False),
            Column("project_id", Text, nullable=False),
            Column("created_at", Integer, nullable=False),
            Column("deleted_at", Integer),
            Index("checkpoint_permissions_id", "id", unique=True),
            Index("checkpoint_permissions_model", "model"),
        ),
        _completions(metadata),
    )


def _events(metadata: MetaData) -> Table:
    return Table(
        "job_events",
        metadata,
        Column("sequence", Integer, primary_key=True),
        Column("id", Text, nullable=False),
        Column("job_id", Text, ForeignKey("jobs.id"), nullable=False),
        Column("created_at", Integer, nullable=False),
        Column("level", Text, nullable=False),  # info, warn, error
        Column("message", Text, nullable=False),
        Column("type", Text, nullable=False),  # message, metrics
        Column("data", JSON(none_as_null=True)),
        Index("job_events_id", "id", unique=True),
        Index("job_events_job_id", "job_id"),
    )


def _checkpoints(metadata: MetaData) -> Table:
    return Table(
        "job_checkpoints",
        metadata,
        Column("sequence", Integer, primary_key=True),
        Column("id", Text, nullable=False),
        Column("job_id", Text, ForeignKey("jobs.id"), nullable=False),
        Column("created_at", Integer, nullable=False),
        Column("step_number", Integer, nullable=False),
        Column("metrics", JSON, nullable=False),
        Column("model", Text, nullable=False),
        Index("job_checkpoints_id", "id", unique=True),
        Index("job_checkpoints_model", "model", unique=True),
        Index("job_checkpoints_job_id", "job_id"),
    )


def _completions(metadata: MetaData) -> Table:
    return Table(
        "stored_completions",
        metadata,
        Column("sequence", Integer, primary_key=True),
        Column("id", Text, nullable=False),
        Column("model", Text, nullable=False),
        Column("created_at", Integer, nullable=False),
        Column("request", JSON, nullable=False),
        Column("completion", JSON, nullable=False),
        Column("metadata", JSON, nullable=False),
        Index("stored_completions_id", "id", unique=True),
    )


def m004_jobs(connection: Connection) -> None:
    """Uploads, fine-tuning jobs, their events and checkpoints, permissions, stored completions."""
    for statement in _STATEMENTS:
        connection.exec_driver_sql(statement)


_STATEMENTS = (
    """
    CREATE TABLE uploads (
        sequence INTEGER NOT NULL PRIMARY KEY,
        id TEXT NOT NULL,
        filename TEXT NOT NULL,
        bytes INTEGER NOT NULL,
        purpose TEXT NOT NULL,
        created_at INTEGER NOT NULL,
        expires_at INTEGER,
        deleted_at INTEGER
    )
    """,
    "CREATE UNIQUE INDEX uploads_id ON uploads (id)",
    """
    CREATE TABLE jobs (
        sequence INTEGER NOT NULL PRIMARY KEY,
        id TEXT NOT NULL,
        status TEXT NOT NULL CHECK (status IN
            ('validating_files', 'queued', 'running', 'paused', 'succeeded', 'failed', 'cancelled')),
        request TEXT CHECK (request IN ('pause')),
        spec JSON NOT NULL,
        idempotency_key TEXT,
        spec_sha256 TEXT NOT NULL,
        hyperparameters JSON,
        created_at INTEGER NOT NULL,
        finished_at INTEGER,
        estimated_finish INTEGER,
        error JSON,
        trained_tokens INTEGER,
        fine_tuned_model TEXT,
        version TEXT,
        model_deleted_at INTEGER,
        result_file TEXT,
        lease_owner TEXT,
        lease_until REAL,
        lost_workers INTEGER NOT NULL
    )
    """,
    "CREATE UNIQUE INDEX jobs_id ON jobs (id)",
    "CREATE UNIQUE INDEX jobs_idempotency_key ON jobs (idempotency_key)",
    "CREATE UNIQUE INDEX jobs_fine_tuned_model ON jobs (fine_tuned_model)",
    "CREATE INDEX jobs_status ON jobs (status)",
    """
    CREATE TABLE job_events (
        sequence INTEGER NOT NULL PRIMARY KEY,
        id TEXT NOT NULL,
        job_id TEXT NOT NULL REFERENCES jobs (id),
        created_at INTEGER NOT NULL,
        level TEXT NOT NULL CHECK (level IN ('info', 'warn', 'error')),
        message TEXT NOT NULL,
        type TEXT NOT NULL CHECK (type IN ('message', 'metrics')),
        data JSON
    )
    """,
    "CREATE UNIQUE INDEX job_events_id ON job_events (id)",
    "CREATE INDEX job_events_job_id ON job_events (job_id)",
    """
    CREATE TABLE job_checkpoints (
        sequence INTEGER NOT NULL PRIMARY KEY,
        id TEXT NOT NULL,
        job_id TEXT NOT NULL REFERENCES jobs (id),
        created_at INTEGER NOT NULL,
        step_number INTEGER NOT NULL,
        metrics JSON NOT NULL,
        model TEXT NOT NULL
    )
    """,
    "CREATE UNIQUE INDEX job_checkpoints_id ON job_checkpoints (id)",
    "CREATE UNIQUE INDEX job_checkpoints_model ON job_checkpoints (model)",
    "CREATE INDEX job_checkpoints_job_id ON job_checkpoints (job_id)",
    """
    CREATE TABLE checkpoint_permissions (
        sequence INTEGER NOT NULL PRIMARY KEY,
        id TEXT NOT NULL,
        model TEXT NOT NULL,
        project_id TEXT NOT NULL,
        created_at INTEGER NOT NULL,
        deleted_at INTEGER
    )
    """,
    "CREATE UNIQUE INDEX checkpoint_permissions_id ON checkpoint_permissions (id)",
    "CREATE INDEX checkpoint_permissions_model ON checkpoint_permissions (model)",
    """
    CREATE TABLE stored_completions (
        sequence INTEGER NOT NULL PRIMARY KEY,
        id TEXT NOT NULL,
        model TEXT NOT NULL,
        created_at INTEGER NOT NULL,
        request JSON NOT NULL,
        completion JSON NOT NULL,
        metadata JSON NOT NULL
    )
    """,
    "CREATE UNIQUE INDEX stored_completions_id ON stored_completions (id)",
)
