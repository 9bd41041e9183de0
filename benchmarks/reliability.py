"""The harnesses of tests/reliability at length: killed runs, fresh processes, and flipped bits.

    python -m benchmarks.reliability kills --points 1000     SIGKILL at seeded instants of ``hone train``, then resume
    python -m benchmarks.reliability stops --points 200      SIGTERM, Ctrl-C, a full disk, a failing one
    python -m benchmarks.reliability fresh --points 20       real processes of ``hone train`` and ``hone run``
    python -m benchmarks.reliability flips --points 10000    single bits of checkpoints, adapters, converted models

Each prints a table and adds its figures to ``docs/reliability.json`` (``--output``). A difference ends it with code 1.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch

from hone.registry import describe_code, list_versions
from tests.reliability.bit_flips import subjects, unnoticed_flips
from tests.reliability.fork_server import ForkServer, Trip
from tests.reliability.kill_points import (
    KILLS,
    OPTIONS,
    SCENARIOS,
    Trial,
    Whole,
    Workplace,
    differences,
    draw_trips,
    phase_of,
)

_EVENTS = ("file", "clock", "file", "module", "file", "optimizer")
_STOPS = ("SIGTERM", "SIGINT", "disk full", "no space", "input/output error", "short")


def kill_trips(draw: random.Random, whole: Whole, number: int) -> list[Trip]:
    """One to three kills of one run."""
    return draw_trips(draw, whole, event=_EVENTS[number % len(_EVENTS)], most=3)


def stop_trips(draw: random.Random, whole: Whole, number: int) -> list[Trip]:
    """One signal that asks, or one disk that fails."""
    action = _STOPS[number % len(_STOPS)]
    asks = action in ("SIGTERM", "SIGINT")
    event = draw.choice(("file", "module", "optimizer")) if asks else "file"
    return [Trip(event, draw.randint(1, whole.counts[event]), action)]


def in_forked_runs(
    draw_for: Callable[[random.Random, Whole, int], list[Trip]],
    *,
    points: int,
    minutes: float,
    seed: int,
    processes: int,
) -> dict[str, Any]:
    """Try runs until ``points`` trips have happened or the time is over; each worker has its own server."""
    happened: Counter[str] = Counter()
    phases: Counter[str] = Counter()
    problems: list[str] = []
    runs = 0
    give_up_at = time.monotonic() + 60 * minutes

    def work(worker: int) -> None:
        nonlocal runs
        with tempfile.TemporaryDirectory() as folder, ForkServer() as server:
            place = Workplace(Path(folder), server)
            number = worker
            while sum(happened.values()) < points and time.monotonic() < give_up_at:
                scenario = tuple(SCENARIOS)[number // len(_EVENTS) % len(SCENARIOS)]
                trips = draw_for(random.Random(f"{seed} {number}"), place.uninterrupted(scenario), number)
                trial = place.try_run(trips, scenario=scenario, name=f"run {number}")
                happened.update(_kinds(trial))
                phases.update(trial.phases)
                problems.extend(f"run {number} {trips}: {problem}" for problem in trial.problems)
                runs += 1
                number += processes

    with ThreadPoolExecutor(processes) as pool:
        list(pool.map(work, range(processes)))
    return {
        "points": sum(happened.values()), "runs": runs, "seed": seed, "by_kind": dict(sorted(happened.items())),
        "by_phase": dict(sorted(phases.items())), "different": problems,
    }  # fmt: skip


def _kinds(trial: Trial) -> Iterator[str]:
    """What happened to a run: each trip that came, by its kind."""
    for trip, where in trial.happened:
        words = where.split()
        place = f"file {words[2]}" if words[0] == "file" else words[0]
        yield f"{'SIGKILL' if trip.action in KILLS else trip.action} at {place}"


def in_fresh_processes(*, points: int, seed: int) -> dict[str, Any]:
    """Kill real processes of the command by the clock, resume them, and compare; for ``run``, also the registry."""
    draw = random.Random(seed)
    problems: list[str] = []
    phases: list[str] = []
    with tempfile.TemporaryDirectory() as folder, ForkServer() as server:
        place = Workplace(Path(folder), server)
        home = Path(folder)
        for job in ("train", "run"):
            whole, home = Path(folder) / f"whole-{job}", Path(folder) / f"home-{job}"
            began = time.monotonic()
            _must_end(_start(_begin(place, job, whole), home), whole)
            seconds = time.monotonic() - began
            for number in range((points + (job == "train")) // 2):
                output = Path(folder) / f"{job}-{number}"
                phase = _killed_and_resumed(place, job, output, home, after=draw.uniform(0.05, 0.95) * seconds)
                phases += [f"{job}: {phase}"] if phase else []
                problems += [f"{job} {number}: {problem}" for problem in _differences(job, whole, output)]
        registered = sorted(str(version.run_folder) for version in list_versions(home))
        made = sorted(str(path.parent) for path in Path(folder).glob("*run*/run.json"))
        problems += [] if registered == made else [f"registered are {registered}, and runs are {made}"]
    counts = dict(sorted(Counter(phases).items()))
    return {"points": len(phases), "seed": seed, "by_phase": counts, "different": problems}


def _killed_and_resumed(place: Workplace, job: str, output: Path, home: Path, *, after: float) -> str:
    """Where the run was when it was killed; empty where it had ended before."""
    process = _start(_begin(place, job, output), home)
    try:
        process.wait(after)
        return ""
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    phase = phase_of(output)
    begun = (output / "config.yaml").exists()
    _must_end(_start([job, "--resume", str(output)] if begun else _begin(place, job, output), home), output)
    return phase


def _begin(place: Workplace, job: str, output: Path) -> list[str]:
    words = [job, str(place.folder / "rows.jsonl"), "--model", str(place.base), "--output", str(output), *OPTIONS]
    return [*words, "--name", "lamps", "--max-new-tokens", "8"] if job == "run" else words


def _start(words: list[str], home: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "hone", *words], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        env={**os.environ, "HONE_HOME": str(home), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip


def _must_end(process: subprocess.Popen[bytes], output: Path) -> None:
    code = process.wait()
    if code not in (0, 3):
        raise SystemExit(f"{output}: ended with code {code}")


def _differences(job: str, whole: Path, output: Path) -> list[str]:
    found = differences(whole, output)
    # the comparison that `hone run` makes has seconds in its result, and the version a number
    return [one for one in found if job == "train" or one != "result.json differs"]


def in_flipped_bits(*, points: int, seed: int) -> dict[str, Any]:
    """Flip bits, a third of them in each subject."""
    with tempfile.TemporaryDirectory() as folder:
        counts, problems = {}, []
        for number, subject in enumerate(subjects(Path(folder))):
            counts[subject.name] = (points + 2 - number) // 3
            problems += list(unnoticed_flips(subject, random.Random(f"{seed} {number}"), counts[subject.name]))
    return {"points": sum(counts.values()), "seed": seed, "by_kind": counts, "different": problems}


def table(name: str, result: dict[str, Any]) -> str:
    """The figures of one harness in Markdown."""
    lines = [f"{name}: {result['points']} points, {len(result['different'])} different, seed {result['seed']}", ""]
    for title in ("by_phase", "by_kind"):
        if title in result:
            lines += [f"| {title.removeprefix('by_')} | points |", "|---|---|"]
            lines += [f"| {kind} | {count} |" for kind, count in result[title].items()] + [""]
    return "\n".join(lines + [f"- {problem}" for problem in result["different"]])


def main() -> int:
    """Run one harness; the exit code says whether anything differed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("harness", choices=("kills", "stops", "fresh", "flips"))
    parser.add_argument("--points", type=int, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=600.0, help="end sooner, for kills and stops")
    parser.add_argument("--processes", type=int, default=1, help="runs side by side, for kills and stops")
    parser.add_argument("--output", type=Path, default=Path("docs/reliability.json"))
    given = parser.parse_args()
    began, code = time.monotonic(), describe_code()
    forked = {"points": given.points, "minutes": given.minutes, "seed": given.seed, "processes": given.processes}
    result = {
        "kills": lambda: in_forked_runs(kill_trips, **forked),
        "stops": lambda: in_forked_runs(stop_trips, **forked),
        "fresh": lambda: in_fresh_processes(points=given.points, seed=given.seed),
        "flips": lambda: in_flipped_bits(points=given.points, seed=given.seed),
    }[given.harness]()
    if describe_code() != code:
        raise SystemExit("hone's sources or its commit changed meanwhile, and a run's result names them: run it again")
    result["minutes"] = round((time.monotonic() - began) / 60, 1)
    result["versions"] = {"python": platform.python_version(), "torch": torch.__version__}
    kept = json.loads(given.output.read_text(encoding="utf-8")) if given.output.exists() else {}
    kept[given.harness] = result
    given.output.write_text(
        json.dumps(dict(sorted(kept.items())), ensure_ascii=False, indent=1) + "\n", encoding="utf-8"
    )
    print(table(given.harness, result))
    return 1 if result["different"] else 0


if __name__ == "__main__":
    sys.exit(main())
