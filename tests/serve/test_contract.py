"""The OpenAPI document against the application: whatever is sent, the answer is one that it allows, never 5xx."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import schemathesis.openapi
from hypothesis import HealthCheck, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import content_type_conformance, status_code_conformance
from starlette.testclient import TestClient

from hone.serve.wire import WireResponse
from tests.serve.conftest import rows, settings_of, upload, whole_app


@pytest.mark.slow
def test_every_answer_is_one_that_the_document_allows(hone_home: Path) -> None:
    app = whole_app(settings_of(hone_home, hosts=("testserver", "localhost", "127.0.0.1")))
    schema = schemathesis.openapi.from_asgi("/openapi.json", app)
    operations = [found.ok() for found in schema.get_all_operations()]
    assert len(operations) > 25
    for operation in operations:

        @given(case=operation.as_strategy())
        @settings(max_examples=4, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
        def check(case: Any) -> None:
            case.call_and_validate(checks=[not_a_server_error, status_code_conformance, content_type_conformance])

        check()


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
