"""Names on the wire: what they mean, and that none of them opens a file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from hone.errors import ConfigError
from hone.model.rows import BatcherLimits
from hone.registry import Version, register_version, revert_alias, set_alias
from hone.registry.runs import create_run
from hone.serve.loading import Loader
from hone.serve.models import resolve_served_model
from hone.serve.wire import ApiError
from tests.serve.conftest import settings_of


@pytest.fixture
def versions(hone_home: Path) -> Path:
    """A home with support@1, support@2 and support@production, which is the first."""
    for content in ("one", "two"):
        registered(hone_home, "support", content)
    set_alias(hone_home, "support", "production", 1)
    return hone_home


def registered(home: Path, name: str, content: str, *, method: str | None = None) -> Version:
    """A version of some name; with the notes of a method where one is given."""
    run = create_run(home, kind="run", name=name)
    run.adapter.mkdir()
    (run.adapter / "adapter_model.safetensors").write_text(content, encoding="utf-8")
    if method is not None:
        template = {"template_hash": "t", "thinking": False}
        notes = {"method": method, "base_name": "small", "base_hash": "h", "template": template}
        (run.adapter / "hone.json").write_text(json.dumps(notes), encoding="utf-8")
    return register_version(
        home, name=name, run=run, base_name="small", base_hash="h", template_hash="t", data_manifest={},
        status="proven",
    )  # fmt: skip


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


def test_reward_models_are_not_listed_and_refused_by_name(versions: Path, client: TestClient) -> None:
    registered(versions, "mixed", "three", method="sft")
    registered(versions, "mixed", "four", method="reward")
    set_alias(versions, "mixed", "live", 2)
    listed = [one["id"] for one in client.get("/v1/models").json()["data"]]
    assert [one for one in listed if one.startswith("mixed")] == ["mixed@1"]
    assert client.get("/v1/models/mixed@1").status_code == 200
    for name in ("mixed", "mixed@2", "mixed@live"):
        asked = {"model": name, "messages": [{"role": "user", "content": "hi"}]}
        for answered in (client.get(f"/v1/models/{name}"), client.post("/v1/chat/completions", json=asked)):
            assert answered.status_code == 404
            told = answered.json()["error"]
            assert (told["type"], told["param"], told["code"]) == (
                "invalid_request_error", "model", "model_not_supported",
            )  # fmt: skip
            assert f"`{name}` is a reward model" in told["message"]
            assert "hone reward score mixed@2 FILE" in told["message"]


def test_a_reward_model_is_not_loaded_to_answer(versions: Path) -> None:
    version = registered(versions, "judge", "five", method="reward")
    loader = Loader(versions, device="cpu", dtype="float32", limits=BatcherLimits(), note=lambda _text: None)
    for reference in (version.reference, str(version.run_folder)):
        with pytest.raises(ConfigError, match="is a reward model"):
            loader.place(reference)


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
