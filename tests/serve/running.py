"""A server in a process of its own, as a user starts it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path


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
