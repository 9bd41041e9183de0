"""Pushing: one commit with the export's files, to a stand-in of the hub; refused clearly without a token."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest

from hone.errors import ConfigError, ProofError, StorageError
from hone.recipe.push import PushResult, push_version
from tests.recipe.conftest import Finished, Listener

TOKEN = "hf_" + "x" * 34


@dataclass
class Hub:
    """What a stand-in of the hub was asked, and the files of the commits that it took."""

    url: str = ""
    made: list[dict[str, Any]] = field(default_factory=list)
    tokens: set[str] = field(default_factory=set)
    commits: list[dict[str, bytes]] = field(default_factory=list)
    refuses: bool = False


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """The part of the hub's HTTP API that an upload uses; every file is taken as a regular one, within the commit."""
    state = Hub()

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            return

        def answer(self, value: Any, code: int = 200) -> None:
            body = json.dumps(value).encode()
            self.send_response(code)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def do_GET(self) -> None:
            if state.refuses:
                self.answer({"error": "Repository not found"}, 404)
                return
            self.answer({"sha": "0" * 40, "siblings": [], "id": "you/questions"})

        def do_POST(self) -> None:
            content = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            state.tokens.add(str(self.headers.get("Authorization")))
            if state.refuses:
                self.answer({"error": "You don't have the rights to write here"}, 403)
            elif self.path == "/api/repos/create":
                state.made.append(json.loads(content))
                self.answer({"url": f"{state.url}/you/questions", "id": "1"})
            elif "/preupload/" in self.path:
                files = json.loads(content)["files"]
                self.answer(
                    {"files": [{"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in files]}
                )
            elif "/commit/" in self.path:
                lines = [json.loads(line) for line in content.splitlines()]
                files = [line["value"] for line in lines if line["key"] == "file"]
                state.commits.append({one["path"]: base64.b64decode(one["content"]) for one in files})
                self.answer(
                    {"success": True, "commitUrl": f"{state.url}/you/questions/commit/abc", "commitOid": "a" * 40}
                )
            else:
                self.answer({}, 200)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    state.url = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("HF_ENDPOINT", state.url)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    yield state
    server.shutdown()
    server.server_close()


def push(finished: Finished, repository: str = "you/questions", **given: Any) -> PushResult:
    options = {"target": "peft", "home": finished.home, "recorder": Listener(), **given}
    return push_version("questions", repository, **options)


def test_the_exports_files_come_in_one_commit(hub: Hub, finished: Finished) -> None:
    pushed = push(finished)
    assert pushed.commit_url.endswith("/you/questions/commit/abc")
    assert hub.tokens == {f"Bearer {TOKEN}"}
    [made] = hub.made
    assert (made["name"], made["organization"], made.get("private", made.get("visibility"))) in [
        ("questions", "you", True),
        ("questions", "you", "private"),
    ]
    [commit] = hub.commits
    assert set(commit) == {*pushed.export.files, "export.json"}
    adapter = finished.folder / "adapter" / "adapter_model.safetensors"
    assert commit["adapter_model.safetensors"] == adapter.read_bytes()
    card = commit["README.md"].decode()
    assert 'PeftModel.from_pretrained(base, "you/questions")' in card
    assert str(finished.home) not in card
    assert json.loads(commit["export.json"])["status"] == "proven"
    assert not list(finished.home.glob(".push.*")), "nothing is left beside the registry"


def test_a_repository_that_is_made_may_be_public(hub: Hub, finished: Finished) -> None:
    push(finished, public=True)
    assert hub.made[0].get("private", hub.made[0].get("visibility")) in (False, "public")


def test_what_the_hub_refuses_is_said(hub: Hub, finished: Finished) -> None:
    hub.refuses = True
    with pytest.raises(StorageError, match="the hub did not take it") as raised:
        push(finished)
    assert "You don't have the rights to write here" in str(raised.value)
    assert TOKEN not in str(raised.value)
    assert not hub.commits


def test_without_a_token_nothing_is_computed(hub: Hub, finished: Finished, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: None)
    monkeypatch.setattr("hone.recipe.push.export_version", lambda *_, **__: pytest.fail("an export began"))
    with pytest.raises(ConfigError, match="hf auth login"):
        push(finished)
    assert not hub.made


@pytest.mark.parametrize("name", ["", "a/b/c", "../x", "you/", "spaced name"])
def test_a_name_that_is_none_is_refused(name: str, hub: Hub, finished: Finished) -> None:
    with pytest.raises(ConfigError, match="is no name of a repository"):
        push(finished, name)


def test_an_export_that_fails_is_not_uploaded(hub: Hub, finished: Finished, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise ProofError("the exported files do not give the version's answers")

    monkeypatch.setattr("hone.recipe.push.export_version", refuse)
    with pytest.raises(ProofError):
        push(finished)
    assert not hub.made


def test_offline_is_said(hub: Hub, finished: Finished, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(StorageError, match="did not take it") as raised:
        push(finished)
    assert "HF_HUB_OFFLINE" in raised.value.render()
