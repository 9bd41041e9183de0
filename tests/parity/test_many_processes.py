"""Several processes give what one gives: losses, norms and weights, replicated and sharded, stopped and gone on with.

Three gloo processes are started once and work through the cases of processes.py; the same runs in this process are
what they are compared with.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from hone.engine.checkpoint import checkpoint_folders, load_newest_checkpoint
from tests.conftest import REPOSITORY
from tests.parity.processes import CASES, MOST, Case, run_case
from tests.tiny import tiny_model

TIMEOUT_SECONDS = 600
ONE_STOPPED = Case(1, stop_after=4)


@dataclass(frozen=True)
class Done:
    """What the processes left."""

    folder: Path

    def result(self, name: str, rank: int = 0) -> dict[str, Any]:
        """What a process said of a case."""
        result: dict[str, Any] = json.loads((self.folder / f"{name}.{rank}.json").read_text(encoding="utf-8"))
        return result

    def weights(self, name: str, rank: int = 0) -> dict[str, Tensor]:
        """The weights that a process ended with."""
        return load_file(self.folder / f"{name}.{rank}.safetensors")


def _free_ports(count: int) -> Iterator[str]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
            yield str(one.getsockname()[1])


pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Done:
    """All cases, worked through."""
    folder = tmp_path_factory.mktemp("processes")
    run_case("one stopped", ONE_STOPPED, folder)
    ports = list(_free_ports(len(CASES)))
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.parity.processes", str(folder), *ports],
            cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            env={**os.environ, "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(MOST),
                 "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": ports[0]},
        )
        for rank in range(MOST)
    ]  # fmt: skip
    deadline = time.monotonic() + TIMEOUT_SECONDS
    while time.monotonic() < deadline:
        codes = [process.poll() for process in processes]
        if None not in codes or any(codes):
            break
        time.sleep(0.1)
    for process in processes:
        process.kill()
    said = [process.communicate()[0] for process in processes]
    assert codes == [0] * MOST, "\n".join(said)
    return Done(folder)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The same training by one process: its events and weights."""
    folder = tmp_path_factory.mktemp("alone")

    @cache
    def train_alone(family: str, full: bool) -> tuple[list[Any], dict[str, Tensor]]:
        name = f"{family} {full}"
        result = run_case(name, Case(1, family, full=full), folder)
        assert result["error"] is None
        return result["events"], load_file(folder / f"{name}.0.safetensors")

    return train_alone


def _assert_alike(found: list[Any], expected: list[Any]) -> None:
    """The same events: counts equal, figures to 1e-5 (gradient norms, of 20 and more, to 1e-6 of themselves)."""
    assert [kind for kind, _ in found] == [kind for kind, _ in expected]
    for (kind, data), (_, wanted) in zip(found, expected, strict=True):
        exact = {key: value for key, value in wanted.items() if not isinstance(value, float)}
        assert {key: data[key] for key in exact} == exact, kind
        close = {key: value for key, value in wanted.items() if isinstance(value, float)}
        assert {key: data[key] for key in close} == pytest.approx(close, abs=1e-5, rel=1e-6), (kind, data["step"])


def _assert_weights_alike(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, atol=2e-5, rtol=0, msg=lambda text, n=name: f"{n}: {text}")


WHOLE = [name for name, case in CASES.items() if not (case.stop_after or case.break_at or case.unwritable)][:-2]


@pytest.mark.parametrize("name", WHOLE)
def test_many_processes_give_what_one_gives(name: str, done: Done, alone: Any) -> None:
    case = CASES[name]
    events, weights = alone(case.family, case.full)
    result = done.result(name)
    assert result["error"] is None
    expected = [event for event in events if event[1]["step"] > 4] if case.resume else events
    assert len(expected) > 5
    _assert_alike(result["events"], expected)
    _assert_weights_alike(done.weights(name), weights)


