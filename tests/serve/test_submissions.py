"""Many clients, servers and workers that are killed: each job is done once, none is lost."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from benchmarks.submissions import submissions


# On demand: not yet seen to its end with servers killed, and it waits up to ten minutes.
@pytest.mark.skipif("HONE_SUBMISSIONS" not in os.environ, reason="HONE_SUBMISSIONS=1 runs 60 jobs under kills")
@pytest.mark.slow
def test_every_job_is_done_once_while_servers_and_workers_are_killed(tmp_path: Path) -> None:
    outcome = submissions(tmp_path, jobs=60, clients=10, seed=1, seconds_between_kills=2.0, patience=600)
    assert outcome.problems == []
    assert len(set(outcome.submitted.values())) == 60
