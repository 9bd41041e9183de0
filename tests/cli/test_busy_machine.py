"""Threads that wait sleep on a busy machine, spin on a free one, and do what the user said on both."""

from __future__ import annotations

import os

import pytest

from hone.cli import app


@pytest.mark.parametrize(
    ("load", "given", "expected"),
    [(0.2, None, None), (1.7, None, "PASSIVE"), (1.7, "ACTIVE", "ACTIVE"), (0.2, "ACTIVE", "ACTIVE")],
)
def test_wait_policy(monkeypatch: pytest.MonkeyPatch, load: float, given: str | None, expected: str | None) -> None:
    monkeypatch.setattr(os, "getloadavg", lambda: (load, 0.0, 0.0))
    monkeypatch.setenv("OMP_WAIT_POLICY", "put back afterwards")
    monkeypatch.delenv("OMP_WAIT_POLICY")
    if given is not None:
        monkeypatch.setenv("OMP_WAIT_POLICY", given)
    app.main(["--version"])
    assert os.environ.get("OMP_WAIT_POLICY") == expected
