"""Leases: one worker a job, one job after the other, and a lost worker's job goes on."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from hone.registry.job_rows import Job
from hone.registry.jobs import cancel_job, find_job, list_events, pass_validation, pause_job, submit_job
from hone.registry.leases import (
    Lease,
    claim_job,
    count_claimable,
    fail_job,
    release_job,
    renew_lease,
    succeed_job,
    tell_job,
)


def waiting(home: Path, count: int = 1) -> list[str]:
    """Jobs that wait for a worker."""
    made = [submit_job(home, {"training_file": f"file-{place}"}).id for place in range(count)]
    for job_id in made:
        pass_validation(home, job_id)
    return made


def claimed(home: Path, owner: str, *, seconds: float = 60.0, most_running: int = 9) -> Lease:
    """A lease; the test fails where there is none."""
    lease = claim_job(home, owner, seconds=seconds, most_running=most_running)
    assert lease is not None
    return lease


def found(home: Path, job_id: str) -> Job:
    """The job as it stands."""
    job = find_job(home, job_id)
    assert job is not None
    return job


def messages(home: Path, job_id: str) -> list[str]:
    """What happened to a job after it was queued."""
    return [event.message for event in list_events(home, job_id)][3:]


def test_jobs_go_out_in_order_and_once(hone_home: Path) -> None:
    made = waiting(hone_home, 3)
    assert [claimed(hone_home, str(place)).job.id for place in range(3)] == made
    assert claim_job(hone_home, "late", seconds=60, most_running=9) is None


def test_no_more_run_than_may(hone_home: Path) -> None:
    waiting(hone_home, 3)
    assert count_claimable(hone_home, most_running=2) == 2
    leases = [claimed(hone_home, str(place), most_running=2) for place in range(2)]
    assert claim_job(hone_home, "third", seconds=60, most_running=2) is None
    assert count_claimable(hone_home, most_running=2) == 0
    assert fail_job(leases[0], {"code": "x", "message": "y", "param": None})
    assert count_claimable(hone_home, most_running=2) == 1


def test_a_job_that_was_not_validated_is_not_claimed(hone_home: Path) -> None:
    submit_job(hone_home, {"training_file": "file-1"})
    assert claim_job(hone_home, "worker", seconds=60, most_running=9) is None


def test_a_lost_worker_s_job_goes_to_another_and_the_first_changes_nothing_more(hone_home: Path) -> None:
    (job_id,) = waiting(hone_home)
    first = claimed(hone_home, "first", seconds=0.05)
    time.sleep(0.1)
    second = claimed(hone_home, "second")
    assert second.job.id == job_id
    assert renew_lease(first) == "lost"
    assert not tell_job(first, trained_tokens=1)
    assert not release_job(first, reason="late")
    assert not fail_job(first, {"code": "x", "message": "late", "param": None})
    assert not succeed_job(first, model="ft:late", version="a@1", trained_tokens=1, result_file=None)
    assert renew_lease(second) == "held"
    assert succeed_job(second, model="ft:right", version="a@2", trained_tokens=2, result_file=None)
    job = found(hone_home, job_id)
    assert (job.status, job.fine_tuned_model, job.lost_workers) == ("succeeded", "ft:right", 1)
    assert messages(hone_home, job_id) == [
        "Fine-tuning job started",
        "The job's worker was lost; another goes on from the last checkpoint",
        "New fine-tuned model created: ft:right",
        "The job has successfully completed",
    ]


def test_a_renewed_lease_lasts(hone_home: Path) -> None:
    waiting(hone_home)
    lease = claimed(hone_home, "worker", seconds=0.5)
    for _ in range(4):
        time.sleep(0.2)
        assert renew_lease(lease) == "held"
        assert claim_job(hone_home, "other", seconds=60, most_running=9) is None


def test_a_job_that_kills_every_worker_fails(hone_home: Path) -> None:
    (job_id,) = waiting(hone_home)
    for place in range(11):
        claimed(hone_home, str(place), seconds=-1.0)
    assert claim_job(hone_home, "last", seconds=60, most_running=9) is None
    job = found(hone_home, job_id)
    assert job.error is not None
    assert (job.status, job.error["code"], job.lost_workers) == ("failed", "worker_lost", 11)


def test_a_worker_lost_while_it_was_to_pause_leaves_a_paused_job(hone_home: Path) -> None:
    (job_id,) = waiting(hone_home)
    claimed(hone_home, "worker", seconds=-1.0)
    pause_job(hone_home, job_id)
    assert claim_job(hone_home, "other", seconds=60, most_running=9) is None
    assert found(hone_home, job_id).status == "paused"


def test_a_cancelled_job_is_nobody_s(hone_home: Path) -> None:
    (job_id,) = waiting(hone_home)
    lease = claimed(hone_home, "worker", seconds=-1.0)
    cancel_job(hone_home, job_id)
    assert claim_job(hone_home, "other", seconds=60, most_running=9) is None
    assert renew_lease(lease) == "lost"


@pytest.mark.parametrize("asked", [False, True])
def test_a_released_job_waits_or_is_paused(hone_home: Path, asked: bool) -> None:
    (job_id,) = waiting(hone_home)
    lease = claimed(hone_home, "worker")
    if asked:
        pause_job(hone_home, job_id)
        assert renew_lease(lease) == "pause"
    assert release_job(lease, reason="stopped")
    job = found(hone_home, job_id)
    assert (job.status, job.request, job.lease_owner) == ("paused" if asked else "queued", None, None)
    assert messages(hone_home, job_id)[-1] == ("The job has been paused" if asked else "stopped")


def test_an_event_with_an_id_is_told_once(hone_home: Path) -> None:
    (job_id,) = waiting(hone_home)
    lease = claimed(hone_home, "worker")
    for _ in range(2):
        assert tell_job(lease, events=(("ftevent-1", "Step 1/2", {"step": 1}),), trained_tokens=3)
    assert messages(hone_home, job_id) == ["Fine-tuning job started", "Step 1/2"]
    assert list_events(hone_home, job_id)[-1].type == "metrics"
    assert found(hone_home, job_id).trained_tokens == 3
