"""Starts workers while jobs wait. A worker outlives the server that started it, and any server may start the next."""

from __future__ import annotations

import os
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType

from hone.errors import StorageError
from hone.registry.leases import count_claimable
from hone.serve.validation import validate_waiting

__all__ = ["Supervisor"]

_LOG = "worker.log"
_VALIDATE_EVERY_SECONDS = 5.0


class Supervisor:
    """A thread that looks for jobs and starts workers; also a context manager.

    Args:
        home: the home folder.
        command: starts one worker, which ends when no job waits.
        most_running: jobs that may run at once.
        environment: of the workers.
        seconds: between looks.
    """

    def __init__(
        self,
        home: Path,
        command: Sequence[str],
        *,
        most_running: int,
        environment: Mapping[str, str] | None = None,
        seconds: float = 0.5,
    ) -> None:
        self._home = home
        self._command = list(command)
        self._most_running = most_running
        self._environment = {**os.environ, **(environment or {}), "HONE_HOME": str(home)}
        self._seconds = seconds
        self._workers: list[subprocess.Popen[bytes]] = []
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, name="supervisor", daemon=True)

    def __enter__(self) -> Supervisor:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()

    def _look(self) -> None:
        validated = 0.0
        while not self._over.is_set():
            try:
                if time.monotonic() - validated > _VALIDATE_EVERY_SECONDS:
                    validate_waiting(self._home)  # jobs of a server that died before it had
                    validated = time.monotonic()
                self._start_workers()
            except StorageError:
                pass  # locked, full or being restored: /readyz says so, and the next look may find it mended
            self._over.wait(self._seconds)

    def _start_workers(self) -> None:
        self._workers = [worker for worker in self._workers if worker.poll() is None]
        free = self._most_running - len(self._workers)
        for _ in range(min(free, count_claimable(self._home, most_running=self._most_running))):
            self._workers.append(self._start())

    def _start(self) -> subprocess.Popen[bytes]:
        folder = self._home / "logs"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            log = os.open(folder / _LOG, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        except OSError as error:
            raise StorageError(f"cannot be written: {error.strerror or error}", where=str(folder / _LOG)) from error
        try:
            # a session of its own: neither Ctrl-C in the server's terminal nor the server's end reaches it
            return subprocess.Popen(
                self._command, env=self._environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                start_new_session=True,
            )  # fmt: skip
        finally:
            os.close(log)
