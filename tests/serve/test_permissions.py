"""Permissions of checkpoints: granted once, listed, withdrawn."""

from __future__ import annotations

from pathlib import Path

import pytest
from starlette.testclient import TestClient

from hone.registry.jobs import pass_validation, submit_job
from hone.registry.leases import claim_job, succeed_job

MODEL = "ft:small:hone::abc"
PATH = f"/v1/fine_tuning/checkpoints/{MODEL}/permissions"


@pytest.fixture
def tuned(hone_home: Path) -> None:
    """A fine-tuned model."""
    job = submit_job(hone_home, {"training_file": "file-1"})
    pass_validation(hone_home, job.id)
    lease = claim_job(hone_home, "worker", seconds=60, most_running=1)
    assert lease is not None
    succeed_job(lease, model=MODEL, version="x@1", trained_tokens=1, result_file=None)


@pytest.mark.usefixtures("tuned")
def test_granted_listed_and_withdrawn(client: TestClient) -> None:
    granted = client.post(PATH, json={"project_ids": ["a", "b"]}).json()
    assert [one["project_id"] for one in granted["data"]] == ["a", "b"]
    assert (granted["object"], granted["has_more"]) == ("list", False)
    again = client.post(PATH, json={"project_ids": ["b", "c"]}).json()["data"]
    assert again[0] == granted["data"][1]
    listed = client.get(PATH).json()["data"]
    assert [one["project_id"] for one in listed] == ["c", "b", "a"]
    page = client.get(PATH, params={"limit": 1, "order": "ascending"}).json()
    assert ([one["project_id"] for one in page["data"]], page["has_more"]) == (["a"], True)
    assert [one["id"] for one in client.get(PATH, params={"project_id": "c"}).json()["data"]] == [again[1]["id"]]
    identity = granted["data"][1]["id"]
    assert client.delete(f"{PATH}/{identity}").json() == {
        "id": identity,
        "object": "checkpoint.permission",
        "deleted": True,
    }
    assert client.delete(f"{PATH}/{identity}").status_code == 404
    rest = client.get(PATH, params={"after": identity}).json()["data"]
    assert [one["project_id"] for one in rest] == ["a"]


@pytest.mark.usefixtures("tuned")
def test_what_is_no_fine_tuned_model_has_none(client: TestClient) -> None:
    assert client.post(PATH.replace(MODEL, "small"), json={"project_ids": ["a"]}).status_code == 400
    assert client.get(PATH.replace(MODEL, "ft:nothing")).status_code == 404
    assert client.post(PATH, json={"project_ids": []}).status_code == 400
