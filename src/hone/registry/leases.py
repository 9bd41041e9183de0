"""What a worker does with a job: it claims one for a time, says that it lives, and finishes or gives it back.

A lease is a worker's name and a time. Whoever has lost it, because the job was cancelled or because another worker took
over from one that seemed dead, changes nothing any more: every write asks for the name. So a job is finished once.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from sqlalchemy import Connection, and_, func, or_, select, update
from sqlalchemy.dialects.sqlite import insert as insert_or

from hone.registry.job_rows import Job
from hone.registry.jobs import add_event, job_row
from hone.registry.store import job_checkpoints, jobs, open_store
from hone.registry.uploads import new_id

__all__ = ["Lease", "claim_job", "count_claimable", "fail_job", "release_job", "renew_lease", "succeed_job", "tell_job"]

_MOST_LOST_WORKERS = 10

LeaseState = Literal["held", "pause", "lost"]


@dataclass(frozen=True, slots=True)
class Lease:
    """A claimed job.

    Args:
        home: the home folder.
        job: as it was when it was claimed.
        owner: the worker.
        seconds: for which a claim or a renewal holds.
    """

    home: Path
    job: Job
    owner: str
    seconds: float

    def where(self) -> Any:
        """The condition under which this worker may write."""
        return and_(jobs.c.id == self.job.id, jobs.c.status == "running", jobs.c.lease_owner == self.owner)


def claim_job(home: Path, owner: str, *, seconds: float, most_running: int) -> Lease | None:
    """Take the oldest job that waits, or whose worker is lost; None where there is none, or enough are running.

    Args:
        home: the home folder.
        owner: this worker's name, its own alone.
        seconds: how long the lease holds unless it is renewed.
        most_running: jobs that may run at once, over all workers of this home.

    Raises:
        StorageError: the registry cannot be written.
    """
    while True:
        with open_store(home).write() as connection:
            now = time.time()
            if _count(connection, and_(jobs.c.status == "running", jobs.c.lease_until > now)) >= most_running:
                return None
            row = connection.execute(select(jobs).where(_claimable(now)).order_by(jobs.c.sequence).limit(1)).first()
            if row is None:
                return None
            job = Job(**row._mapping)
            if job.status == "running" and not _take_over(connection, job):
                continue
            held = {"status": "running", "lease_owner": owner, "lease_until": now + seconds}
            connection.execute(update(jobs).where(jobs.c.id == job.id).values(held))
            if job.status == "queued":
                add_event(connection, job.id, "Fine-tuning job started")
            return Lease(home, job_row(connection, job.id), owner, seconds)


def count_claimable(home: Path, *, most_running: int) -> int:
    """How many workers could begin on a job now.

    Raises:
        StorageError: the registry cannot be read.
    """
    with open_store(home).read() as connection:
        now = time.time()
        running = _count(connection, and_(jobs.c.status == "running", jobs.c.lease_until > now))
        return max(0, min(most_running - running, _count(connection, _claimable(now))))


def renew_lease(lease: Lease) -> LeaseState:
    """Say that the worker lives, and ask what is wanted of it.

    Returns:
        ``held``; ``pause`` where it is to stop and give the job back; ``lost`` where the job is no longer its own.

    Raises:
        StorageError: the registry cannot be written.
    """
    with open_store(lease.home).write() as connection:
        renewed = update(jobs).where(lease.where()).values(lease_until=time.time() + lease.seconds)
        if connection.execute(renewed).rowcount == 0:
            return "lost"
        return "pause" if job_row(connection, lease.job.id).request == "pause" else "held"


def tell_job(
    lease: Lease,
    *,
    events: tuple[tuple[str, str, Mapping[str, Any] | None], ...] = (),
    **values: Any,
) -> bool:
    """Write events and columns of a running job.

    Args:
        lease: of the worker.
        events: (id, message, metrics) each; one that is there already is not written twice.
        values: columns.

    Returns:
        Whether the worker still has the job; where not, nothing is written.

    Raises:
        StorageError: the registry cannot be written.
    """
    with open_store(lease.home).write() as connection:
        if connection.execute(select(jobs.c.id).where(lease.where())).first() is None:
            return False
        if values:
            connection.execute(update(jobs).where(lease.where()).values(values))
        for identity, message, data in events:
            add_event(connection, lease.job.id, message, data=data, identity=identity)
    return True


def succeed_job(
    lease: Lease,
    *,
    model: str,
    version: str,
    trained_tokens: int,
    result_file: str | None,
    checkpoints: tuple[tuple[int, Mapping[str, Any]], ...] = (),
) -> bool:
    """The job is done and its model can be asked.

    Args:
        lease: of the worker.
        model: its name on the wire.
        version: the registered version, as ``support@3``.
        trained_tokens: seen in training.
        result_file: the upload with its metrics.
        checkpoints: (step, metrics) of each state that stays servable, oldest first.

    Returns:
        Whether it was this worker's to finish.

    Raises:
        StorageError: the registry cannot be written.
    """
    job_id = lease.job.id
    done = {"version": version, "fine_tuned_model": model, "trained_tokens": trained_tokens, "result_file": result_file}
    with open_store(lease.home).write() as connection:
        if not _end(connection, lease, "succeeded", **done):
            return False
        for step, metrics in checkpoints:
            values = {
                "id": new_id("ftckpt_"),
                "job_id": job_id,
                "created_at": int(time.time()),
                "step_number": step,
                "metrics": dict(metrics),
                "model": f"{model}:ckpt-step-{step}",
            }
            connection.execute(insert_or(job_checkpoints).values(values).on_conflict_do_nothing())
            add_event(connection, job_id, f"Checkpoint created at step {step} with name: {values['model']}")
        add_event(connection, job_id, f"New fine-tuned model created: {model}")
        add_event(connection, job_id, "The job has successfully completed")
    return True


def fail_job(lease: Lease, error: Mapping[str, Any]) -> bool:
    """The job cannot be done.

    Args:
        lease: of the worker.
        error: {code, message, param}.

    Returns:
        Whether it was this worker's to end.

    Raises:
        StorageError: the registry cannot be written.
    """
    with open_store(lease.home).write() as connection:
        if not _end(connection, lease, "failed", error=dict(error)):
            return False
        add_event(connection, lease.job.id, str(error["message"]), level="error")
    return True


def release_job(lease: Lease, *, reason: str) -> bool:
    """Give a job back that can go on later: paused where that was asked for, else waiting again.

    Args:
        lease: of the worker.
        reason: why, for the event.

    Returns:
        Whether it was this worker's.

    Raises:
        StorageError: the registry cannot be written.
    """
    with open_store(lease.home).write() as connection:
        asked = job_row(connection, lease.job.id).request == "pause"
        back = {"status": "paused" if asked else "queued", "request": None, "lease_owner": None, "lease_until": None}
        if connection.execute(update(jobs).where(lease.where()).values(back)).rowcount == 0:
            return False
        add_event(connection, lease.job.id, "The job has been paused" if asked else reason)
    return True


def _take_over(connection: Connection, job: Job) -> bool:
    """Count a lost worker; False where the job does not run on: it was to pause, or loses every worker."""
    lost = job.lost_workers + 1
    values: dict[str, Any] = {"lost_workers": lost, "lease_owner": None, "lease_until": None, "request": None}
    if job.request == "pause":
        values |= {"status": "paused"}
        add_event(connection, job.id, "The job has been paused")
    elif lost > _MOST_LOST_WORKERS:
        message = f"{lost} workers died over this job, one after the other; the server's log says how"
        error = {"code": "worker_lost", "message": message, "param": None}
        values |= {"status": "failed", "error": error, "finished_at": int(time.time())}
        add_event(connection, job.id, message, level="error")
    else:
        add_event(
            connection, job.id, "The job's worker was lost; another goes on from the last checkpoint", level="warn"
        )
    connection.execute(update(jobs).where(jobs.c.id == job.id).values(values))
    return "status" not in values


def _end(connection: Connection, lease: Lease, status: str, **values: Any) -> bool:
    ended = {
        "status": status,
        "request": None,
        "lease_owner": None,
        "lease_until": None,
        "finished_at": int(time.time()),
    }
    return connection.execute(update(jobs).where(lease.where()).values({**ended, **values})).rowcount > 0


def _claimable(now: float) -> Any:
    return or_(jobs.c.status == "queued", and_(jobs.c.status == "running", jobs.c.lease_until <= now))


def _count(connection: Connection, condition: Any) -> int:
    return int(connection.execute(select(func.count()).select_from(jobs).where(condition)).scalar() or 0)
