"""Clients that nobody here wrote, against a server with the embedded base."""

from __future__ import annotations

import faulthandler
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.house.source_tree import REPOSITORY
from tests.serve.running import serving

# On demand: each trains and evaluates the embedded base through the server, which takes many minutes on two cores.
pytestmark = [
    pytest.mark.real,
    pytest.mark.slow,
    pytest.mark.skipif("HONE_REAL_CLIENTS" not in os.environ, reason="HONE_REAL_CLIENTS=1 trains through the server"),
]

_BASE = "--base=gpt-4o-mini-2024-07-18=smollm2-135m-instruct"
_NODE = """
import OpenAI, { toFile } from "openai";
const client = new OpenAI();
const rows = await toFile(Buffer.from(process.env.ROWS), "train.jsonl");
const file = await client.files.create({ file: rows, purpose: "fine-tune" });
let job = await client.fineTuning.jobs.create({ model: "gpt-4o-mini-2024-07-18", training_file: file.id });
while (!["succeeded", "failed", "cancelled"].includes(job.status)) {
  await new Promise((done) => setTimeout(done, 2000));
  job = await client.fineTuning.jobs.retrieve(job.id);
}
const messages = [];
for await (const event of client.fineTuning.jobs.listEvents(job.id)) messages.push(event.message);
const stream = await client.chat.completions.create({
  model: job.fine_tuned_model, messages: [{ role: "user", content: process.env.QUESTION }], temperature: 0,
  stream: true,
});
let answer = "", parts = 0;
for await (const part of stream) { answer += part.choices[0]?.delta?.content ?? ""; parts += 1; }
console.log(JSON.stringify({ status: job.status, error: job.error, messages, answer, parts }));
"""


def train_rows(count: int) -> str:
    """Rows of the bundled example with the first sentence of each answer: soon learnt, and soon written."""
    lines = (REPOSITORY / "examples" / "support" / "train.jsonl").read_text(encoding="utf-8").splitlines()[:count]
    rows = [json.loads(line) for line in lines]
    for row in rows:
        answer = row["messages"][-1]
        answer["content"] = answer["content"].partition(". ")[0].rstrip(".") + "."
    return "".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in rows)


def question() -> str:
    """The first held-out question of the bundled example."""
    line = (REPOSITORY / "examples" / "support" / "eval.jsonl").read_text(encoding="utf-8").splitlines()[0]
    return str(next(one["content"] for one in json.loads(line)["messages"] if one["role"] == "user"))


@pytest.fixture(autouse=True)
def _takes_longer_than_others(real_home: Path, pytestconfig: pytest.Config) -> None:
    """A job trains and asks 1,600 questions: six minutes of a core. What the base answered is kept for next time."""
    faulthandler.cancel_dump_traceback_later()
    if pytestconfig.cache and not (real_home / "cache").exists():
        kept = pytestconfig.cache.mkdir("hone-base-answers")
        (real_home / "cache").symlink_to(kept, target_is_directory=True)


@pytest.mark.usefixtures("embedded_base")
def test_a_script_for_openai_s_hosted_fine_tuning_runs_unchanged(real_home: Path, tmp_path: Path) -> None:
    data = tmp_path / "train.jsonl"
    data.write_text(train_rows(60), encoding="utf-8")
    with serving(real_home, _BASE) as address:
        done = subprocess.run(
            [sys.executable, str(REPOSITORY / "examples" / "openai_client.py"), str(data), question()],
            env={**os.environ, "OPENAI_BASE_URL": address, "OPENAI_API_KEY": "none"},
            capture_output=True, text=True, encoding="utf-8", check=False,
        )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    *events, answer = done.stdout.strip().splitlines()
    assert any("The job has successfully completed" in line for line in events)
    name, _, text = answer.partition(": ")
    assert name.startswith("ft:gpt-4o-mini-2024-07-18:hone::")
    assert len(text.split()) > 3


@pytest.mark.usefixtures("embedded_base")
def test_the_node_client_streams_an_answer_of_what_it_has_tuned(real_home: Path, tmp_path: Path) -> None:
    if shutil.which("node") is None or shutil.which("npm") is None:
        pytest.skip("node and npm are not installed")
    installed = subprocess.run(
        ["npm", "install", "--silent", "--ignore-scripts", "--no-audit", "--no-fund", "openai"],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if installed.returncode:
        pytest.skip(f"npm cannot install the package openai here: {installed.stderr[-200:]}")
    (tmp_path / "client.mjs").write_text(_NODE, encoding="utf-8")
    with serving(real_home, _BASE) as address:
        done = subprocess.run(
            ["node", "client.mjs"], cwd=tmp_path, capture_output=True, text=True, encoding="utf-8", check=False,
            env={**os.environ, "OPENAI_BASE_URL": address, "OPENAI_API_KEY": "none", "ROWS": train_rows(60),
                 "QUESTION": question()},
        )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    seen = json.loads(done.stdout)
    assert seen["status"] == "succeeded", seen
    assert seen["messages"][0] == "The job has successfully completed"
    assert len(seen["messages"]) > 20  # more than one page
    assert len(seen["answer"].split()) > 3
    assert seen["parts"] > 3
