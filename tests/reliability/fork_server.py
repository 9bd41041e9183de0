"""Runs command lines of hone in forked children, so that torch and transformers are imported once for hundreds of runs.

    python -m tests.reliability.fork_server        one JSON job a line in, one JSON answer a line out

A child is the real command, ``hone.cli.app.main``, with a trip wire in it: at one counted event (a file call in the
run's folder, a call of a module, an optimizer step) or after some time it gets a real signal, or its disk is full.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import signal
import subprocess
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[2]
SIGNALS = {"kill before": signal.SIGKILL, "kill within": signal.SIGKILL, "kill after": signal.SIGKILL,
           "SIGTERM": signal.SIGTERM, "SIGINT": signal.SIGINT}  # fmt: skip
POLL_SECONDS = 0.002
# Polls, not seconds of a clock: a machine that pauses everything for a while has not hung.
GIVE_UP_POLLS = 150_000
_IMPORTED_ONCE = (
    "hone.cli.app", "hone.recipe.run", "transformers.models.auto.modeling_auto",
    "transformers.models.llama.modeling_llama",
)  # fmt: skip


@dataclass(frozen=True)
class Trip:
    """When something happens to a run, and what.

    Args:
        event: ``file``, ``module``, ``optimizer`` (the ``at``-th of the attempt) or ``clock`` (``at`` seconds).
        at: which event, from 1; or the seconds.
        action: a key of ``SIGNALS``, or (of ``file`` alone) a fault of ``file_calls``.
    """

    event: str
    at: float
    action: str


@dataclass(frozen=True)
class Ended:
    """How an attempt ended.

    Args:
        code: the exit code; minus the signal's number where one ended it.
        tripped: where, in words; empty where it was not.
        counts: events of an attempt that came to its end.
        seconds: how long it took.
        output: what it printed.
    """

    code: int
    tripped: str = ""
    counts: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0
    output: str = ""


class ForkServer:
    """The server's process, from the side that gives it jobs; a context manager."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.reliability.fork_server"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            cwd=REPOSITORY, env={**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"},
        )  # fmt: skip

    def run(self, arguments: list[str], *, watched: Path, home: Path, trip: Trip | None = None) -> Ended:
        """Run ``hone`` with ``arguments``, and wait for its end.

        Args:
            arguments: the words after ``hone``.
            watched: the folder whose file calls are counted.
            home: ``$HONE_HOME``.
            trip: what happens to it, and when.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        job = {"arguments": arguments, "watched": str(watched), "home": str(home), "trip": trip and asdict(trip)}
        self._process.stdin.write(json.dumps(job, ensure_ascii=False).encode() + b"\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            raise RuntimeError("the fork server has died; see its standard error")
        return Ended(**json.loads(answer))

    def __enter__(self) -> ForkServer:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


# --- the server -------------------------------------------------------------------------------------------------------


def serve() -> None:
    """Read jobs and answer them until the input ends."""
    import torch

    for name in _IMPORTED_ONCE:
        importlib.import_module(name)
    torch.set_num_threads(1)
    # The tiny model's loss cannot rise by a fifth. With none tolerated, one scenario keeps weights of an earlier step.
    method = sys.modules["hone.recipe.method"]
    assert method.TOLERATED_LOSS_RISE > 0, "what is set must be there"
    method.TOLERATED_LOSS_RISE = 0.0  # type: ignore[attr-defined]
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what libraries print is no answer
    for line in sys.stdin.buffer:
        answers.write(json.dumps(_attempt(json.loads(line)), ensure_ascii=False).encode() + b"\n")
        answers.flush()


def _attempt(job: dict[str, Any]) -> dict[str, Any]:
    trip = Trip(**job["trip"]) if job["trip"] else None
    reports, report = os.pipe()
    printed = Path(f"{job['watched']}.printed")
    printed.write_bytes(b"")  # a child may be killed before it comes to print
    began = time.monotonic()
    child = os.fork()
    if child == 0:
        os.close(reports)
        _become_the_command(job, trip, report, printed)
    os.close(report)
    code, at_time = _wait(child, began, trip)
    with os.fdopen(reports, "rb") as stream:
        said = stream.read().decode()
    told: dict[str, Any] = {}
    for line in said.splitlines():
        told |= json.loads(line)
    output = printed.read_text(encoding="utf-8", errors="replace")
    printed.unlink()
    answer = Ended(code, told.get("tripped", at_time), told.get("counts", {}), time.monotonic() - began, output)
    return asdict(answer)


def _wait(child: int, began: float, trip: Trip | None) -> tuple[int, str]:
    """The child's exit code, and whether the clock tripped it."""
    at_time, polls = "", 0
    while True:
        polls += 1
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status), at_time
        seconds = time.monotonic() - began
        if trip and trip.event == "clock" and seconds >= trip.at and not at_time:
            at_time = f"clock {seconds:.2f} s"
            os.kill(child, SIGNALS[trip.action])
        if polls == GIVE_UP_POLLS:
            os.kill(child, signal.SIGKILL)
        time.sleep(POLL_SECONDS)


