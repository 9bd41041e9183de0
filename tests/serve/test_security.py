"""What every route asks of a request, route by route; and docs/serve.md names each of them."""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from hone.errors import ConfigError
from hone.serve.app import create_app
from hone.serve.security import OPEN_PATHS, read_key
from tests.house.source_tree import REPOSITORY
from tests.serve.conftest import Make, settings_of, whole_app

KEY = "0123456789abcdefKEY"
_ROW = re.compile(r"^\| `([A-Z]+) (/[^`]*)` \| (key|open) \|", re.MULTILINE)


def routes_of(home: Path) -> list[tuple[str, str]]:
    """(method, path) of every route of an application, the OpenAPI document's among them."""
    document = TestClient(whole_app(settings_of(home))).get("/openapi.json").json()
    found = [(method.upper(), path) for path, methods in document["paths"].items() for method in methods]
    # of a path that may hold slashes, the document leaves out what FastAPI's own notation says
    found = [(method, path.replace("{model}", "{model:path}")) for method, path in found]
    return [*found, ("GET", "/openapi.json")]


def documented() -> dict[tuple[str, str], str]:
    """(method, path) of every row of the page's table, and what it asks."""
    page = (REPOSITORY / "docs" / "serve.md").read_text(encoding="utf-8")
    return {(method, path): asks for method, path, asks in _ROW.findall(page)}


def test_the_page_s_table_has_every_route_and_no_other(hone_home: Path) -> None:
    asked = {one: "open" if one[1] in OPEN_PATHS else "key" for one in routes_of(hone_home)}
    assert len(asked) > 25
    assert documented() == asked


@pytest.mark.parametrize(("method", "path"), sorted(documented()))
def test_every_route_asks_for_the_key(make_client: Make, method: str, path: str) -> None:
    client = make_client(key=KEY)
    place = re.sub(r"\{[^}]+\}", "nothing", path)
    answers = {}
    for name, headers in {
        "none": {},
        "wrong": {"Authorization": f"Bearer {KEY[:-1]}x"},
        "longer": {"Authorization": f"Bearer {KEY}x"},
        "scheme": {"Authorization": f"Basic {KEY}"},
        "bare": {"Authorization": KEY},
        "right": {"Authorization": f"Bearer {KEY}"},
    }.items():
        answers[name] = client.request(method, place, headers=headers).status_code
    right = answers.pop("right")
    assert right != 401
    assert right < 500
    expected = right if documented()[method, path] == "open" else 401
    assert set(answers.values()) == {expected}


def test_what_is_no_route_asks_for_the_key_too(make_client: Make) -> None:
    client = make_client(key=KEY)
    for method, path in [
        ("GET", "/"),
        ("GET", "/v1/nothing"),
        ("PUT", "/v1/files"),
        ("GET", "/docs"),
        ("GET", "//healthz"),
    ]:
        assert client.request(method, path).status_code == 401


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("testserver", 200), ("testserver:8000", 200), ("TESTSERVER", 200), ("evil.example", 403),
        ("evil.example:8000", 403), ("testserver.evil.example", 403), ("", 403), ("testserver:x", 403),
        ("testserver@evil.example", 403),
    ],
)  # fmt: skip
def test_only_its_own_names_are_answered(client: TestClient, host: str, status: int) -> None:
    assert client.get("/v1/models", headers={"Host": host}).status_code == status


def test_pages_of_other_sites_change_nothing_and_read_nothing(make_client: Make) -> None:
    client = make_client(origins=("https://own.example",))
    foreign, own = {"Origin": "https://evil.example"}, {"Origin": "https://own.example"}
    for method, path in [("POST", "/v1/files"), ("DELETE", "/v1/models/small"), ("POST", "/v1/fine_tuning/jobs")]:
        answered = client.request(method, path, headers=foreign)
        assert (answered.status_code, answered.json()["error"]["code"]) == (403, "origin_not_allowed")
        assert client.request(method, path, headers=own).status_code == 400
    assert client.request("POST", "/v1/files", headers={"Origin": "null"}).status_code == 403
    for headers in (foreign, own):
        answered = client.get("/v1/models", headers=headers)
        assert not [name for name in answered.headers if name.startswith("access-control")]
    asked = {"Origin": "https://evil.example", "Access-Control-Request-Method": "POST"}
    answered = client.options("/v1/files", headers=asked)
    assert not [name for name in answered.headers if name.startswith("access-control")]


def test_a_body_over_the_limit_is_refused(make_client: Make) -> None:
    client = make_client(most_body_bytes=1000)
    answered = client.post("/v1/fine_tuning/jobs", content=b"x" * 1001)
    assert (answered.status_code, answered.json()["error"]["code"]) == (413, "request_too_large")
    answered = client.post("/v1/fine_tuning/jobs", content=iter([b"x" * 600, b"x" * 600]))
    assert (answered.status_code, answered.json()["error"]["code"]) == (413, "request_too_large")


def test_more_requests_than_are_answered_at_once_are_told_to_come_again(make_client: Make) -> None:
    answered = make_client(most_requests=0).get("/v1/models")
    assert (answered.status_code, answered.headers["retry-after"]) == (429, "1")


def test_the_key_is_never_told(hone_home: Path) -> None:
    told: list[dict[str, object]] = []
    client = TestClient(create_app(settings_of(hone_home, key=KEY), tell=told.append))
    bodies = [
        client.get("/v1/models", headers={"Authorization": f"Bearer {key}"}).text for key in (KEY, "WRONG-0123456789")
    ]
    bodies.append(client.get("/metrics", headers={"Authorization": f"Bearer {KEY}"}).text)
    assert len(told) == 3
    assert KEY not in repr(told) + repr(bodies)
    assert "WRONG" not in repr(told) + repr(bodies)


def test_a_key_is_made_for_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "new" / "key"
    key = read_key(path)
    assert len(key) >= 32
    assert read_key(path) == key
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert read_key(tmp_path / "other") != key


@pytest.mark.skipif(os.name != "posix", reason="modes are POSIX's")
def test_a_key_that_others_may_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_text(KEY)
    path.chmod(0o644)
    with pytest.raises(ConfigError, match="others may read it") as caught:
        read_key(path)
    assert "chmod 600" in str(caught.value.remedy)


@pytest.mark.parametrize("content", ["", "short", "with a space in it anywhere", "Schlüssel-0123456789"])
def test_what_is_no_key_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "key"
    path.write_text(content, encoding="utf-8")
    path.chmod(0o600)
    with pytest.raises(ConfigError, match="holds no key"):
        read_key(path)
