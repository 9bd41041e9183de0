"""Names on the wire: what they mean, and that none of them opens a file."""

from __future__ import annotations

from pathlib import Path

import pytest
from starlette.testclient import TestClient

from hone.registry import register_version, revert_alias, set_alias
from hone.registry.runs import create_run
from hone.serve.models import resolve_served_model
from hone.serve.wire import ApiError
from tests.serve.conftest import settings_of


@pytest.fixture
def versions(hone_home: Path) -> Path:
    """A home with support@1, support@2 and support@production, which is the first."""
    for content in ("one", "two"):
        run = create_run(hone_home, kind="run", name="support")
        run.adapter.mkdir()
        (run.adapter / "adapter_model.safetensors").write_text(content, encoding="utf-8")
        register_version(
            hone_home, name="support", run=run, base_name="small", base_hash="h", template_hash="t", data_manifest={},
            status="proven",
        )  # fmt: skip
    set_alias(hone_home, "support", "production", 1)
    return hone_home


def test_every_name_is_listed_and_resolved(versions: Path, client: TestClient) -> None:
    listed = [one["id"] for one in client.get("/v1/models").json()["data"]]
    assert listed == ["small", "support@1", "support@2", "support", "support@production"]
    settings = settings_of(versions)
    assert {name: resolve_served_model(settings, name).reference for name in listed} == {
        "small": "/no/base",
        "support@1": "support@1",
        "support@2": "support@2",
        "support": "support@2",
        "support@production": "support@1",
    }
    for name in listed:
        assert client.get(f"/v1/models/{name}").json()["id"] == name


def test_an_alias_that_was_reverted_to_the_base_means_the_base(versions: Path, client: TestClient) -> None:
    revert_alias(versions, "support", "production", to=None)
    found = resolve_served_model(settings_of(versions), "support@production")
    assert (found.kind, found.reference) == ("alias", "small")
    assert client.get("/v1/models/support@production").json()["id"] == "support@production"
    listed = {one["id"] for one in client.get("/v1/models").json()["data"]}
    assert "support@production" in listed


@pytest.mark.parametrize(
    "name", ["nothing", "support@3", "support@staging", "support@", "ft:small:hone::x", "/no/base"]
)
def test_other_names_are_404_in_the_api_s_words(versions: Path, client: TestClient, name: str) -> None:
    with pytest.raises(ApiError) as caught:
        resolve_served_model(settings_of(versions), name)
    assert (caught.value.status, caught.value.code) == (404, "model_not_found")
    assert client.get(f"/v1/models/{name}").status_code == 404


def test_a_name_never_reaches_a_folder(versions: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = next((versions / "runs").iterdir())
    monkeypatch.chdir(versions / "runs")
    for name in (str(run), run.name, f"./{run.name}", f"../runs/{run.name}", ".", "..", "", "~", "C:\\x"):
        with pytest.raises(ApiError):
            resolve_served_model(settings_of(versions), name)


def test_only_what_a_job_made_is_deleted(versions: Path, client: TestClient) -> None:
    for name in ("small", "support@1", "support", "support@production"):
        assert client.delete(f"/v1/models/{name}").status_code == 400
    assert client.delete("/v1/models/nothing").status_code == 404
    assert len(client.get("/v1/models").json()["data"]) == 5
