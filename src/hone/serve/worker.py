"""The process that trains: it claims one job after another, says that it lives, and heeds what is asked of it.

A worker is no part of the server: either may die, and the other goes on. What a worker must do at once, because its job
was cancelled, is to pause, or is another's, reaches it as SIGTERM does, sent by its own heartbeat.
"""

from __future__ import annotations

import os
import secrets
import signal
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

from hone.errors import InterruptedRunError, StorageError
from hone.registry.leases import Lease, claim_job, release_job, renew_lease

__all__ = ["LEASE_SECONDS", "Heartbeat", "Train", "work"]

LEASE_SECONDS = 30.0
_BEATS_PER_LEASE = 5
_LONGEST_BEAT_SECONDS = 2.0

Train = Callable[[Lease, "Heartbeat"], None]
"""Does a job and finishes it in the registry; InterruptedRunError and KeyboardInterrupt give it back."""


class Heartbeat:
    """While the block runs, the lease is renewed, and a request to stop becomes a SIGTERM to this process.

    Args:
        lease: of the job.
        stop: called once, in another thread, where the job is to be paused or is no longer this worker's.
    """

    def __init__(self, lease: Lease, stop: Callable[[], None] | None = None) -> None:
        self._lease = lease
        self._stop = stop or _terminate_this_process
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="lease", daemon=True)
        self.asked_to_stop = False
        """Whether the stop came from the registry, and not from whoever started the worker."""
        self.each_beat: Callable[[], None] = lambda: None
        """Called with each renewal, as for writing progress."""

    def __enter__(self) -> Heartbeat:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()

    def end(self) -> None:
        """Renew no more; to be called before the job is finished, which else would look like its loss."""
        self._over.set()
        self._thread.join()

    def _beat(self) -> None:
        seconds = min(_LONGEST_BEAT_SECONDS, self._lease.seconds / _BEATS_PER_LEASE)
        while not self._over.wait(seconds):
            try:
                state = renew_lease(self._lease)
                if state == "held":
                    self.each_beat()
            except StorageError:
                continue  # locked or full: the lease lasts for some beats more, and then another worker may take over
            if state != "held" and not self.asked_to_stop:
                self.asked_to_stop = True
                self._stop()


def work(
    home: Path,
    train: Train,
    *,
    most_running: int = 1,
    most_jobs: int | None = None,
    lease_seconds: float = LEASE_SECONDS,
) -> int:
    """Do jobs until none waits.

    Args:
        home: the home folder.
        train: does one.
        most_running: jobs that may run at once, over all workers of this home.
        most_jobs: after which this worker ends; None for no limit.
        lease_seconds: after which a silent worker counts as lost.

    Returns:
        How many jobs were worked on.

    Raises:
        InterruptedRunError, KeyboardInterrupt: this process was told to stop; its job was given back.
        StorageError: the registry cannot be used.
    """
    owner = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"
    done = 0
    while most_jobs is None or done < most_jobs:
        lease = claim_job(home, owner, seconds=lease_seconds, most_running=most_running)
        if lease is None:
            break
        done += 1
        beat = Heartbeat(lease)
        try:
            with beat:
                train(lease, beat)
        except (InterruptedRunError, KeyboardInterrupt):
            release_job(lease, reason="The job's worker was stopped; the job waits for another")
            if not beat.asked_to_stop:
                raise
    return done


def _terminate_this_process() -> None:
    os.kill(os.getpid(), signal.SIGTERM)