@pytest.mark.parametrize("name", WHOLE)
def test_all_processes_hold_the_same_weights_to_the_bit_and_one_speaks(name: str, done: Done) -> None:
    first = done.weights(name)
    for rank in range(1, CASES[name].world_size):
        other = done.weights(name, rank)
        assert all(torch.equal(tensor, other[key]) for key, tensor in first.items())
        assert done.result(name, rank)["events"] == []


def test_tied_embeddings_are_one_tensor_that_moves(done: Done) -> None:
    found = done.weights("all sharded over two, tied")
    assert "lm_head.weight" not in found
    before = tiny_model("qwen2").get_input_embeddings().weight.detach()
    moved = (found["model.embed_tokens.weight"] - before).abs()
    # nine steps of a rate that is 1e-4 at most move no value further than that; those of rare tokens move as well
    assert 5e-5 < float(moved.max()) < 9e-4
    assert float((moved > 1e-6).float().mean()) > 0.9


@pytest.mark.parametrize("name", ["lora stopped", "all stopped"])
def test_a_stop_in_one_process_stops_all_after_the_same_step_with_one_checkpoint(name: str, done: Done) -> None:
    case = CASES[name]
    for rank in range(case.world_size):
        assert done.result(name, rank)["error"] == [
            "InterruptedRunError",
            "stopped after step 4 of 9; the state is saved",
        ]
    steps = [data["step"] for kind, data in done.result(name)["events"] if kind == "step"]
    assert steps == [1, 2, 3, 4]


def test_a_checkpoint_of_shards_holds_whole_tensors_and_one_process_goes_on(done: Done, alone: Any) -> None:
    events, weights = alone("qwen2", True)
    # the folder holds what three wrote until step 4 and two from there; the older one is taken
    checkpoints = done.folder / "all stopped" / "checkpoints"
    for newer in checkpoint_folders(checkpoints):
        if int(newer.name.removeprefix("step-")) > 4:
            newer.rename(newer.with_name(f"moved-{newer.name}"))
    found, damaged = load_newest_checkpoint(checkpoints)
    assert found is not None
    assert (found.progress.step, damaged) == (4, [])
    assert {name: tensor.shape for name, tensor in found.adapter.items()} == {
        name: tensor.shape for name, tensor in weights.items()
    }
    result = run_case("one goes on", replace(CASES["all gone on with by two"], world_size=1), done.folder)
    _assert_alike(result["events"], [event for event in events if event[1]["step"] > 4])
    _assert_weights_alike(done.weights("one goes on"), weights)


def test_a_loss_that_is_no_number_in_one_process_stops_all_before_the_update(done: Done) -> None:
    for rank in range(2):
        kind, what, rows = done.result("not a number", rank)["error"]
        assert (kind, what) == ("TrainingError", "the loss was nan and the gradient norm nan")
        assert rows.count(",") == 3, "the rows of the whole step are named"
    steps = [data["step"] for kind, data in done.result("not a number")["events"] if kind == "step"]
    assert steps == [1, 2, 3, 4]
    assert all(bool(torch.isfinite(tensor).all()) for tensor in done.weights("not a number", 1).values())


def test_a_checkpoint_that_cannot_be_written_stops_all(done: Done) -> None:
    assert done.result("unwritable")["error"][0] == "StorageError"
    assert done.result("unwritable", 1)["error"][0] == "LostProcessError"


def test_processes_with_different_files_are_refused(done: Done) -> None:
    for rank in range(2):
        kind, what, *details = done.result("different files", rank)["error"]
        assert (kind, what) == ("ConfigError", "the 2 processes do not work on the same thing")
        assert details == ["rows: 10 in process 0, 11 in process 1"]


def test_a_process_that_ends_is_noticed(done: Done) -> None:
    kind, what = done.result("lost")["error"]
    assert kind == "LostProcessError"
    assert what == "process 0 of 2 lost the connection to another"
    assert not (done.folder / "lost.1.json").exists()
