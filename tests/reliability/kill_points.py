"""A training run that is killed at seeded instants and resumed must leave the bytes of one that never was.

One :class:`Trial` is one run: attempts that end at their trips, then one that comes to its end. What a user would do
after each is done here, by what the command says: go on with ``--resume``, or begin anew where there is nothing yet.
"""

from __future__ import annotations

import json
import random
import shutil
import signal
import string
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.reliability.fork_server import Ended, ForkServer, Trip
from tests.tiny import save_tiny

# 20 rows to train on and 4 to validate with, 4 a step: five steps an epoch.
ROWS = 24
OPTIONS = (
    "--rank", "4", "--epochs", "3", "--batch-size", "4", "--validation", "4", "--learning-rate", "0.005",
    "--dtype", "float32", "--device", "cpu", "--general-rows", "0",
)  # fmt: skip
# Rows and options. In the first two the loss falls to the end, at step 15. Noise can only be learned by heart: there
# the best step is 10, and patience ends the run at step 20, so that the best weights come from an earlier attempt.
SCENARIOS: dict[str, tuple[str, tuple[str, ...]]] = {
    "each epoch": ("rows", ()),
    "every 3 steps": ("rows", ("--save-every-steps", "3")),
    "stops early": ("noise", ("--epochs", "8", "--learning-rate", "0.02")),
}
KILLS = ("kill before", "kill within", "kill after")
_SAME_FILES = (
    "metrics.jsonl", "config.yaml", "manifest.json", "ledger.jsonl", "probe.safetensors", "proof.json",
    "adapter/adapter_model.safetensors", "adapter/adapter_config.json", "adapter/hone.json", "adapter/manifest.json",
)  # fmt: skip
_OF_THE_CLOCK = ("seconds", "tokens_per_second", "peak_memory_bytes", "plan")
_MOST_ATTEMPTS = 12


@dataclass(frozen=True)
class Whole:
    """The run that was never interrupted: its folder, and how many events one has."""

    folder: Path
    counts: dict[str, int]
    seconds: float


@dataclass(frozen=True)
class Trial:
    """What happened to one run.

    Args:
        trips: what was to happen to it.
        attempts: how each attempt ended, the last one by itself.
        happened: the trips that came, and where.
        phases: how far the run was when each attempt but the last had ended.
        problems: in what it differs from the run that was never interrupted; empty is as it should be.
    """

    trips: tuple[Trip, ...]
    attempts: list[Ended] = field(default_factory=list)
    happened: list[tuple[Trip, str]] = field(default_factory=list)
    phases: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


class Workplace:
    """A tiny base, a few rows, and the uninterrupted runs to compare with.

    Args:
        folder: where all of it is made.
        server: runs the commands.
    """

    def __init__(self, folder: Path, server: ForkServer) -> None:
        self.folder = folder
        self.home = folder / "home"
        self.server = server
        self.base = save_tiny(folder / "base", max_position_embeddings=512)
        draw = random.Random(0)
        noise = [{**row, "completion": "".join(draw.choices(string.ascii_lowercase, k=12))} for row in _rows()]
        for name, rows in (("rows", _rows()), ("noise", noise)):
            text = "".join(json.dumps(row) + "\n" for row in rows)
            (folder / f"{name}.jsonl").write_text(text, encoding="utf-8")
        self.whole: dict[str, Whole] = {}

    def begin(self, output: Path, scenario: str) -> list[str]:
        """The command line of a new run."""
        rows, options = SCENARIOS[scenario]
        words = ["train", str(self.folder / f"{rows}.jsonl"), "--model", str(self.base), "--output", str(output)]
        return [*words, *OPTIONS, *options]

    def uninterrupted(self, scenario: str) -> Whole:
        """The run to compare with, made at the first call."""
        if scenario not in self.whole:
            folder = self.folder / f"whole {scenario}"
            ended = self.server.run(self.begin(folder, scenario), watched=folder, home=self.home)
            assert ended.code == 0, ended.output
            self.whole[scenario] = Whole(folder, ended.counts, ended.seconds)
        return self.whole[scenario]

    def try_run(self, trips: Sequence[Trip], *, scenario: str = "each epoch", name: str = "run") -> Trial:
        """Run, let the trips happen one attempt after the other, resume until it is done, and compare."""
        whole = self.uninterrupted(scenario)
        output = self.folder / name
        trial = Trial(tuple(trips))
        waiting = list(trips)
        command = self.begin(output, scenario)
        while len(trial.attempts) < _MOST_ATTEMPTS:
            trip = waiting.pop(0) if waiting else None
            ended = self.server.run(command, watched=output, home=self.home, trip=trip)
            trial.attempts.append(ended)
            if trip and ended.tripped:
                trial.happened.append((trip, ended.tripped))
            if ended.code == 0 or _state(output) == "done":
                break
            if "begin it anew" in ended.output or "holds no run" in ended.output:
                command = self.begin(output, scenario)  # as the command advises; the trip of this attempt never came
                waiting = [*([trip] if trip and not ended.tripped else []), *waiting]
                continue
            trial.phases.append(phase_of(output))
            trial.problems.extend(_wrong_end(ended, trip, output))
            command = ["train", "--resume", str(output)]
        trial.problems.extend(differences(whole.folder, output))
        if not trial.problems:  # else it is left to be looked at
            shutil.rmtree(output)
        return trial


