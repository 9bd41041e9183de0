"""The OpenAPI document against the application: whatever is sent, the answer is one that it allows, never 5xx.

Three generated requests a route; HONE_CONTRACT=N sends N.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import content_type_conformance, status_code_conformance

from tests.serve.conftest import settings_of, whole_app

EXAMPLES = int(os.environ.get("HONE_CONTRACT", "3"))


@pytest.mark.slow
def test_every_answer_is_one_that_the_document_allows(hone_home: Path) -> None:
    app = whole_app(settings_of(hone_home, hosts=("testserver", "localhost", "127.0.0.1")))
    schema = schemathesis.openapi.from_asgi("/openapi.json", app)
    operations = [found.ok() for found in schema.get_all_operations()]
    assert len(operations) > 25
    broken = []
    for operation in operations:

        @given(case=operation.as_strategy())
        @settings(
            max_examples=EXAMPLES, deadline=None, derandomize=True, database=None, phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )  # fmt: skip
        def check(case: Any) -> None:
            case.call_and_validate(checks=[not_a_server_error, status_code_conformance, content_type_conformance])

        try:
            check()
        except (AssertionError, BaseExceptionGroup) as failure:  # each route has its turn
            broken.append(f"{operation.label}: {str(failure)[:600]}")
    assert not broken, "\n\n".join(broken)
