"""Files over the wire: what is taken, what is refused and why, and how lists are turned over."""

from __future__ import annotations

from pathlib import Path

import pytest
from starlette.testclient import TestClient

from hone.registry.uploads import upload_path
from tests.serve.conftest import Make, rows, upload


def test_a_file_comes_back_as_it_was_sent(client: TestClient) -> None:
    content = "\ufeff".encode() + rows(12)
    identity = upload(client, content, name="Träining.jsonl")
    shown = client.get(f"/v1/files/{identity}").json()
    assert (shown["object"], shown["bytes"], shown["purpose"]) == ("file", len(content), "fine-tune")
    assert (shown["filename"], shown["status"], shown["expires_at"]) == ("Träining.jsonl", "processed", None)
    assert client.get(f"/v1/files/{identity}/content").content == content


def test_every_line_that_is_no_dictionary_is_named(client: TestClient) -> None:
    content = b'{"messages": []}\nnope\n\n[1]\n{"a": \xff}\n' + b"[" * 100_000 + b"\n"
    answered = client.post("/v1/files", files={"file": ("x", content)}, data={"purpose": "fine-tune"})
    assert answered.status_code == 400
    assert answered.json()["error"]["message"] == (
        "Expected file to have JSONL format, where every line is a valid JSON dictionary. Line 2 is not valid JSON. "
        "Line 4 is not a JSON dictionary. Line 5 is not UTF-8. Line 6 is nested too deeply."
    )
    assert client.get("/v1/files").json()["data"] == []


def test_an_empty_file_is_refused_and_other_purposes_are_not_read(client: TestClient) -> None:
    answered = client.post("/v1/files", files={"file": ("x", b"\n \n")}, data={"purpose": "fine-tune"})
    assert "The file is empty." in answered.json()["error"]["message"]
    identity = upload(client, b"Example data", purpose="assistants")
    assert client.get(f"/v1/files/{identity}/content").content == b"Example data"


def test_a_deleted_file_is_gone_with_its_content(client: TestClient, hone_home: Path) -> None:
    identity = upload(client, rows(1))
    assert upload_path(hone_home, identity).exists()
    assert client.delete(f"/v1/files/{identity}").json() == {"id": identity, "object": "file", "deleted": True}
    assert not upload_path(hone_home, identity).parent.exists()
    for answered in (client.get(f"/v1/files/{identity}"), client.delete(f"/v1/files/{identity}")):
        assert answered.status_code == 404
        assert answered.json()["error"] == {
            "message": f"No such File object: {identity}",
            "type": "invalid_request_error",
            "param": "id",
            "code": None,
        }


def test_pages_follow_each_other_also_after_a_deleted_file(client: TestClient) -> None:
    made = [upload(client, rows(1)) for _ in range(5)]
    first = client.get("/v1/files", params={"limit": 2}).json()
    assert [one["id"] for one in first["data"]] == [made[4], made[3]]
    assert (first["first_id"], first["last_id"], first["has_more"]) == (made[4], made[3], True)
    client.delete(f"/v1/files/{made[3]}")
    second = client.get("/v1/files", params={"limit": 9, "after": made[3]}).json()
    assert [one["id"] for one in second["data"]] == [made[2], made[1], made[0]]
    assert second["has_more"] is False
    ascending = client.get("/v1/files", params={"order": "asc", "limit": 1, "purpose": "fine-tune"}).json()
    assert [one["id"] for one in ascending["data"]] == [made[0]]
    assert client.get("/v1/files", params={"purpose": "batch"}).json()["data"] == []


def test_an_unknown_cursor_is_no_end_of_the_list(client: TestClient) -> None:
    answered = client.get("/v1/files", params={"after": "file-nowhere"})
    assert answered.status_code == 400
    assert answered.json()["error"]["param"] == "after"


def test_a_file_expires(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    data = {"purpose": "user_data", "expires_after[anchor]": "created_at", "expires_after[seconds]": "3600"}
    shown = client.post("/v1/files", files={"file": ("x", b"1")}, data=data).json()
    assert shown["expires_at"] - shown["created_at"] == 3600
    monkeypatch.setattr("hone.registry.uploads.time.time", lambda: shown["expires_at"] + 1.0)
    assert client.get(f"/v1/files/{shown['id']}").status_code == 404
    assert client.get("/v1/files").json()["data"] == []


def test_an_upload_over_the_limit_is_refused_whatever_its_length_is_said_to_be(make_client: Make) -> None:
    small = make_client(most_upload_bytes=1000)
    answered = small.post("/v1/files", files={"file": ("x", b"1" * 100_000)}, data={"purpose": "batch"})
    assert (answered.status_code, answered.json()["error"]["code"]) == (413, "request_too_large")

    def parts() -> object:
        yield b'--b\r\nContent-Disposition: form-data; name="file"; filename="x"\r\n\r\n'
        for _ in range(100):
            yield b"1" * 1000
        yield b'\r\n--b\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nbatch\r\n--b--\r\n'

    answered = small.post("/v1/files", content=parts(), headers={"content-type": "multipart/form-data; boundary=b"})
    assert (answered.status_code, answered.json()["error"]["code"]) == (413, "request_too_large")
    assert small.get("/v1/files").json()["data"] == []
