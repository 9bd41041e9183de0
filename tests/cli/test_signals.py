"""Ctrl-C and SIGTERM: during training a request, everywhere else the end."""

from __future__ import annotations

import os
import signal

import pytest

from hone.cli.signals import StopRequest, stops_after_step, terminates_as_ctrl_c
from hone.engine.events import Event


def _stage(name: str) -> Event:
    return Event("stage", {"name": name, "detail": ""})


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_during_training_the_first_signal_asks_and_the_second_stops(
    number: int, capfd: pytest.CaptureFixture[str]
) -> None:
    with stops_after_step() as request:
        request.record(_stage("training"))
        assert not request()
        os.kill(os.getpid(), number)
        assert request()
        assert "Stopping after this step" in capfd.readouterr().err
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), number)


@pytest.mark.parametrize("stage", ["model", "data", "proof", "evaluation"])
def test_outside_of_training_it_stops_at_once(stage: str) -> None:
    with stops_after_step() as request:
        request.record(_stage("training"))
        request.record(_stage(stage))
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_a_request_that_the_loop_could_not_heed_stops_before_the_next_stage() -> None:
    request = StopRequest()
    request.record(_stage("training"))
    request.on_signal(signal.SIGINT, None)
    with pytest.raises(KeyboardInterrupt):
        request.record(_stage("evaluation"))


def test_afterwards_the_handlers_are_as_they_were() -> None:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with stops_after_step():
        assert signal.getsignal(signal.SIGINT) != before[0]
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_sigterm_is_as_ctrl_c_and_says_its_name() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt, match="SIGTERM"), terminates_as_ctrl_c():
        os.kill(os.getpid(), signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) == before
