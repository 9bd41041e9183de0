"""An alias that moves while requests run: none is lost, and none is answered by a version that did not stand there.

    python -m tests.serve.switching --switches 1000 --clients 8      as docs/serving.md reports it

A tiny base in float32 with two versions that answer differently; the whole application behind a real socket. Clients
ask the alias all the time, half of them as a stream. Promotions are what `hone models promote` does after its gate,
reverts are those of `hone models revert`.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from hone.config import TrainConfig
from hone.recipe.reverting import revert
from hone.recipe.run import train
from hone.registry.aliases import move_alias, revert_places
from hone.registry.runs import RunFolder
from hone.registry.versions import register_version
from tests.recipe.conftest import Listener, row, write_jsonl
from tests.serve.running import serving_in_float32
from tests.tiny import save_tiny

QUESTION = "what of the lamp number 37 in red town?"
NAME = "support@production"
_REST_EVERY = 5
_MOST_REST_SECONDS = 120.0


@dataclass
class Outcome:
    """What was seen.

    Args:
        switches: of the alias.
        answers: by the version that gave them.
        decided: answers in whose time the alias stood in one place alone, so that one version alone was right.
        problems: sentences; none where all is well.
        seconds: in all.
    """

    switches: int = 0
    answers: Counter[str] = field(default_factory=Counter)
    decided: int = 0
    problems: list[str] = field(default_factory=list)
    seconds: float = 0.0


class _Places:
    """Where the alias has stood: a place is written down before the move begins, and counted when it is done."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self.done = 0


def switches(folder: Path, *, count: int, clients: int, seconds_between: float, seed: int = 0) -> Outcome:
    """Move an alias so many times while clients ask it.

    Args:
        folder: empty.
        count: moves.
        clients: that ask at the same time.
        seconds_between: two moves, on average.
        seed: of the pauses and of which move is a revert.
    """
    base = _prepare(folder)
    outcome, places, over = Outcome(), _Places(), threading.Event()
    home, draw = folder / "home", random.Random(seed)
    with serving_in_float32(home, base) as address:
        _move(home, places, "support@1")
        expected = {name: _ask(address, name, stream=False)[1] for name in ("support@1", "support@2")}
        assert len(set(expected.values())) == 2, "the versions answer alike"
        threads = [
            threading.Thread(target=_client, args=(address, number, places, expected, over, outcome))
            for number in range(clients)
        ]
        began = time.monotonic()
        for thread in threads:
            thread.start()
        try:
            for number in range(count):
                time.sleep(seconds_between * draw.uniform(0.5, 1.5))
                if number % _REST_EVERY == 0:
                    _rest(outcome)
                _switch(home, places, by_revert=draw.random() < 0.5)
        finally:
            over.set()
            for thread in threads:
                thread.join()
        outcome.switches, outcome.seconds = count, time.monotonic() - began
    return outcome


def _rest(outcome: Outcome) -> None:
    """Wait, with the alias in one place, for an answer that began and ended meanwhile: one version alone is right."""
    before, end = outcome.decided, time.monotonic() + _MOST_REST_SECONDS
    while outcome.decided == before:
        if time.monotonic() > end:
            raise TimeoutError(f"no answer came within {_MOST_REST_SECONDS:.0f} s")
        time.sleep(0.005)


def _prepare(folder: Path) -> Path:
    """A home with support@1 and support@2 on a tiny base."""
    base = save_tiny(folder / "tiny", max_position_embeddings=512)
    rows = [row(number) for number in range(24)]
    for number, answers in enumerate((rows, [{**one, "completion": "nobody can tell"} for one in rows]), 1):
        config = TrainConfig.model_validate(
            {"data": str(write_jsonl(folder / f"{number}.jsonl", answers)), "model": str(base), "epochs": 3, "rank": 4,
             "learning_rate": 2e-2, "dtype": "float32", "device": "cpu", "general_rows": 0}
        )  # fmt: skip
        trained = train(config, home=folder / "home", recorder=Listener())
        register_version(
            folder / "home", name="support", run=RunFolder.open(Path(trained["run_dir"])), base_name=str(base),
            base_hash=trained["base"]["hash"], template_hash="", data_manifest={}, status="proven",
        )  # fmt: skip
    return base


def _move(home: Path, places: _Places, place: str) -> None:
    places.begun.append(place)
    move_alias(home, "support", "production", int(place.partition("@")[2]))
    places.done += 1


def _switch(home: Path, places: _Places, *, by_revert: bool) -> None:
    other = {"support@1": "support@2", "support@2": "support@1"}[places.begun[-1]]
    number = other.partition("@")[2]
    if by_revert and int(number) in revert_places(home, "support", "production"):  # a revert goes back, never forth
        places.begun.append(other)
        found = revert(NAME, home=home, to=number)
        assert found["now"] == other, found
        places.done += 1
    else:
        _move(home, places, other)


def _client(
    address: str, number: int, places: _Places, expected: dict[str, str], over: threading.Event, outcome: Outcome
) -> None:
    while not over.is_set():
        before = places.done
        try:
            version, text = _ask(address, NAME, stream=number % 2 == 1)
        except (httpx.HTTPError, ValueError, KeyError) as error:
            outcome.problems.append(f"a request was lost: {type(error).__name__}: {error}")
            continue
        right = set(places.begun[before - 1 :])
        if version not in right:
            outcome.problems.append(f"{version} answered while the alias stood on {', '.join(sorted(right))}")
        elif text != expected[version]:
            outcome.problems.append(f"{version} answered {text!r} and not {expected[version]!r}")
        outcome.answers[version] += 1
        outcome.decided += len(right) == 1


def _ask(address: str, model: str, *, stream: bool) -> tuple[str, str]:
    """(the version that answered, its text)."""
    body: dict[str, Any] = {"model": model, "temperature": 0, "max_tokens": 8, "stream": stream}
    body["messages"] = [{"role": "user", "content": QUESTION}]
    answered = httpx.post(f"{address}/chat/completions", json=body, timeout=120).raise_for_status()
    if not stream:
        whole = answered.json()
        return whole["system_fingerprint"], whole["choices"][0]["message"]["content"]
    *lines, last = [line for line in answered.text.split("\n\n") if line]
    if last != "data: [DONE]":
        raise ValueError(f"the stream ended with {last!r}")
    pieces = [json.loads(line.removeprefix("data: ")) for line in lines]
    versions = {piece["system_fingerprint"] for piece in pieces}
    text = "".join(piece["choices"][0]["delta"].get("content", "") for piece in pieces)
    return " and ".join(sorted(versions)), text


def main() -> int:
    """Try it and print what was seen; 1 where something is wrong."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--switches", type=int, default=1000)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--seconds-between", type=float, default=0.1)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        outcome = switches(
            Path(folder), count=options.switches, clients=options.clients, seconds_between=options.seconds_between
        )
    print(
        f"{outcome.switches} switches in {outcome.seconds:.0f} s, {outcome.answers.total()} answers "
        f"({', '.join(f'{count} by {name}' for name, count in sorted(outcome.answers.items()))}), "
        f"{outcome.decided} of them while the alias stood in one place, {len(outcome.problems)} problems"
    )
    print("\n".join(outcome.problems[:20]))
    return 1 if outcome.problems else 0


if __name__ == "__main__":
    sys.exit(main())
