"""Fine-tuning jobs as rows: submitted, listed, and moved from state to state, each move one transaction with an event.

    validating_files -> queued | failed | cancelled         queued -> running | cancelled | paused | failed
    running -> succeeded | failed | cancelled | paused | queued (its worker stopped or was lost)
    paused -> queued | cancelled

What a worker does with a job stands in ``leases.py``.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, insert, select, update
from sqlalchemy.dialects.sqlite import insert as insert_or

from hone.errors import ConfigError, VersionError
from hone.registry.job_rows import Job, JobCheckpoint, JobEvent, JobStatus
from hone.registry.store import job_checkpoints, job_events, jobs, open_store
from hone.registry.uploads import new_id

__all__ = [
    "add_event",
    "cancel_job",
    "fail_validation",
    "find_job",
    "job_row",
    "list_checkpoints",
    "list_events",
    "list_jobs",
    "pass_validation",
    "pause_job",
    "resume_job",
    "submit_job",
]


def submit_job(
    home: Path, spec: Mapping[str, Any], *, idempotency_key: str | None = None, identity: str | None = None
) -> Job:
    """Make a job, once: the same key with the same request gives the job that it has made before.

    Args:
        home: the home folder.
        spec: what is asked for, as JSON values.
        idempotency_key: chosen by the client for one request and its retries.
        identity: the id; a new one unless given.

    Raises:
        ConfigError: the key was used with another request.
        StorageError: the registry cannot be written.
    """
    digest = hashlib.sha256(json.dumps(spec, ensure_ascii=False, sort_keys=True).encode()).hexdigest()
    with open_store(home).write() as connection:
        if idempotency_key is not None:
            same_key = select(jobs).where(jobs.c.idempotency_key == idempotency_key)
            if (row := connection.execute(same_key).first()) is not None:
                known = Job(**row._mapping)
                if known.spec_sha256 != digest:
                    raise ConfigError(
                        "this idempotency key was used with another request",
                        where="Idempotency-Key",
                        remedy="send a new key with a new request",
                    )
                return known
        job_id = identity or new_id("ftjob-")
        values = {
            "id": job_id,
            "status": "validating_files",
            "spec": dict(spec),
            "idempotency_key": idempotency_key,
            "spec_sha256": digest,
            "created_at": int(time.time()),
            "lost_workers": 0,
        }
        connection.execute(insert(jobs).values(values))
        add_event(connection, job_id, f"Created fine-tuning job: {job_id}")
        add_event(connection, job_id, f"Validating training file: {spec['training_file']}")
        return job_row(connection, job_id)


def find_job(home: Path, job_id: str) -> Job | None:
    """The job of that id, or None.

    Raises:
        StorageError: the registry cannot be read.
    """
    with open_store(home).read() as connection:
        row = connection.execute(select(jobs).where(jobs.c.id == job_id)).first()
    return Job(**row._mapping) if row else None


def list_jobs(home: Path) -> list[Job]:
    """All jobs, oldest first.

    Raises:
        StorageError: the registry cannot be read.
    """
    with open_store(home).read() as connection:
        return [Job(**row._mapping) for row in connection.execute(select(jobs).order_by(jobs.c.sequence))]


def list_events(home: Path, job_id: str) -> list[JobEvent]:
    """The events of a job, oldest first.

    Raises:
        StorageError: the registry cannot be read.
    """
    query = select(job_events).where(job_events.c.job_id == job_id).order_by(job_events.c.sequence)
    with open_store(home).read() as connection:
        return [JobEvent(**row._mapping) for row in connection.execute(query)]


def list_checkpoints(home: Path, job_id: str | None = None) -> list[JobCheckpoint]:
    """The checkpoints of a job, or of all, oldest first.

    Raises:
        StorageError: the registry cannot be read.
    """
    query = select(job_checkpoints).order_by(job_checkpoints.c.sequence)
    if job_id is not None:
        query = query.where(job_checkpoints.c.job_id == job_id)
    with open_store(home).read() as connection:
        return [JobCheckpoint(**row._mapping) for row in connection.execute(query)]


def pass_validation(home: Path, job_id: str) -> None:
    """The files of a job can be used: it waits for a worker. Nothing happens where it waits for no validation.

    Raises:
        StorageError: the registry cannot be written.
    """
    with open_store(home).write() as connection:
        if _move(connection, job_id, ("validating_files",), "queued"):
            add_event(connection, job_id, "Files validated, moving job to queued state")


def fail_validation(home: Path, job_id: str, error: Mapping[str, Any]) -> None:
    """The files of a job cannot be used. Nothing happens where it waits for no validation.

    Args:
        home: the home folder.
        job_id: the job.
        error: {code, message, param}.

    Raises:
        StorageError: the registry cannot be written.
    """
    ended = {"error": dict(error), "finished_at": int(time.time())}
    with open_store(home).write() as connection:
        if _move(connection, job_id, ("validating_files",), "failed", **ended):
            add_event(connection, job_id, str(error["message"]), level="error")


def cancel_job(home: Path, job_id: str) -> Job:
    """End a job for good; a worker on it stops when it next asks. Cancelling twice is fine.

    Raises:
        VersionError: there is no such job.
        ConfigError: it is over.
        StorageError: the registry cannot be written.
    """
    waiting = ("validating_files", "queued", "running", "paused")
    ended = {"request": None, "lease_owner": None, "lease_until": None, "finished_at": int(time.time())}
    with open_store(home).write() as connection:
        job = job_row(connection, job_id)
        if _move(connection, job_id, waiting, "cancelled", **ended):
            add_event(connection, job_id, "The job has been cancelled")
        elif job.status != "cancelled":
            raise ConfigError(f"Job has already completed: {job_id} has {job.status}", where="fine_tuning_job_id")
        return job_row(connection, job_id)


def pause_job(home: Path, job_id: str) -> Job:
    """Stop a job so that it can go on: at once where it waits, after its training step where it runs.

    Returns:
        The job as it stood before, as the API has it.

    Raises:
        VersionError: there is no such job.
        ConfigError: it is over, or its files are still being validated.
        StorageError: the registry cannot be written.
    """
    with open_store(home).write() as connection:
        job = job_row(connection, job_id)
        if _move(connection, job_id, ("queued",), "paused"):
            add_event(connection, job_id, "The job has been paused")
        elif job.status == "running" and job.request is None:
            connection.execute(update(jobs).where(jobs.c.id == job_id).values(request="pause"))
            add_event(connection, job_id, "The job will pause after its training step")
        elif job.status not in ("running", "paused"):
            raise ConfigError(f"Job cannot be paused: {job_id} is {job.status}", where="fine_tuning_job_id")
        return job


def resume_job(home: Path, job_id: str) -> Job:
    """Let a paused job go on; one that was only asked to pause goes on as it is.

    Raises:
        VersionError: there is no such job.
        ConfigError: it is over, or still being validated.
        StorageError: the registry cannot be written.
    """
    with open_store(home).write() as connection:
        job = job_row(connection, job_id)
        if _move(connection, job_id, ("paused",), "queued"):
            add_event(connection, job_id, "The job has been resumed and waits for a worker")
        elif job.status == "running" and job.request == "pause":
            connection.execute(update(jobs).where(jobs.c.id == job_id).values(request=None))
            add_event(connection, job_id, "The job goes on: it had not paused yet")
        elif job.status not in ("running", "queued"):
            raise ConfigError(f"Job cannot be resumed: {job_id} is {job.status}", where="fine_tuning_job_id")
        return job_row(connection, job_id)


def job_row(connection: Connection, job_id: str) -> Job:
    """The job, inside a transaction.

    Raises:
        VersionError: there is none of that id.
    """
    row = connection.execute(select(jobs).where(jobs.c.id == job_id)).first()
    if row is None:
        raise VersionError(f"Could not find fine tune: {job_id}")
    return Job(**row._mapping)


def add_event(
    connection: Connection,
    job_id: str,
    message: str,
    *,
    level: str = "info",
    data: Mapping[str, Any] | None = None,
    identity: str | None = None,
) -> None:
    """Tell what happened, inside the transaction in which it did.

    Args:
        connection: the transaction.
        job_id: the job.
        message: for people.
        level: info, warn or error.
        data: metrics, which make it an event of that type.
        identity: the id, for an event that may be told twice and counts once; a new one unless given.
    """
    values = {
        "id": identity or new_id("ftevent-"),
        "job_id": job_id,
        "created_at": int(time.time()),
        "level": level,
        "message": message,
        "type": "message" if data is None else "metrics",
        "data": None if data is None else dict(data),
    }
    connection.execute(insert_or(job_events).values(values).on_conflict_do_nothing())


def _move(connection: Connection, job_id: str, before: tuple[str, ...], after: JobStatus, **values: Any) -> bool:
    moved = update(jobs).where(jobs.c.id == job_id, jobs.c.status.in_(before)).values(status=after, **values)
    return connection.execute(moved).rowcount > 0
