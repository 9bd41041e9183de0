"""Many clients, servers and workers that are killed: each job is done once, none is lost."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from benchmarks.submissions import submissions

# More on demand, as 1000; a job takes about a third of a second on one core.
JOBS = int(os.environ.get("HONE_SUBMISSIONS", "30"))


@pytest.mark.slow
def test_every_job_is_done_once_while_servers_and_workers_are_killed(tmp_path: Path) -> None:
    outcome = submissions(tmp_path, jobs=JOBS, clients=min(JOBS, 50), seed=2, seconds_between_kills=1.5, patience=1800)
    assert outcome.problems == []
    assert len(set(outcome.submitted.values())) == JOBS
    assert outcome.kills["server"] > 0
    assert outcome.kills["worker"] > 0
