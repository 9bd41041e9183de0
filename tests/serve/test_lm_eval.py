"""lm-evaluation-harness as a client of `hone serve`: its chat and its completions model, on tasks of their own.

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

from hone.types import JsonDict
from tests.recipe.conftest import row, write_jsonl
from tests.serve.running import serving, serving_in_float32
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
_CHOICES = """
task: lamps
dataset_path: json
dataset_kwargs: {data_files: {test: ROWS}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{question}}"
doc_to_choice: "{{choices}}"
doc_to_target: "{{answer}}"
metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]
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
        found, _ = _evaluated(tmp_path, model, arguments, *further)
    assert found["n-samples"]["lamps"]["effective"] == 8
    score = found["results"]["lamps"]["exact_match,none"]
    if model == "local-chat-completions":  # asked as it was trained; without its template it may say anything
        assert score >= 0.75, "the tiny base may have learnt a row or two wrong"
    else:
        assert 0.0 <= score <= 1.0


def test_likelihoods_over_the_wire_are_those_of_the_harnesss_own_model(hone_home: Path, tmp_path: Path) -> None:
    base = pretrained_tiny(tmp_path / "tiny")
    questions = []
    for number in range(100, 108):
        asked, other = row(number), row(number + 1)
        choices = [f" {asked['completion']}", f" {other['completion']}", " nobody can tell", " no"]
        questions.append({"question": asked["prompt"], "choices": choices, "answer": 0})
    rows = write_jsonl(tmp_path / "rows.jsonl", questions)
    (tmp_path / "lamps.yaml").write_text(_CHOICES.replace("ROWS", str(rows)), encoding="utf-8")
    own, expected = _evaluated(tmp_path, "hf", f"pretrained={base},dtype=float32", "--device", "cpu")
    with serving_in_float32(hone_home, base) as address:
        arguments = f"model=small,base_url={address}/completions,tokenizer={base},max_length=512,max_retries=1"
        found, samples = _evaluated(tmp_path, "local-completions", arguments, "--batch_size", "3")
    assert found["results"]["lamps"]["acc,none"] == own["results"]["lamps"]["acc,none"]
    assert len(samples) == len(expected) == 8
    for one, other in zip(samples, expected, strict=True):
        assert one["doc"] == other["doc"]
        for (mine, greedy), (theirs, as_greedy) in zip(_answers(one), _answers(other), strict=True):
            assert mine == pytest.approx(theirs, abs=1e-3)
            assert greedy == as_greedy


def _answers(sample: JsonDict) -> list[tuple[float, bool]]:
    """(log-likelihood, whether it is what the model would write) of each choice."""
    pairs = [response[0] for response in sample["resps"]]
    return [(float(likelihood), str(greedy) == "True") for likelihood, greedy in pairs]


def _evaluated(folder: Path, model: str, arguments: str, *further: str) -> tuple[JsonDict, list[JsonDict]]:
    """The harness's results on the task ``lamps`` of ``folder``, and its samples in the order of the rows."""
    out = folder / f"results of {model}"
    done = subprocess.run(
        [PYTHON, "-m", "lm_eval", "--model", model, "--model_args", arguments, "--tasks", "lamps",
         "--include_path", str(folder), "--output_path", str(out), "--log_samples", *further],
        env={**os.environ, "OPENAI_API_KEY": "none", "HF_HOME": str(folder / "hf"), "PYTHONPATH": ""},
        cwd=folder, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    (written,) = out.rglob("results_*.json")
    (logged,) = out.rglob("samples_*.jsonl")
    samples = [json.loads(line) for line in logged.read_text(encoding="utf-8").splitlines()]
    return json.loads(written.read_text(encoding="utf-8")), sorted(samples, key=lambda sample: sample["doc_id"])
