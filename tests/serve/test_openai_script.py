"""The script of ``examples/``, written for OpenAI's hosted fine-tuning, against `hone serve` with a tiny base."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.house.source_tree import REPOSITORY
from tests.recipe.conftest import row, write_jsonl
from tests.serve.running import serving
from tests.tiny import save_tiny

SCRIPT = REPOSITORY / "examples" / "openai_client.py"


def pretrained_tiny(folder: Path) -> Path:
    """A tiny base that ends its answers, as a pre-trained one does: the three passes of "auto" teach no such thing."""
    base = save_tiny(folder, max_position_embeddings=512)
    model, tokenizer = AutoModelForCausalLM.from_pretrained(base), AutoTokenizer.from_pretrained(base)
    turns = [
        [{"role": "user", "content": one["prompt"]}, {"role": "assistant", "content": one["completion"]}]
        for one in map(row, range(100, 140))
    ]
    rows = [tokenizer.apply_chat_template(turn, tokenize=True, return_dict=False) for turn in turns]
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(10):
        for ids in rows:
            ids_BT = torch.tensor([ids])
            model(input_ids=ids_BT, labels=ids_BT).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
    model.save_pretrained(base)
    return base


def test_the_script_knows_nothing_of_hone() -> None:
    tree = ast.parse(SCRIPT.read_text(encoding="utf-8"))
    imported = {one.names[0].name for one in ast.walk(tree) if isinstance(one, ast.Import)}
    assert imported | {one.module for one in ast.walk(tree) if isinstance(one, ast.ImportFrom)} == {
        "sys", "time", "openai",
    }  # fmt: skip
    asked = [one.func for one in ast.walk(tree) if isinstance(one, ast.Call)]
    assert any(isinstance(one, ast.Name) and one.id == "OpenAI" for one in asked)


@pytest.mark.slow
def test_a_script_for_hosted_fine_tuning_runs_unchanged_but_for_the_address(hone_home: Path, tmp_path: Path) -> None:
    base = pretrained_tiny(tmp_path / "tiny")
    data = write_jsonl(
        tmp_path / "train.jsonl",
        [
            {"messages": [
                {"role": "user", "content": one["prompt"]}, {"role": "assistant", "content": one["completion"]},
            ]}
            for one in map(row, range(40))
        ],
    )  # fmt: skip
    question = row(3)["prompt"]
    with serving(hone_home, f"--base=gpt-4o-mini-2024-07-18={base}") as address:
        done = subprocess.run(
            [sys.executable, str(SCRIPT), str(data), question],
            env={**os.environ, "OPENAI_BASE_URL": address, "OPENAI_API_KEY": "none"},
            capture_output=True, text=True, encoding="utf-8", check=False,
        )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    *events, answer = done.stdout.strip().splitlines()
    assert any(line.startswith("info  Step 3/") for line in events)
    assert events[-1] == "info  The job has successfully completed"
    name, _, text = answer.partition(": ")
    assert name.startswith("ft:gpt-4o-mini-2024-07-18:hone::")
    assert "is lit" in text
