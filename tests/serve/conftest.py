"""What the tests of the server share: an application with an empty home, and a client that reaches it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient
from starlette.types import ASGIApp

from hone.serve.answering import answering
from hone.serve.app import create_app
from hone.serve.inference import InferenceService
from hone.serve.metrics import Metrics
from hone.serve.settings import ServerSettings

Make = Callable[..., TestClient]


def settings_of(home: Path, **changed: Any) -> ServerSettings:
    """Settings with one base of the name ``small``."""
    return ServerSettings(**{"home": home, "bases": {"small": "/no/base"}, "hosts": ("testserver",), **changed})


def whole_app(settings: ServerSettings, *, lenient: bool = False) -> ASGIApp:
    """The application that `hone serve` starts, with its own models."""
    metrics = Metrics()
    answers = answering(settings, InferenceService(settings.home), metrics=metrics, lenient=lenient)
    return create_app(
        settings,
        answering=[answers.router],
        answer_chat=answers.answer_chat,
        lifespan=answers.lifespan,
        metrics=metrics,
    )


@pytest.fixture
def make_client(hone_home: Path) -> Make:
    """Makes a client of an application; keyword arguments are the settings' fields."""

    def make(**changed: Any) -> TestClient:
        return TestClient(whole_app(settings_of(hone_home, **changed)), raise_server_exceptions=False)

    return make


@pytest.fixture
def client(make_client: Make) -> TestClient:
    """A client of an application with plain settings."""
    return make_client()


def rows(count: int) -> bytes:
    """So many training rows as JSONL."""
    lines = (
        {
            "messages": [
                {"role": "user", "content": f"What is {place} and {place}?"},
                {"role": "assistant", "content": f"It is {2 * place}."},
            ]
        }
        for place in range(count)
    )
    return "".join(f"{json.dumps(line, ensure_ascii=False)}\n" for line in lines).encode()


def upload(client: TestClient, content: bytes, *, purpose: str = "fine-tune", name: str = "train.jsonl") -> str:
    """Upload a file and give its id."""
    answered = client.post("/v1/files", files={"file": (name, content)}, data={"purpose": purpose})
    assert answered.status_code == 200, answered.text
    return str(answered.json()["id"])
