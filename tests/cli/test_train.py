"""``hone train``: into a folder of the user's own, stopped by a signal and gone on with."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import Ended, Hone
from tests.tiny import no_file_larger_than

_STEPS = 300


def test_it_trains_into_the_folder_that_is_named(tiny_base: Path, rows: Path, tmp_path: Path, hone: Hone) -> None:
    folder = tmp_path / "mine"
    ended = hone(
        "train", rows, "--json", "--output", folder, "--model", tiny_base, "--epochs", 2, "--max-steps", 5,
        "--batch-size", 3, "--rank", 2, "--seed", 7, "--save-every-steps", 2, "--validation", 0, "--general-rows", 0,
    )  # fmt: skip
    assert ended.code == 0, ended.err
    training = ended.json["training"]
    given = {"steps": 5, "rank": 2, "batch_size": 3, "epochs": 2, "seed": 7}
    assert {name: training[name] for name in given} == given
    assert 0 < training["supervised_tokens"] < training["tokens"]
    assert training["rows_used"] == min(15, ended.json["data"]["train"])
    assert Path(ended.json["run_dir"]) == folder
    assert (folder / "adapter" / "adapter_model.safetensors").is_file()
    assert {path.name for path in (folder / "checkpoints").iterdir()} >= {"step-000002", "step-000004"}
    assert "evaluation" not in ended.json


def test_people_are_told_what_to_do_next(tiny_base: Path, rows: Path, tmp_path: Path, hone: Hone) -> None:
    folder = tmp_path / "mine"
    ended = hone("train", rows, "--output", folder, "--model", tiny_base, "--max-steps", 1)
    assert ended.code == 0, ended.err
    assert "1 step in" in ended.out
    found = re.search(r"(\d+) of (\d+) trained on, in 1 step", " ".join(ended.out.split()))
    assert found is not None, ended.out
    assert 0 < int(found[1]) < int(found[2])
    assert f"hone chat {folder}" in ended.out
    assert f"hone evaluate {folder} HELD_OUT.jsonl" in ended.out


@pytest.mark.parametrize("limit", [300, 3_000, 30_000])
def test_a_full_disk_is_said_and_nothing_half_written_stays(
    limit: int, tiny_base: Path, rows: Path, tmp_path: Path, hone: Hone
) -> None:
    folder = tmp_path / "mine"
    with no_file_larger_than(limit):
        ended = hone("train", rows, "--output", folder, "--model", tiny_base, "--max-steps", 2, "--rank", 8)
    assert ended.code == 1, ended.err
    assert "\nError: " in f"\n{ended.err}"
    assert "What to do: " in ended.err
    assert "Traceback" not in ended.err
    assert "bug of hone" not in ended.err
    assert not (folder / "adapter" / "adapter_model.safetensors").exists()
    assert [path for path in folder.rglob("*") if path.name.endswith(".tmp")] == []


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="signals are POSIX's")
def test_ctrl_c_saves_the_state_and_resume_ends_as_if_it_had_not_been(
    tiny_base: Path, rows: Path, tmp_path: Path, hone: Hone
) -> None:
    options = ["--model", tiny_base, "--max-steps", _STEPS, "--epochs", _STEPS, "--no-early-stop", "--validation", 0]
    stopped = _train_until_a_step([*map(str, ["train", rows, "--output", tmp_path / "stopped", *options])])
    assert stopped.code == 130, stopped.err
    assert "Stopping after this step" in stopped.err
    assert f"hone train --resume {tmp_path / 'stopped'}" in stopped.err
    assert "Traceback" not in stopped.err
    assert stopped.out == ""
    assert json.loads((tmp_path / "stopped" / "run.json").read_text(encoding="utf-8"))["status"] == "interrupted"
    steps = len((tmp_path / "stopped" / "metrics.jsonl").read_text(encoding="utf-8").splitlines())
    assert 0 < steps < _STEPS

    resumed = hone("train", "--resume", tmp_path / "stopped", "--json")
    whole = hone("train", rows, "--output", tmp_path / "whole", *options, "--json")
    assert (resumed.code, whole.code) == (0, 0), resumed.err
    assert _without_clock(resumed.json["training"]) == _without_clock(whole.json["training"])
    weights = "adapter/adapter_model.safetensors"
    assert (tmp_path / "stopped" / weights).read_bytes() == (tmp_path / "whole" / weights).read_bytes()
    again = hone("train", "--resume", tmp_path / "stopped")
    assert again.code == 2
    assert "finished" in again.err


def _without_clock(training: dict[str, Any]) -> dict[str, Any]:
    clock = {"seconds", "tokens_per_second", "peak_memory_bytes", "plan"}
    return {name: value for name, value in training.items() if name not in clock}


def _train_until_a_step(arguments: list[str]) -> Ended:
    process = subprocess.Popen(
        [sys.executable, "-m", "hone", *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        encoding="utf-8", env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )  # fmt: skip
    assert process.stderr is not None
    seen = []
    for line in process.stderr:
        seen.append(line)
        if "step 1/" in line:
            process.send_signal(signal.SIGINT)
            break
    out, err = process.communicate(timeout=120)
    return Ended(process.returncode, out, "".join(seen) + err)


def test_a_resumed_run_takes_no_other_options(rows: Path, tmp_path: Path, hone: Hone) -> None:
    ended = hone("train", rows, "--resume", tmp_path, "--max-steps", 3)
    assert ended.code == 2
    assert "--max-steps, DATA cannot be given together" in ended.err
    assert "config.yaml" in ended.err


def test_there_must_be_a_run_to_resume(tmp_path: Path, hone: Hone) -> None:
    ended = hone("run", "--resume", tmp_path / "nothing")
    assert ended.code == 2
    assert "run.json" in ended.err
