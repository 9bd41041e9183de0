"""What no schema catches: text that JSON can write and no encoding has."""

from __future__ import annotations

from pathlib import Path

from starlette.testclient import TestClient

from hone.serve.wire import WireResponse
from tests.serve.conftest import rows, settings_of, upload, whole_app


def test_half_of_a_surrogate_pair_is_no_server_error(hone_home: Path) -> None:
    client = TestClient(whole_app(settings_of(hone_home)), raise_server_exceptions=False)
    training_file = upload(client, rows(12))
    body = b'{"model": "small", "training_file": "%s", "metadata": {"a": "\\ud800"}}' % training_file.encode()
    answered = client.post("/v1/fine_tuning/jobs", content=body, headers={"content-type": "application/json"})
    assert answered.status_code == 400
    grader = (
        b'{"grader": {"type": "string_check", "name": "\\ud800", "input": "a", "reference": "a", "operation": "eq"}'
    )
    answered = client.post(
        "/v1/fine_tuning/alpha/graders/run", content=grader + b', "model_sample": "\\udfff"}',
        headers={"content-type": "application/json"},
    )  # fmt: skip
    assert answered.status_code in (200, 400)
    assert WireResponse({"a": "\ud800"}).body == b'{"a": "\\ud800"}'
