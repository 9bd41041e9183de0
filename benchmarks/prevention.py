"""Ways to keep general ability, on one frontier: what each leaves of the gain, and what it costs elsewhere.

    python benchmarks/prevention.py ../shared/tasks --work FOLDER [--tasks sms-spam ...] [--page docs/retention.md]

A quarter of each task's ``train.jsonl`` is set aside to measure the gain on; ``eval.jsonl`` is not read. Every way is a
``hone train`` with the embedded base and one seed, measured at full strength, and below it down to the strength that is
within the bounds of ``--keep balanced``: nats a token of the rows set aside (the gain), general questions, distance
from the base, and prose. Early stopping is the run without prevention, each of its passes measured from the last back.
``hone train`` sweeps no strength of its own. Whatever stands in FOLDER is not done again. Three minutes a task and way
on one thread.
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

import torch
from safetensors.torch import load_file

from hone.config import EvaluateConfig
from hone.data.loader import load_examples
from hone.engine.checkpoint import checkpoint_folders
from hone.engine.events import Tee
from hone.evaluation.likelihood import answer_bits
from hone.home import hone_home
from hone.recipe.inference import Answerer, load_answerer, training_path
from hone.recipe.question_sets import question_sets
from hone.recipe.retention import measure_retention
from hone.recipe.rows import render_rows

NOTHING, STOPPING = "none", "early stop on retention"
DEFAULT = "general rows"
WAYS = {
    DEFAULT: [],  # the first, as its numbers are read for the others
    NOTHING: ["--general-rows", "0"],
    STOPPING: [],
    "64 general rows": ["--general-rows", "64"],
    "rank 4": ["--general-rows", "0", "--rank", "4"],
    "query and value alone": ["--general-rows", "0", "--layers", "*q_proj,*v_proj"],
}
STRENGTHS = (1.0, 0.75, 0.5, 0.25)
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


def folder_name(task: str, way: str) -> str:
    """Of a run."""
    return f"{task}-{way.replace(' ', '-')}"


def steps_of_a_pass(run: Path) -> int:
    """Optimizer steps of one pass over the data's own rows, with the batches of a finished run."""
    result = json.loads((run / "result.json").read_text(encoding="utf-8"))
    return -(-int(result["data"]["train"]) // int(result["training"]["batch_size"]))


def by_strength(folder: Path, aside: Path, strengths: Iterable[float]) -> list[dict[str, Any]]:
    """A point for each strength, from the highest down to the first within the bounds."""
    answerer = load_answerer(str(folder), home=hone_home(), note=lambda text: None)
    assert answerer.adaptation is not None, "a run has an adapter"
    points = []
    for strength in strengths:
        answerer.adaptation.set_strength(strength)
        points.append({"strength": strength, **measured(answerer, aside)})
        if points[-1]["kept"]:
            break
    return points


def by_pass(folder: Path, aside: Path) -> list[dict[str, Any]]:
    """A point for each pass of a run, from the last one back to the first within the bounds."""
    answerer = load_answerer(str(folder), home=hone_home(), note=lambda text: None)
    assert answerer.adaptation is not None, "a run has an adapter"
    parameters = answerer.adaptation.parameters()
    points = []
    checkpoints = checkpoint_folders(folder / "checkpoints")
    for number, checkpoint in reversed(list(enumerate(checkpoints, start=1))):
        weights = load_file(checkpoint / "adapter.safetensors")
        with torch.no_grad():
            for name, parameter in parameters.items():
                parameter.copy_(weights[name])
        answerer.adaptation.refresh()
        points.append({"pass": number, **measured(answerer, aside)})
        if points[-1]["kept"]:
            break
    return points


def measured(answerer: Answerer, aside: Path) -> dict[str, Any]:
    """What is gained and lost with the adapter as it stands."""
    questions = question_sets(EvaluateConfig.model_validate({"version": "any"}))
    found = measure_retention(
        answerer, keep="balanced", questions=questions, domain_answers=(), home=hone_home(), recorder=Tee()
    ).to_json()
    return {
        "loss": loss(answerer, aside),
        "questions": found["probes"]["difference"],
        "interval": found["probes"]["interval"],
        "kl": found["own_answers"]["kl_nats"],
        "prose": found["general_text"]["difference"] / found["general_text"]["base"],
        "kept": found["kept"],
    }


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
        "| within the bounds at | loss there |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for task, ways in results.items():
        base = ways["base"][0]["loss"]
        lines.append(f"| {task} | the base | {base:.3f} | | | | | |")
        for way, points in ways.items():
            if way == "base":
                continue
            full, last = points[0], points[-1]
            low, high = full["interval"]
            place = f"pass {last['pass']}" if "pass" in last else f"strength {last['strength']:g}"
            best = f"{place} | {last['loss']:.3f}" if last["kept"] else "none of them | "
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
            kind = NOTHING if way == STOPPING else way
            folder = given.work / folder_name(name, kind)
            options = list(WAYS[kind])
            if kind == NOTHING:
                options += ["--save-every-steps", str(steps_of_a_pass(given.work / folder_name(name, DEFAULT)))]
            trained(train, options, folder)
            if "base" not in ways:
                ways["base"] = by_strength(folder, aside, [0.0])
            if way not in ways:
                ways[way] = by_pass(folder, aside) if way == STOPPING else by_strength(folder, aside, STRENGTHS)
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
