"""Several processes for one job: started, signalled and waited for here; what ``torchrun`` does on one machine.

Each process runs the same command line, with the variables that ``torchrun`` sets. The first one has the terminal; what
the others print is kept, and shown where one of them is the cause of a failure.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any

from hone.errors import ConfigError, InterruptedRunError, TrainingError

__all__ = ["LOST_PROCESS_CODE", "check_devices", "command_line", "follow_launcher", "launch", "was_launched"]

LOST_PROCESS_CODE = 75
"""Exit code of a process that stopped because another did: it is not the cause."""

_LAUNCHED = "HONE_LAUNCHED"
# Time for the others to end by themselves after one has failed, and then after SIGTERM.
_GRACE_SECONDS = 20.0
_LAST_GRACE_SECONDS = 10.0
_POLL_SECONDS = 0.1


def check_devices(devices: int, device: str | None) -> None:
    """Refuse more processes than this machine has devices for.

    Args:
        devices: processes wanted, at least 2.
        device: as given; the machine's best where None.

    Raises:
        ConfigError: there are fewer GPUs, or fewer processor cores, or the device is a single one.
    """
    import torch

    from hone.model.device import check_device
    from hone.model.machine import usable_cores

    chosen = check_device(device)
    kind = torch.device(chosen).type
    if kind == "mps" or chosen not in ("cpu", "cuda"):
        raise ConfigError(
            f"{chosen} is one device, and --devices asks for {devices}",
            where="--devices",
            remedy="leave --devices out, or use --device cuda or --device cpu",
        )
    most = torch.cuda.device_count() if kind == "cuda" else usable_cores()
    if devices > most:
        what = "GPUs" if kind == "cuda" else "processor cores that this process may use"
        raise ConfigError(
            f"{devices} are wanted, and there are {most} {what}",
            where="--devices",
            why="processes that share one would wait for each other" if kind == "cpu" else None,
            remedy=f"use --devices {most} or fewer" if most > 1 else "leave --devices out",
        )


def command_line(
    command: str, given: Mapping[str, Any], *, config_file: Path | None, resume: Path | None, as_json: bool
) -> list[str]:
    """The words after ``hone`` that mean what was given.

    Args:
        command: ``run`` or ``train``.
        given: options by name, None where not given; ``data`` is the argument.
        config_file: of ``--config``.
        resume: of ``--resume``.
        as_json: whether ``--json`` was given.
    """
    words = [command]
    for name, value in given.items():
        option = name.replace("_", "-")
        if isinstance(value, bool):
            words.append(f"--{option}" if value else f"--no-{option}")
        elif value is not None and name != "data":
            words.append(f"--{option}={value}")
    words += [f"--config={config_file}"] if config_file else []
    words += [f"--resume={resume}"] if resume else []
    words += ["--json"] if as_json else []
    return [*words, "--", str(given["data"])] if given.get("data") is not None else words


def launch(arguments: Sequence[str], *, processes: int) -> int:
    """Run ``hone`` with ``arguments`` in several processes of this machine and wait for all.

    SIGINT and SIGTERM go to all of them. Where this process dies, they save and stop.

    Args:
        arguments: the words after ``hone``.
        processes: how many; each gets the rank that it computes as.

    Returns:
        The exit code of the process that decides: the first one, or another that failed by itself.

    Raises:
        TrainingError: a process was ended by a signal from outside.
        InterruptedRunError: they were stopped before they could heed a signal.
    """
    with ExitStack() as stack:
        kept = [stack.enter_context(tempfile.TemporaryFile()) for _ in range(processes)]
        port = _free_port()
        started = [_start(arguments, rank, processes, kept[rank], port=port) for rank in range(processes)]
        with _signals_passed_on(started) as passed_on:
            _wait(started)
        for process in started:
            if process.stdin is not None:
                process.stdin.close()
        codes = [process.returncode for process in started]
        causes = [rank for rank, code in enumerate(codes) if code not in (0, LOST_PROCESS_CODE)]
        cause = causes[0] if causes else 0
        if cause > 0:
            kept[cause].seek(0)
            sys.stderr.write(kept[cause].read().decode(errors="replace"))
    if codes[cause] < 0 and passed_on:
        raise InterruptedRunError("stopped before the training began", remedy="begin anew with the same command")
    if codes[cause] < 0 or (any(codes) and not causes):
        raise _ended_from_outside(cause, codes)
    return int(codes[cause])


def _ended_from_outside(rank: int, codes: Sequence[int]) -> TrainingError:
    by = signal.Signals(-codes[rank]).name if codes[rank] < 0 else ""
    return TrainingError(
        f"process {rank} of {len(codes)} {f'was ended by {by}' if by else 'lost the others'}",
        why="a system ends processes so that take more memory than there is" if by == "SIGKILL" else None,
        remedy="`--resume` goes on from the last checkpoint, with fewer --devices if memory was short",
    )


def _start(
    arguments: Sequence[str], rank: int, processes: int, kept: IO[bytes], *, port: int
) -> subprocess.Popen[bytes]:
    from hone.model.machine import usable_cores

    variables = {
        "RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": processes, "LOCAL_WORLD_SIZE": processes,
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, _LAUNCHED: 1,
    }  # fmt: skip
    defaults = {"OMP_NUM_THREADS": str(max(1, usable_cores() // processes)), **_loopback()}
    return subprocess.Popen(
        [sys.executable, "-m", "hone", *arguments],
        env={**defaults, **os.environ, **{name: str(value) for name, value in variables.items()}},
        stdin=subprocess.PIPE,  # never written to: its end tells that this process has died
        stdout=None if rank == 0 else kept,
        stderr=None if rank == 0 else kept,
        start_new_session=True,  # a terminal's Ctrl-C comes here alone, and is passed on once
    )


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def _loopback() -> dict[str, str]:
    """The interface for gloo, which else looks the host's name up; that hangs or fails on many a laptop."""
    names = [name for _, name in socket.if_nameindex() if name.startswith("lo")] if os.name == "posix" else []
    return {"GLOO_SOCKET_IFNAME": names[0]} if names else {}


def _wait(started: Sequence[subprocess.Popen[bytes]]) -> None:
    """Until all have ended; once one has failed, the others are given some time and then ended."""
    deadline: float | None = None
    asked = False
    while None in (codes := [process.poll() for process in started]):
        if deadline is None and any(codes):
            deadline = time.monotonic() + _GRACE_SECONDS
        if deadline is not None and time.monotonic() > deadline:
            for process in started:
                if process.poll() is None:
                    process.kill() if asked else process.terminate()
            asked, deadline = True, time.monotonic() + _LAST_GRACE_SECONDS
        time.sleep(_POLL_SECONDS)


@contextmanager
def _signals_passed_on(started: Sequence[subprocess.Popen[bytes]]) -> Iterator[list[int]]:
    passed_on: list[int] = []

    def pass_on(number: int, _frame: object) -> None:
        passed_on.append(number)
        for process in started:
            process.send_signal(number)

    if threading.current_thread() is not threading.main_thread():  # Python gives signals to the main thread alone
        yield passed_on
        return
    before = {number: signal.signal(number, pass_on) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield passed_on
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def was_launched() -> bool:
    """Whether :func:`launch` started this process."""
    return bool(os.environ.get(_LAUNCHED))


def follow_launcher() -> None:
    """Take the end of the process that launched this one for SIGTERM, so that nothing computes on unseen."""

    def wait() -> None:
        os.read(sys.stdin.fileno(), 1)
        signal.raise_signal(signal.SIGTERM)

    threading.Thread(target=wait, name="launcher", daemon=True).start()
