"""Promotion and revert under load, with fewer moves than on demand (``python -m tests.serve.switching``)."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.serve.switching import switches


@pytest.mark.slow
def test_no_request_is_lost_or_answered_by_the_wrong_version(tmp_path: Path) -> None:
    outcome = switches(tmp_path, count=50, clients=4, seconds_between=0.1)
    assert outcome.problems == []
    assert outcome.switches == 50
    assert set(outcome.answers) == {"support@1", "support@2"}
    assert outcome.answers.total() > 50
    assert outcome.decided >= 10