def _become_the_command(job: dict[str, Any], trip: Trip | None, report: int, printed: Path) -> None:
    """In the child: never returns."""
    code = 70
    try:
        descriptor = os.open(printed, os.O_CREAT | os.O_TRUNC | os.O_WRONLY)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        os.environ["HONE_HOME"] = job["home"]
        signal.signal(signal.SIGINT, signal.default_int_handler)
        from hone.cli.app import main

        counts: Counter[str] = Counter()
        with _wire(Path(job["watched"]), trip, counts, report):
            try:
                code = main(job["arguments"])
            except SystemExit as ended:
                code = int(str(ended.code))
        os.write(report, json.dumps({"counts": counts}).encode() + b"\n")
        sys.stdout.flush()
        sys.stderr.flush()
    except BaseException:  # nothing may reach the server's loop, whose copy this process is
        os.write(2, traceback.format_exc().encode())
        raise
    finally:
        os._exit(code)


@contextmanager
def _wire(watched: Path, trip: Trip | None, counts: Counter[str], report: int) -> Iterator[None]:
    """Count the events of this process, and trip at one."""
    from torch.nn.modules.module import register_module_forward_pre_hook
    from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

    from tests.reliability.file_calls import FAULTS, Fault, FileCalls

    def told(where: str) -> None:
        os.write(report, json.dumps({"tripped": where}).encode() + b"\n")

    def count(event: str) -> Callable[..., None]:
        def happen(*_: object) -> None:
            counts[event] += 1
            if trip and trip.event == event and counts[event] == trip.at:
                told(f"{event} {counts[event]}")
                os.kill(os.getpid(), SIGNALS[trip.action])

        return happen

    on_file = trip if trip and trip.event == "file" else None
    fault = None
    if on_file and on_file.action in FAULTS:
        fault = Fault(on_file.action, int(on_file.at))  # type: ignore[arg-type]

    def die(call: object) -> None:
        told(f"file {call}")
        os.kill(os.getpid(), signal.SIGKILL)

    def made(call: Any) -> None:
        if on_file and fault is None and call.number == on_file.at:
            told(f"file {call}")
            os.kill(os.getpid(), SIGNALS[on_file.action])

    hooks = [
        register_module_forward_pre_hook(count("module")),
        register_optimizer_step_pre_hook(count("optimizer")),
        register_optimizer_step_post_hook(count("optimizer")),
    ]
    with FileCalls([watched], fault=fault, die=die, observe=made) as calls:
        yield
    counts["file"] = len(calls.calls)
    if fault and fault.at <= len(calls.calls):
        told(f"file {calls.calls[fault.at - 1]}")
    for hook in hooks:
        hook.remove()


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__).parse_args()
    serve()
