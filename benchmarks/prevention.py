"""Ways to keep general ability, on one frontier: what each leaves of the gain, and what it costs elsewhere.

    python benchmarks/prevention.py ../shared/tasks --work FOLDER [--tasks sms-spam ...] [--page docs/retention.md]

A quarter of each task's ``train.jsonl`` is set aside to measure the gain on; ``eval.jsonl`` is not read. Every way is a
``hone train`` with the embedded base and one seed, measured at several strengths: nats a token of the rows set aside
(the gain), general questions, distance from the base, and prose. ``hone train`` sweeps no strength of its own. Whatever
stands in FOLDER is not done again. About four minutes a task and way on one thread.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from hone.data.loader import load_examples
from hone.engine.events import Tee
from hone.evaluation.likelihood import answer_bits
from hone.home import hone_home
from hone.recipe.inference import Answerer, load_answerer, training_path
from hone.recipe.retention import measure_retention
from hone.recipe.rows import render_rows

WAYS = {
    "none": ["--general-rows", "0"],
    "general rows": [],
    "64 general rows": ["--general-rows", "64"],
    "rank 4": ["--general-rows", "0", "--rank", "4"],
    "query and value alone": ["--general-rows", "0", "--layers", "*q_proj,*v_proj"],
    "half the passes": ["--general-rows", "0", "--epochs", "2"],
}
STRENGTHS = (0.25, 0.5, 0.75, 1.0)
TASKS = ("sms-spam", "e2e-data-to-text", "snips-json", "clinical-note")
_BEGIN, _END = (
    "<!-- written by benchmarks/prevention.py: begin -->",
    "<!-- written by benchmarks/prevention.py: end -->",
)


def split(task: Path, work: Path) -> tuple[Path, Path]:
    """Files of the rows to train on and of the quarter set aside."""
    lines = (task / "train.jsonl").read_text(encoding="utf-8").splitlines()
    random.Random(0).shuffle(lines)
    aside = len(lines) // 4
    parts = work / f"{task.name}.train.jsonl", work / f"{task.name}.aside.jsonl"
    for path, rows in zip(parts, (lines[aside:], lines[:aside]), strict=True):
        path.write_text("\n".join(rows) + "\n", encoding="utf-8")
    return parts


def trained(train: Path, options: Iterable[str], folder: Path) -> None:
    """Train into ``folder``, unless it is there."""
    if (folder / "result.json").exists():
        return
    command = [sys.executable, "-m", "hone", "train", str(train), "--output", str(folder), *options]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def measured(folder: Path, aside: Path, strengths: Iterable[float]) -> list[dict[str, Any]]:
    """A point for each strength."""
    answerer = load_answerer(str(folder), home=hone_home(), note=lambda text: None)
    assert answerer.adaptation is not None, "a run has an adapter"
    points = []
    for strength in strengths:
        answerer.adaptation.set_strength(strength)
        found = measure_retention(
            answerer, keep="balanced", per_skill=24, files=(), domain_answers=(), home=hone_home(), recorder=Tee()
        ).to_json()
        points.append(
            {
                "strength": strength,
                "loss": loss(answerer, aside),
                "questions": found["probes"]["difference"],
                "interval": found["probes"]["interval"],
                "kl": found["own_answers"]["kl_nats"],
                "prose": found["general_text"]["difference"] / found["general_text"]["base"],
                "kept": found["kept"],
            }
        )
    return points


def loss(answerer: Answerer, aside: Path) -> float:
    """Nats a supervised token of the rows set aside."""
    rows = load_examples(str(aside))
    examples, sequences = render_rows(rows.examples, answerer.renderer, rows.ledger)
    rendered = [one for example in examples for one in sequences[example.row]]
    forward, attention = training_path(answerer.base.model, reference=answerer.reference_path)
    with attention:
        bits = sum(answer_bits(answerer.base.model, rendered, forward=forward))
    return bits * math.log(2) / sum(one.num_supervised for one in rendered)


def table(results: dict[str, dict[str, list[dict[str, Any]]]]) -> str:
    """One line a task and way: at full strength, and at the largest strength within the bounds."""
    lines = [
        "| task | way | loss at full strength | general questions, 95% interval | distance | prose "
        "| largest strength within the bounds | loss there |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for task, ways in results.items():
        base = ways["base"][0]["loss"]
        lines.append(f"| {task} | the base | {base:.3f} | | | | | |")
        for way, points in ways.items():
            if way == "base":
                continue
            full = points[-1]
            low, high = full["interval"]
            kept = [point for point in points if point["kept"]]
            best = f"{kept[-1]['strength']:g} | {kept[-1]['loss']:.3f}" if kept else "none | "
            lines.append(
                f"| {task} | {way} | {full['loss']:.3f} | {full['questions']:+.1f} [{low:+.1f}, {high:+.1f}] "
                f"| {full['kl']:.2f} | {full['prose']:+.1%} | {best} |"
            )
    return "\n".join(lines)


def main() -> None:
    """Train, measure, print the table, and put it into the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="folder of task folders")
    parser.add_argument("--work", type=Path, required=True, help="folder for runs and figures")
    parser.add_argument("--tasks", nargs="*", default=list(TASKS))
    parser.add_argument("--ways", nargs="*", default=list(WAYS))
    parser.add_argument("--page", type=Path, help="page to put the table into")
    given = parser.parse_args()
    given.work.mkdir(parents=True, exist_ok=True)
    figures = given.work / "prevention.json"
    results: dict[str, Any] = json.loads(figures.read_text(encoding="utf-8")) if figures.exists() else {}
    for name in given.tasks:
        train, aside = split(given.folder / name, given.work)
        ways = results.setdefault(name, {})
        for way in given.ways:
            folder = given.work / f"{name}-{way.replace(' ', '-')}"
            trained(train, WAYS[way], folder)
            if "base" not in ways:
                ways["base"] = measured(folder, aside, [0.0])
            if way not in ways:
                ways[way] = measured(folder, aside, STRENGTHS)
            print(f"{name}, {way}: {json.dumps(ways[way])}", file=sys.stderr, flush=True)
            temporary = figures.with_suffix(".part")
            temporary.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
            os.replace(temporary, figures)
    print(table(results))
    if given.page:
        text = given.page.read_text(encoding="utf-8")
        before, rest = text.split(_BEGIN)
        given.page.write_text(f"{before}{_BEGIN}\n\n{table(results)}\n\n{_END}{rest.split(_END)[1]}", encoding="utf-8")


if __name__ == "__main__":
    main()
