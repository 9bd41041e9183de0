"""lm-evaluation-harness as a client of `hone serve`: its chat and its completions model, on a task of its own.

On demand, because the harness is an extra: `pip install 'hone-llm[lm-eval]' 'lm-eval[api]'`, or HONE_LM_EVAL names a
Python that has it.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.recipe.conftest import row, write_jsonl
from tests.serve.running import serving
from tests.serve.test_openai_script import pretrained_tiny

PYTHON = os.environ.get("HONE_LM_EVAL") or (sys.executable if importlib.util.find_spec("lm_eval") else "")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not PYTHON, reason="the extra lm-eval is not installed, and HONE_LM_EVAL names no Python with it"
    ),
]

_TASK = """
task: lamps
dataset_path: json
dataset_kwargs: {data_files: {test: ROWS}}
test_split: test
output_type: generate_until
doc_to_text: "{{prompt}}"
doc_to_target: "{{completion}}"
generation_kwargs: {until: ["\\n"], max_gen_toks: 16, do_sample: false}
metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]
"""


@pytest.mark.parametrize(
    ("model", "route", "further"),
    [
        ("local-chat-completions", "chat/completions", ["--apply_chat_template"]),
        ("local-completions", "completions", []),
    ],
)
def test_the_harness_asks_the_server(
    hone_home: Path, tmp_path: Path, model: str, route: str, further: list[str]
) -> None:
    base = pretrained_tiny(tmp_path / "tiny")
    rows = write_jsonl(tmp_path / "rows.jsonl", [row(number) for number in range(100, 108)])
    (tmp_path / "lamps.yaml").write_text(_TASK.replace("ROWS", str(rows)), encoding="utf-8")
    with serving(hone_home, f"--base=small={base}", "--jobs=0") as address:
        arguments = f"model=small,base_url={address}/{route},num_concurrent=2,tokenizer_backend=None,max_retries=1"
        done = subprocess.run(
            [PYTHON, "-m", "lm_eval", "--model", model, "--model_args", arguments, "--tasks", "lamps",
             "--include_path", str(tmp_path), "--output_path", str(tmp_path / "results"), *further],
            env={**os.environ, "OPENAI_API_KEY": "none", "HF_HOME": str(tmp_path / "hf"), "PYTHONPATH": ""},
            cwd=tmp_path, capture_output=True, text=True, check=False,
        )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    (written,) = (tmp_path / "results").rglob("results_*.json")
    found = json.loads(written.read_text(encoding="utf-8"))
    assert found["n-samples"]["lamps"]["effective"] == 8
    score = found["results"]["lamps"]["exact_match,none"]
    if model == "local-chat-completions":  # asked as it was trained; without its template it may say anything
        assert score == 1.0
    else:
        assert 0.0 <= score <= 1.0
