"""Runs that are killed, stopped or robbed of their disk at seeded instants leave the bytes of one that never was.

Hundreds more on demand: docs/reliability.md.
"""

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import Iterator

import pytest

from tests.reliability.fork_server import ForkServer, Trip
from tests.reliability.kill_points import SCENARIOS, Workplace, differences, draw_trips

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")

# Half of the kills fall on a file call, where most can go wrong; the clock spreads over loading and computing too.
EVENTS = ("file", "clock", "file", "module", "file", "optimizer")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workplace]:
    with ForkServer() as server:
        yield Workplace(tmp_path_factory.mktemp("place"), server)


def scenario_of(number: int) -> str:
    return tuple(SCENARIOS)[number // len(EVENTS) % len(SCENARIOS)]


@pytest.mark.parametrize("number", range(25))
def test_a_killed_run_is_the_run_that_was_never_killed(place: Workplace, number: int) -> None:
    scenario = scenario_of(number)
    draw = random.Random(number)
    trips = draw_trips(draw, place.uninterrupted(scenario), event=EVENTS[number % len(EVENTS)])
    trial = place.try_run(trips, scenario=scenario, name=f"killed {number}")
    assert trial.problems == [], trial
    assert trial.attempts[-1].code == 0


@pytest.mark.parametrize("number", range(10))
def test_a_run_that_was_asked_to_stop_says_how_to_go_on_and_goes_on(place: Workplace, number: int) -> None:
    draw = random.Random(100 + number)
    whole = place.uninterrupted(scenario_of(number))
    event = ("module", "file", "optimizer")[number % 3]
    trip = Trip(event, draw.randint(1, whole.counts[event]), ("SIGTERM", "SIGINT")[number % 2])
    trial = place.try_run([trip], scenario=scenario_of(number), name=f"stopped {number}")
    assert trial.problems == [], trial


@pytest.mark.parametrize("action", ["SIGTERM", "SIGINT"])
def test_a_stop_in_training_saves_the_step_it_was_in(place: Workplace, action: str) -> None:
    """Steps 1 to 7 are done, the seventh after the signal; nothing is computed twice."""
    output = place.folder / action
    command = place.begin(output, "each epoch")
    ended = place.server.run(command, watched=output, home=place.home, trip=Trip("optimizer", 13, action))
    assert ended.code == 130
    assert "Stopping after this step" in ended.output
    assert f"go on with `hone train --resume {output}`" in " ".join(ended.output.split()).replace("/ ", "/")
    assert (output / "checkpoints" / "step-000007").is_dir()
    resumed = place.server.run(["train", "--resume", str(output)], watched=output, home=place.home)
    assert resumed.code == 0
    assert resumed.counts["optimizer"] == 2 * (15 - 7)
    assert differences(place.uninterrupted("each epoch").folder, output) == []


@pytest.mark.parametrize("number", range(10))
def test_a_disk_that_fills_up_or_fails_stops_the_run_which_can_go_on(place: Workplace, number: int) -> None:
    draw = random.Random(200 + number)
    whole = place.uninterrupted(scenario_of(number))
    action = ("disk full", "disk full", "input/output error", "no space")[number % 4]
    trip = Trip("file", draw.randint(40, whole.counts["file"]), action)
    trial = place.try_run([trip], scenario=scenario_of(number), name=f"full {number}")
    assert trial.problems == [], trial


def test_writes_that_take_a_part_are_gone_on_with(place: Workplace) -> None:
    whole = place.uninterrupted("each epoch")
    for at in random.Random(300).sample(range(1, whole.counts["file"]), 3):
        trial = place.try_run([Trip("file", at, "short")], name="short")
        assert [attempt.code for attempt in trial.attempts] == [0]
        assert trial.problems == [], trial


def test_the_run_that_stops_early_keeps_weights_of_an_earlier_step(place: Workplace) -> None:
    """Else its kills would not show whether the best weights outlive them."""
    result = json.loads((place.uninterrupted("stops early").folder / "result.json").read_text(encoding="utf-8"))
    training = result["training"]
    assert training["stopped_early"]
    assert 0 < training["best_step"] < training["steps"] - 5


def test_a_difference_would_be_seen(place: Workplace) -> None:
    """The comparison is no formality: one bit, one line or one left-over name is told."""
    whole = place.uninterrupted("each epoch").folder
    copy = place.folder / "copy"

    def told(name: str, change: object) -> list[str]:
        shutil.copytree(whole, copy)
        config = (copy / "config.yaml").read_bytes()
        (copy / "config.yaml").write_bytes(config.replace(bytes(whole), bytes(copy)))
        path = copy / name
        content = path.read_bytes() if path.exists() else b""
        path.write_bytes(change(content))  # type: ignore[operator]
        found = differences(whole, copy)
        shutil.rmtree(copy)
        return found

    def flip(content: bytes) -> bytes:
        return content[:-9] + bytes([content[-9] ^ 1]) + content[-8:]

    assert told("log.txt", lambda content: content + b"more\n") == []
    assert told("adapter/adapter_model.safetensors", flip) == ["adapter/adapter_model.safetensors differs"]
    assert told("metrics.jsonl", lambda content: content + content.splitlines(True)[-1]) == ["metrics.jsonl differs"]
    assert told("checkpoints/step-000015/optimizer.safetensors", flip) == ["step-000015/optimizer.safetensors differs"]
    assert told("timings.jsonl", lambda content: content + content.splitlines(True)[0])[0].startswith("timings")
    assert told("checkpoints/.step-000015.0123456789ab.tmp", lambda _: b"")[0].startswith("left behind")
    assert told("run.json", lambda content: content.replace(b'"done"', b'"running"')) == ["its state is running"]
