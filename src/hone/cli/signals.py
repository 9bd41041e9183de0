"""Ctrl-C and SIGTERM: training stops after its step and can be resumed; everything else stops at once."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from hone.engine.events import Event

__all__ = ["StopRequest", "stops_after_step", "terminates_as_ctrl_c"]

_ASKED = b"\nStopping after this step, to save its state; again to stop at once.\n"


class StopRequest:
    """Whether the user has asked to stop; the training loop calls it after each step.

    It is a Recorder as well, for the stages of a run say whether the loop is at work and will ask.
    """

    def __init__(self) -> None:
        self._asked = False
        self._asked_by = ""
        self._in_training = False

    def __call__(self) -> bool:
        """Whether to stop after this step."""
        return self._asked

    def record(self, event: Event) -> None:
        """Follow the stages; a request that came too late for the loop stops the run here.

        Raises:
            KeyboardInterrupt: training ended before it could heed the request.
        """
        if event.kind != "stage":
            return
        self._in_training = event.data.get("name") == "training"
        if self._asked and not self._in_training:
            raise KeyboardInterrupt(self._asked_by)

    def on_signal(self, number: int, _frame: FrameType | None) -> None:
        """The signal's handler.

        Raises:
            KeyboardInterrupt: nobody will ask, or this is the second time.
        """
        by = "Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name
        if self._asked or not self._in_training:
            raise KeyboardInterrupt(by)
        self._asked, self._asked_by = True, by
        # a handler may run in the middle of a print, which must not be entered twice: hence no print here
        os.write(sys.__stderr__.fileno() if sys.__stderr__ else 2, _ASKED)


@contextmanager
def stops_after_step() -> Iterator[StopRequest]:
    """Inside the block, SIGINT and SIGTERM are requests to the training loop; afterwards all is as it was."""
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():  # Python gives signals to the main thread alone
        yield request
        return
    before = {number: signal.signal(number, request.on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def terminates_as_ctrl_c() -> Iterator[None]:
    """Inside the block, SIGTERM raises KeyboardInterrupt as Ctrl-C does, so that a command ends with a message."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, _raise_keyboard_interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _raise_keyboard_interrupt(number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt(signal.Signals(number).name)
