"""One base in memory with a thread of its own, which lets its batcher take step after step while there is work."""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from hone.errors import HoneError
from hone.model.adapter_weights import AdapterWeights
from hone.model.batcher import Batcher
from hone.model.load import LoadedModel
from hone.model.rows import BatcherLimits, RowRequest, RowToken

__all__ = ["AdapterSource", "Engine", "EngineFigures", "Job"]

# What a step can fail with, besides our own errors: torch's, out of memory included.
_STEP_ERRORS = (RuntimeError, MemoryError)

_GONE = HoneError("the model has left memory, or the server is stopping", remedy="ask again a little later")


@dataclass(frozen=True, slots=True)
class AdapterSource:
    """An adapter that a job needs.

    Args:
        name: of its own, for ever: ``support@3``.
        read: gives its weights; called where it is not in memory.
    """

    name: str
    read: Callable[[], AdapterWeights]


@dataclass(eq=False, slots=True)
class Job:
    """Rows that were asked for together.

    Args:
        rows: one for each answer; their adapter is that of ``adapter``.
        adapter: None for the base.
        deliver: called from the engine's thread with (position of the row, what happened), or with an error, after
            which nothing comes any more. Must not block.
    """

    rows: Sequence[RowRequest]
    adapter: AdapterSource | None
    deliver: Callable[[list[tuple[int, RowToken]] | HoneError], None]
    tickets: dict[int, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class EngineFigures:
    """What an engine does now and has done.

    Args:
        rows: being answered.
        waiting: rows that wait for a place.
        adapters: in memory.
        steps: forward passes so far.
        written_tokens: tokens of answers so far.
    """

    rows: int
    waiting: int
    adapters: int
    steps: int
    written_tokens: int


class Engine:
    """A batcher and its thread. Every method may be called from any thread.

    Args:
        base: its model is the engine's from now on.
        limits: of rows and adapters.
        adapters: see :class:`hone.model.batcher.Batcher`.

    Raises:
        ModelError: the model cannot be served.
    """

    def __init__(self, base: LoadedModel, *, limits: BatcherLimits, adapters: bool) -> None:
        self.base = base
        self.batcher = Batcher(base.model, context_length=base.context_length, limits=limits, adapters=adapters)
        self._inbox: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._pending: deque[Job] = deque()
        self._tickets: dict[int, tuple[Job, int]] = {}
        self._written = 0
        self._stopping = False
        self._ended = False
        self._lock = threading.RLock()
        self._thread = threading.Thread(target=self._run, name=f"hone-engine-{base.name}", daemon=True)
        self._thread.start()

    @property
    def figures(self) -> EngineFigures:
        """What it does now; read without a lock, so that sums may be a step apart."""
        batcher = self.batcher
        waiting = batcher.num_waiting + sum(len(job.rows) for job in list(self._pending))
        adapters = 0 if batcher.adapters is None else len(batcher.adapters)
        return EngineFigures(batcher.num_rows, waiting, adapters, batcher.steps, self._written)

    @property
    def alive(self) -> bool:
        """Whether it still answers."""
        return not self._stopping

    def submit(self, job: Job) -> None:
        """Answer a job; errors come through its ``deliver`` too."""
        self._post(lambda: self._pending.append(job))

    def cancel(self, job: Job) -> None:
        """Forget a job; one that has ended is no fault. Nothing is delivered afterwards but what is on its way."""
        self._post(lambda: self._forget(job))

    def cancel_row(self, job: Job, place: int) -> None:
        """Forget one row of a job."""
        self._post(lambda: self._forget_row(job, place))

    def call(self, function: Callable[[Batcher], Any]) -> Future[Any]:
        """Run something between two steps.

        Args:
            function: is given the batcher.
        """
        future: Future[Any] = Future()

        def run() -> None:
            try:
                future.set_result(function(self.batcher))
            except (HoneError, *_STEP_ERRORS) as error:
                future.set_exception(error)

        self._post(run)
        return future

    def stop(self) -> None:
        """End the thread after the present step; jobs that are left are told."""

        def stop() -> None:
            self._stopping = True

        self._post(stop)
        self._thread.join()

    def _post(self, message: Callable[[], None]) -> None:
        with self._lock:
            self._inbox.put(message)
            if not self._ended:
                return
        self._end(_GONE)

    def _end(self, failure: HoneError) -> None:
        """Tell all that is left, and whatever comes later."""
        with self._lock:
            self._ended = self._stopping = True
            while not self._inbox.empty():
                self._inbox.get()()
            self._fail_all(failure)

    def _run(self) -> None:
        failure = _GONE
        try:
            while True:
                self._take_messages()
                if self._stopping:
                    return
                self._begin_jobs()
                if not self.batcher.idle:
                    self._step()
        except BaseException:
            failure = HoneError("the model's thread has failed", remedy="see the server's log, and start it again")
            raise
        finally:
            self._end(failure)

    def _take_messages(self) -> None:
        wait = self.batcher.idle and not self._pending
        while True:
            try:
                message = self._inbox.get(block=wait)
            except queue.Empty:
                return
            message()
            wait = False

    def _begin_jobs(self) -> None:
        """Hand jobs to the batcher, in order; one whose adapter has no room yet waits, and those behind it."""
        while self._pending:
            job = self._pending[0]
            try:
                if not self._has_adapter(job):
                    return
                for place, row in enumerate(job.rows):
                    ticket = self.batcher.submit(row)
                    job.tickets[place] = ticket
                    self._tickets[ticket] = (job, place)
            except (HoneError, *_STEP_ERRORS) as error:
                self._forget(job)
                job.deliver(_told(error))
            else:
                self._pending.popleft()

    def _has_adapter(self, job: Job) -> bool:
        source = job.adapter
        if source is None or self.batcher.has_adapter(source.name):
            return True
        return self.batcher.add_adapter(source.name, source.read())

    def _step(self) -> None:
        try:
            events = self.batcher.step()
        except (HoneError, *_STEP_ERRORS) as error:
            self._fail_all(_told(error))
            return
        told: dict[Job, list[tuple[int, RowToken]]] = {}
        for event in events:
            job, place = self._tickets[event.ticket]
            told.setdefault(job, []).append((place, event))
            self._written += event.token is not None
            if event.finish is not None:
                del self._tickets[event.ticket]
        for job, tokens in told.items():
            job.deliver(tokens)

    def _forget(self, job: Job) -> None:
        if job in self._pending:
            self._pending.remove(job)
        for place in list(job.tickets):
            self._forget_row(job, place)

    def _forget_row(self, job: Job, place: int) -> None:
        ticket = job.tickets.get(place)
        if ticket is not None and self._tickets.pop(ticket, None) is not None:
            self.batcher.cancel(ticket)

    def _fail_all(self, failure: HoneError) -> None:
        jobs = {job: None for job, _ in self._tickets.values()} | dict.fromkeys(self._pending)
        for job in jobs:
            self._forget(job)
            job.deliver(failure)


def _told(error: BaseException) -> HoneError:
    if isinstance(error, HoneError):
        return error
    said = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return HoneError(f"the model could not answer: {said}", remedy="ask for fewer or shorter answers at a time")