def _rows() -> Iterator[dict[str, str]]:
    for number in range(ROWS):
        thing = ("lamp", "order", "bell", "box", "door", "street")[number % 6]
        yield {"prompt": f"what of the {thing} number {number * 37 % 101}?", "completion": f"the {thing} is lit"}


def draw_trips(draw: random.Random, whole: Whole, *, event: str, most: int = 2) -> list[Trip]:
    """Seeded kills for one run: the first of the wanted kind, anywhere in its life; perhaps one in the resumed run."""
    trips = []
    for number in range(draw.randint(1, most)):
        kind = event if number == 0 else draw.choice(("file", "module", "optimizer", "clock"))
        if kind == "clock":
            trips.append(Trip("clock", draw.uniform(0.0, whole.seconds), "kill before"))
        else:
            action = draw.choice(KILLS) if kind == "file" else "kill before"
            trips.append(Trip(kind, draw.randint(1, whole.counts[kind]), action))
    return trips


def phase_of(folder: Path) -> str:
    """How far a run is, by what it has left."""
    if not (folder / "config.yaml").exists():
        return "loading"
    if (folder / "adapter").exists() or (folder / "probe.safetensors").exists():
        return "saving the adapter"
    if list((folder / "checkpoints").glob("step-*")):
        return "training, after a checkpoint"
    return "training, before a checkpoint" if (folder / "metrics.jsonl").exists() else "proof"


def _state(folder: Path) -> str:
    record = folder / "run.json"
    return str(json.loads(record.read_text(encoding="utf-8"))["status"]) if record.exists() else "absent"


def _wrong_end(ended: Ended, trip: Trip | None, output: Path) -> list[str]:
    """What is wrong with how an attempt ended that did not come to its end."""
    problems = ["a traceback was printed"] if "Traceback" in ended.output else []
    problems += ["it called it a bug of hone"] if "bug of hone" in ended.output else []
    if trip is None:
        return [*problems, f"it ended with code {ended.code}, though nothing was done to it: {ended.output[-500:]}"]
    if trip.action in ("SIGTERM", "SIGINT"):
        # a process that is not yet in its command has no handler; the signal then ends it, and nothing is lost
        wanted = {130, -signal.SIGTERM if trip.action == "SIGTERM" else 130}
        told = "--resume" in ended.output or ended.code != 130 or not (output / "config.yaml").exists()
    elif trip.action.startswith("kill"):
        wanted, told = {-signal.SIGKILL}, True
    else:
        wanted = {1}
        told = f"hone train --resume {output}" in ended.output or not (output / "config.yaml").exists()
    problems += [] if ended.code in wanted else [f"it ended with code {ended.code}: {ended.output[-500:]}"]
    return problems + ([] if told else [f"it does not say how to go on: {ended.output[-500:]}"])


def _without_memory(proof: bytes) -> bytes:
    """The proof without invariant 7, whose figure is the memory of the moment."""
    return json.dumps([one for one in json.loads(proof or b"[]") if one["number"] != 7]).encode()


def differences(whole: Path, folder: Path) -> list[str]:
    """In what a finished run differs from the uninterrupted one; wall-clock figures and folders' names apart."""
    if _state(folder) != "done":
        return [f"its state is {_state(folder)}"]
    problems = []
    for name in _SAME_FILES:
        one, other = (path.read_bytes() if path.exists() else b"" for path in (whole / name, folder / name))
        if name == "config.yaml":
            one, other = one.replace(bytes(whole), b"DIR"), other.replace(bytes(folder), b"DIR")
        if name == "proof.json":
            one, other = _without_memory(one), _without_memory(other)
        problems += [] if one and one == other else [f"{name} differs"]
    problems += [] if _result(whole) == _result(folder) else ["result.json differs"]
    problems += _differences_of_checkpoint(_newest(whole), _newest(folder))
    steps = [[json.loads(line)["step"] for line in (path / "timings.jsonl").open("rb")] for path in (whole, folder)]
    problems += [] if steps[0] == steps[1] else [f"timings of the steps {steps[1]}"]
    left = [path.name for path in folder.rglob(".*.tmp")] + [path.name for path in folder.rglob("damaged-*")]
    return problems + ([f"left behind: {left}"] if left else [])


def _result(folder: Path) -> dict[str, Any]:
    result: dict[str, Any] = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    training = {key: value for key, value in result["training"].items() if key not in _OF_THE_CLOCK}
    proof = [one for one in result["proof"] if one["number"] != 7]  # its figure is the memory of the moment
    return {**result, "training": training, "proof": proof, "run_dir": ""}


def _newest(folder: Path) -> Path:
    return max((folder / "checkpoints").glob("step-*"))


def _differences_of_checkpoint(one: Path, other: Path) -> list[str]:
    if one.name != other.name:
        return [f"the last checkpoint is {other.name}"]
    names = ("adapter.safetensors", "best.safetensors", "optimizer.safetensors")
    problems = [
        f"{one.name}/{name} differs" for name in names if (one / name).read_bytes() != (other / name).read_bytes()
    ]
    progress = [json.loads((path / "progress.json").read_text(encoding="utf-8")) for path in (one, other)]
    for state in progress:
        state.pop("seconds")
    return problems + ([] if progress[0] == progress[1] else [f"{one.name}/progress.json differs"])
