"""``--devices``: what is refused, what each process is told, and that several give what one gives."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import typer.main
from safetensors.torch import load_file

from hone.cli import launch as launcher
from hone.cli.app import app
from hone.cli.launch import LOST_PROCESS_CODE, command_line, launch
from hone.errors import InterruptedRunError, TrainingError
from hone.model.machine import usable_cores
from tests.cli.conftest import Ended, Hone

WEIGHTS = "adapter/adapter_model.safetensors"
two_cores = pytest.mark.skipif(usable_cores() < 2, reason="a process needs a core of its own")


# --- what is refused ---


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--devices", 100_000, "--device", "cpu"], "100000 are wanted, and there are"),
        (["--devices", 0], "--devices 0: must be at least 1"),
        (["--shard", "perhaps"], "--shard perhaps: must be 'auto', 'on' or 'off'"),
        (["--shard", "on", "--device", "cpu"], "a base cannot be split over one device"),
    ],
)
def test_devices_that_are_not_there_are_refused(
    options: list[object], said: str, tiny_base: Path, rows: Path, tmp_path: Path, hone: Hone
) -> None:
    ended = hone("train", rows, "--model", tiny_base, "--output", tmp_path / "mine", *options)
    assert ended.code == 2
    assert said in ended.err
    assert "What to do: " in ended.err


def test_a_file_may_say_on_and_off_without_quotes(tiny_base: Path, rows: Path, tmp_path: Path, hone: Hone) -> None:
    options = tmp_path / "options.yaml"
    options.write_text("shard: off\nmax_steps: 1\ndevice: cpu\n", encoding="utf-8")
    ended = hone("train", rows, "--model", tiny_base, "--config", options, "--output", tmp_path / "mine")
    assert ended.code == 0, ended.err
    assert "shard: 'off'" in (tmp_path / "mine" / "config.yaml").read_text(encoding="utf-8")


# --- what each process is told ---


def test_the_words_mean_what_was_given() -> None:
    given = {
        "data": "-x.jsonl",
        "max_steps": "3",
        "early_stop": False,
        "reference_path": True,
        "map": "a=b",
        "seed": None,
    }
    words = command_line("train", given, config_file=Path("c.yaml"), resume=None, as_json=True)
    train = typer.main.get_command(app).commands["train"]  # type: ignore[attr-defined]
    read = train.make_context("train", words[1:]).params
    assert words[0] == "train"
    found = {name: value for name, value in read.items() if value not in (None, False) or name == "early_stop"}
    assert found == {
        **{k: v for k, v in given.items() if v is not None},
        "config_file": Path("c.yaml"),
        "as_json": True,
    }


def _processes_that(*programs: str) -> Callable[..., subprocess.Popen[bytes]]:
    def start(_words: Any, rank: int, _count: int, kept: Any, *, port: int) -> subprocess.Popen[bytes]:
        assert port > 0
        return subprocess.Popen([sys.executable, "-c", programs[rank]], stdin=subprocess.PIPE, stderr=kept)

    return start


LOST = f"raise SystemExit({LOST_PROCESS_CODE})"
FAILS = "import sys; print('Error: no such row', file=sys.stderr); raise SystemExit(2)"


def test_the_message_of_the_process_that_failed_is_shown(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(launcher, "_start", _processes_that(LOST, FAILS, LOST))
    assert launch([], processes=3) == 2
    assert capsys.readouterr().err == "Error: no such row\n"
    monkeypatch.setattr(launcher, "_start", _processes_that("raise SystemExit(3)", "pass"))
    assert launch([], processes=2) == 3


def test_a_process_that_was_killed_is_named_and_the_others_are_ended(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(launcher, "_GRACE_SECONDS", 0.2)
    monkeypatch.setattr(launcher, "_LAST_GRACE_SECONDS", 0.2)
    ready = tmp_path / "ready"
    deaf = "import pathlib, signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); "
    deaf += f"pathlib.Path({str(ready)!r}).touch(); time.sleep(600)"
    waits = f"import pathlib, time\nwhile not pathlib.Path({str(ready)!r}).exists(): time.sleep(0.01)\n{LOST}"
    killed = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
    monkeypatch.setattr(launcher, "_start", _processes_that(LOST, killed))
    with pytest.raises(TrainingError, match="process 1 of 2 was ended by SIGKILL") as caught:
        launch([], processes=2)
    assert "memory" in str(caught.value.why)
    monkeypatch.setattr(launcher, "_start", _processes_that(deaf, waits))
    with pytest.raises(TrainingError, match="process 0 of 2 was ended by SIGKILL"):
        launch([], processes=2)


def test_a_signal_before_any_process_heeds_it_is_a_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    parent = f"import os, signal, time; os.kill({os.getpid()}, signal.SIGTERM); time.sleep(600)"
    monkeypatch.setattr(launcher, "_start", _processes_that(parent, "import time; time.sleep(600)"))
    with pytest.raises(InterruptedRunError):
        launch([], processes=2)
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


# --- several give what one gives ---


def _options(base: Path, rows: Path) -> list[object]:
    return [
        "train", rows, "--model", base, "--max-steps", 8, "--device", "cpu", "--dtype", "float32", "--json",
        "--no-early-stop", "--batch-size", 5, "--epochs", 3,
    ]  # fmt: skip


def _in_processes(arguments: list[object], *, stop_at: str | None = None) -> Ended:
    """Run the command as a user does; Ctrl-C comes to it alone when the line with ``stop_at`` is printed."""
    process = subprocess.Popen(
        [sys.executable, "-m", "hone", *map(str, arguments)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        encoding="utf-8", env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )  # fmt: skip
    seen = []
    if stop_at is not None:
        assert process.stderr is not None
        for line in process.stderr:
            seen.append(line)
            if stop_at in line:
                process.send_signal(signal.SIGINT)
                break
    out, err = process.communicate(timeout=600)
    return Ended(process.returncode, out, "".join(seen) + err)


def _assert_same_adapter(one: Path, two: Path) -> None:
    expected, found = load_file(one / WEIGHTS), load_file(two / WEIGHTS)
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, atol=1e-5, rtol=0, msg=lambda text, n=name: f"{n}: {text}")


@pytest.fixture
def alone(tiny_base: Path, rows: Path, tmp_path: Path, hone: Hone) -> Path:
    """The folder of a run of one process."""
    ended = hone(*_options(tiny_base, rows), "--output", tmp_path / "alone")
    assert ended.code == 0, ended.err
    assert (ended.json["training"]["devices"], ended.json["training"]["sharded"]) == (1, False)
    return tmp_path / "alone"


@pytest.mark.slow
@two_cores
def test_a_split_base_trains_the_same_adapter(tiny_base: Path, rows: Path, tmp_path: Path, hone: Hone) -> None:
    # a base that is split cannot answer general prompts
    options, alone, folder = [*_options(tiny_base, rows), "--general-rows", 0], tmp_path / "alone", tmp_path / "split"
    assert hone(*options, "--output", alone).code == 0
    ended = _in_processes([*options, "--output", folder, "--devices", 2, "--shard", "on"])
    assert ended.code == 0, ended.err
    result = json.loads(ended.out)
    assert (result["training"]["devices"], result["training"]["sharded"]) == (2, True)
    assert ended.err.count("step 8/8") == 1, "one process speaks"
    assert all(one["holds"] for one in result["proof"])
    # what several devices need is not predicted
    assert {path.name for path in folder.iterdir()} == {path.name for path in alone.iterdir()} - {"plan.json"}
    _assert_same_adapter(alone, folder)


@pytest.mark.slow
@two_cores
@pytest.mark.skipif(sys.platform == "win32", reason="signals are POSIX's")
def test_ctrl_c_stops_all_and_one_device_goes_on(
    tiny_base: Path, rows: Path, tmp_path: Path, alone: Path, hone: Hone
) -> None:
    folder = tmp_path / "stopped"
    stopped = _in_processes([*_options(tiny_base, rows), "--output", folder, "--devices", 2], stop_at="step 1/")
    assert stopped.code == 130, stopped.err
    assert stopped.err.count("Stopping after this step") == 1
    assert "Traceback" not in stopped.err
    assert json.loads((folder / "run.json").read_text(encoding="utf-8"))["status"] == "interrupted"
    steps = len((folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines())
    assert 0 < steps < 8
    resumed = hone("train", "--resume", folder, "--devices", 1, "--json")
    assert resumed.code == 0, resumed.err
    assert resumed.json["training"]["steps"] == 8
    _assert_same_adapter(alone, folder)
