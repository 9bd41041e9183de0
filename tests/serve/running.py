"""A server in a process of its own, as a user starts it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from hone.serve.answering import answering
from hone.serve.app import create_app
from hone.serve.inference import InferenceService
from hone.serve.metrics import Metrics
from hone.serve.server import GracefulServer, bind
from hone.serve.settings import ServerSettings


@dataclass(frozen=True)
class Running:
    """A server that listens: its address with ``/v1``, and its process."""

    address: str
    process: subprocess.Popen[str]


@contextmanager
def running(home: Path, *options: str) -> Iterator[Running]:
    """`hone serve` with these options, on any free port; it is ended by SIGTERM, and must end well."""
    command = [sys.executable, "-m", "hone", "serve", "--port", "0", *options]
    log = home / "server.log"
    with (
        log.open("w", encoding="utf-8") as written,
        subprocess.Popen(command, env={**os.environ, "HONE_HOME": str(home)}, stderr=written, text=True) as server,
    ):
        address = None
        while address is None:
            assert server.poll() is None, log.read_text(encoding="utf-8")
            try:
                server.wait(0.1)
            except subprocess.TimeoutExpired:
                found = re.search(r"Listening on (\S+)", log.read_text(encoding="utf-8"))
                address = found[1] if found else None
        try:
            yield Running(address, server)
        finally:
            server.terminate()
            assert server.wait() == 0, log.read_text(encoding="utf-8")


@contextmanager
def serving(home: Path, *options: str) -> Iterator[str]:
    """The address of :func:`running`."""
    with running(home, *options) as server:
        yield server.address


@contextmanager
def serving_in_float32(home: Path, base: Path) -> Iterator[str]:
    """The address of a server in a thread, with the base ``small`` in float32, whatever this machine would choose."""
    settings, metrics = ServerSettings(home=home, bases={"small": str(base)}), Metrics()
    service = InferenceService(home, device="cpu", dtype="float32")
    answers = answering(settings, service, metrics=metrics, lenient=False)
    server = GracefulServer(
        create_app(settings, answering=[answers.router], lifespan=answers.lifespan, metrics=metrics)
    )
    listening = bind("127.0.0.1", 0)
    thread = threading.Thread(target=server.serve_on, args=(listening,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}/v1"
    finally:
        server.should_exit = True
        thread.join()
