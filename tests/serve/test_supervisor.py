"""The supervisor: it starts workers while jobs wait, no more than it may, and none of them ends with it."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hone.errors import StorageError
from hone.registry.jobs import find_job, pass_validation, submit_job
from hone.registry.leases import claim_job, count_claimable
from hone.serve import supervisor as module
from hone.serve.supervisor import Supervisor
from tests.serve.conftest import rows

# A worker as the supervisor sees it: it leaves its id, and lives for as long as it is told.
_WORKER = "import os, pathlib, sys, time; pathlib.Path(os.environ['HONE_HOME'], f'worker-{os.getpid()}').touch()"
_STAYS = [sys.executable, "-c", f"{_WORKER}; time.sleep(60)"]
SPEC = {"training_file": "file-gone", "validation_file": None, "method": {"type": "supervised"}}
_ENDS = [sys.executable, "-c", _WORKER]


def waiting_job(home: Path, **spec: object) -> str:
    """A job that waits for a worker."""
    job_id = submit_job(home, {**SPEC, **spec}).id
    pass_validation(home, job_id)
    return job_id


def workers(home: Path) -> list[int]:
    """Ids of the workers that have begun, the first one first."""
    found = sorted(home.glob("worker-*"), key=lambda path: path.stat().st_mtime_ns)
    return [int(path.name.removeprefix("worker-")) for path in found]


def until(holds: Callable[[], bool], seconds: float = 30) -> None:
    """Wait for something that must come."""
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.02)


@pytest.fixture
def home(hone_home: Path) -> Iterator[Path]:
    """A home; the workers that are left are ended."""
    yield hone_home
    for worker in workers(hone_home):
        try:
            os.kill(worker, signal.SIGKILL)
        except ProcessLookupError:
            continue


def test_no_more_workers_than_jobs_wait_and_none_beyond_the_limit(home: Path) -> None:
    with Supervisor(home, _STAYS, most_running=2, seconds=0.02):
        time.sleep(0.3)
        assert workers(home) == [], "nothing waits"
        for _ in range(3):
            waiting_job(home)
        until(lambda: len(workers(home)) == 2)
        time.sleep(0.3)
        assert len(workers(home)) == 2


def test_workers_outlive_the_server_and_another_one_starts_no_more_than_are_free(home: Path) -> None:
    waiting_job(home)
    waiting_job(home)
    with Supervisor(home, _STAYS, most_running=1, seconds=0.02):
        until(lambda: len(workers(home)) == 1)
    worker = workers(home)[0]
    os.kill(worker, 0)
    assert os.getsid(worker) != os.getsid(0), "Ctrl-C in the server's terminal would reach it"
    assert claim_job(home, "the worker that is left", seconds=60, most_running=1)
    with Supervisor(home, _STAYS, most_running=1, seconds=0.02):
        time.sleep(0.3)
        assert workers(home) == [worker], "its job runs, whoever started it"


def test_a_worker_that_dies_before_it_claims_a_job_is_followed_by_another(home: Path) -> None:
    waiting_job(home)
    with Supervisor(home, _ENDS, most_running=1, seconds=0.02):
        until(lambda: len(workers(home)) >= 2)


def test_jobs_that_a_dead_server_left_unvalidated_are_validated(home: Path) -> None:
    from hone.registry.uploads import store_upload

    with (home / "rows.jsonl").open("w+b") as content:
        content.write(rows(12))
        content.seek(0)
        upload = store_upload(home, content, filename="rows.jsonl", purpose="fine-tune")
    good = submit_job(home, {**SPEC, "training_file": upload.id}).id
    bad = submit_job(home, SPEC).id

    def statuses() -> list[str]:
        return [str(found.status) for job_id in (good, bad) if (found := find_job(home, job_id))]

    assert statuses() == ["validating_files"] * 2
    with Supervisor(home, _STAYS, most_running=1, seconds=0.02):
        until(lambda: statuses() == ["queued", "failed"])


def test_a_registry_that_cannot_be_read_for_a_while_ends_nothing(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    waiting_job(home)
    asked: list[float] = []

    def fails_at_first(folder: Path, *, most_running: int) -> int:
        asked.append(time.monotonic())
        if len(asked) < 3:
            raise StorageError("locked", where=str(folder))
        return count_claimable(folder, most_running=most_running)

    monkeypatch.setattr(module, "count_claimable", fails_at_first)
    with Supervisor(home, _STAYS, most_running=1, seconds=0.02):
        until(lambda: len(workers(home)) == 1)
    assert len(asked) >= 3
