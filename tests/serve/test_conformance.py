"""OpenAI's own client tests against `hone serve --conformance`: every one of them passes.

They are fetched as the source distribution of ``openai``, by pip; where there is no package index, this is skipped.
What answers is a tiny base: the tests look at the shapes of answers.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.conformance import CANNOT_INSTALL, RELEASE, SUITES
from tests.house.source_tree import REPOSITORY
from tests.tiny import save_tiny

FEWEST = {
    "fine-tuning jobs": 145, "job checkpoints": 25, "checkpoint permissions": 90, "files": 117, "models": 55,
    "chat completions": 145,
}  # fmt: skip


@pytest.mark.slow
def test_openai_s_own_client_tests_pass(tmp_path: Path, pytestconfig: pytest.Config) -> None:
    base = save_tiny(tmp_path / "tiny", max_position_embeddings=512)
    keep = pytestconfig.cache.mkdir("openai-tests") if pytestconfig.cache else tmp_path / "openai-tests"
    command = [sys.executable, str(REPOSITORY / "benchmarks" / "conformance.py"), "--keep", str(keep), "--json"]
    done = subprocess.run(
        [*command, "--base", f"tiny={base}"], env={**os.environ, "PYTHONPATH": str(REPOSITORY / "src")},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode == CANNOT_INSTALL:
        pytest.skip(f"pip cannot fetch openai {RELEASE} and what its tests need: {done.stderr[-300:]}")
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(done.stdout[done.stdout.index("{") :])["suites"]
    assert found.keys() == SUITES.keys() == FEWEST.keys()
    for name, fewest in FEWEST.items():
        assert found[name]["failed"] == 0
        assert found[name]["passed"] >= fewest, name
