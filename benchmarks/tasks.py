"""Run ``hone run`` with zero flags over a folder of ready tasks, and write what came out as a table.

    python benchmarks/tasks.py ../shared/tasks --output docs/results.md [--only e2e-data-to-text ...]

Each task is a folder with ``train.jsonl`` and ``eval.jsonl``; nothing else is read. Defaults of hone were chosen on
validation rows split from training data, never on an ``eval.jsonl``. Every task is a process of its own in a home
folder of its own, so that nothing is shared but the converted base.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

_ARMS = ("base", "prompted", "few_shot", "retrieval", "tuned", "tuned_retrieval")
ACCEPTED_EXIT_CODES = (0, 3)  # done, and done with the verdict "do not ship"


def run_task(folder: Path, home: Path) -> dict[str, Any]:
    """The result object of one task, with the wall-clock seconds of the whole command."""
    command = [sys.executable, "-m", "hone", "run", str(folder / "train.jsonl")]
    command += ["--eval", str(folder / "eval.jsonl"), "--name", folder.name, "--json"]
    if (folder / "documents").is_dir():
        command += ["--documents", str(folder / "documents")]
    started = time.perf_counter()
    done = subprocess.run(command, stdout=subprocess.PIPE, env={**os.environ, "HONE_HOME": str(home)}, check=False)
    if done.returncode not in ACCEPTED_EXIT_CODES:
        raise SystemExit(f"{folder.name}: hone run ended with code {done.returncode}")
    result: dict[str, Any] = json.loads(done.stdout)
    result["wall_seconds"] = time.perf_counter() - started
    return result


def table(results: dict[str, dict[str, Any]]) -> str:
    """One line a task, in Markdown."""
    lines = [
        "| task | rows | metric | base | prompted | few-shot | retrieval | tuned | tuned + retrieval "
        "| tuned - base, 95% interval | p | verdict | training | whole |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name, result in results.items():
        evaluation = result["evaluation"]
        difference = tuned_and_base(result)
        low, high = difference["interval"]
        scores = [score(evaluation["arms"].get(arm)) for arm in _ARMS]
        lines.append(
            f"| {name} | {result['data']['train']} + {evaluation['rows']} | {evaluation['metric']} "
            f"| {' | '.join(scores)} "
            f"| {difference['difference']:+.1f} [{low:+.1f}, {high:+.1f}] | {difference['p_value']:.4f} "
            f"| {result['verdict']['decision']} | {result['training']['seconds']:.0f} s "
            f"| {result['wall_seconds']:.0f} s |"
        )
    return "\n".join(lines)


def tuned_and_base(result: dict[str, Any]) -> dict[str, Any]:
    """Their difference in the metric that decides."""
    found = result["evaluation"]["differences"]
    pair: dict[str, Any]
    [pair] = [one for one in found if (one["arm"], one["against"]) == ("tuned", "base")]
    return pair


def score(arm: dict[str, Any] | None) -> str:
    """An arm's score; nothing for an arm that did not answer, as retrieval without documents."""
    return "" if arm is None else f"{arm['score']:.1f}"


def retained(results: dict[str, dict[str, Any]]) -> str:
    """What each version has kept of its base's general ability, and at which strength."""
    lines = [
        "| task | general rows | strength | general questions right, base to tuned, % | difference, 95% interval "
        "| KL from the base, nats | prose, bits per byte | general answers turned | within bounds | seconds |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name, result in results.items():
        kept = result["retention"]
        probes, own, prose, turned = (kept[key] for key in ("probes", "own_answers", "general_text", "brittleness"))
        low, high = probes["interval"]
        lines.append(
            f"| {name} | {result['training']['replay']['rows']} | {kept['strength']['value']:g} "
            f"| {probes['base']:.1f} to {probes['tuned']:.1f} "
            f"| {probes['difference']:+.1f} [{low:+.1f}, {high:+.1f}] | {own['kl_nats']:.3f} "
            f"| {change(prose)} | {turned['turned']} of {turned['prompts']} "
            f"| {'yes' if kept['kept'] else 'no'} | {kept['seconds']:.0f} |"
        )
    return "\n".join(lines)


def frontier(results: dict[str, dict[str, Any]]) -> str:
    """Gain against forgetting: every strength that was tried on the validation rows and the general texts."""
    lines = [
        "| task | strength | validation loss | KL from the base, nats | prose, rise in bits per byte, 95% interval | |",
        "|---|---|---|---|---|---|",
    ]
    for name, result in results.items():
        strength = result["retention"]["strength"]
        for point in strength["points"]:
            low, high = point["text_bits_rise"]
            lines.append(
                f"| {name} | {point['strength']:g} | {point['validation_loss']:.3f} | {point['kl_nats']:.3f} "
                f"| [{low:+.3f}, {high:+.3f}] | {'kept' if point['strength'] == strength['value'] else ''} |"
            )
    return "\n".join(lines)


def all_metrics(results: dict[str, dict[str, Any]]) -> str:
    """Every metric of every task with its difference: the primary one is not always the kindest."""
    lines = ["| task | metric | base | tuned | tuned - base, 95% interval |", "|---|---|---|---|---|"]
    for name, result in results.items():
        evaluation = result["evaluation"]
        pairs = evaluation["differences"] + evaluation["other_differences"]
        found = {one["metric"]: one for one in pairs if (one["arm"], one["against"]) == ("tuned", "base")}
        for metric, base in evaluation["arms"]["base"]["metrics"].items():
            tuned = evaluation["arms"]["tuned"]["metrics"].get(metric)
            lines.append(f"| {name} | {metric} | {shown(base)} | {shown(tuned)} | {change(found.get(metric))} |")
    return "\n".join(lines)


def change(difference: dict[str, Any] | None) -> str:
    """A difference with its interval."""
    if difference is None or difference["interval"] is None:
        return "not measured"
    low, high = difference["interval"]
    return f"{difference['difference']:+.2f} [{low:+.2f}, {high:+.2f}]"


def shown(value: float | None) -> str:
    """A figure, or the words for one that is not there."""
    return "not measured" if value is None else f"{value:.2f}"


def chosen(results: dict[str, dict[str, Any]]) -> str:
    """What hone chose for each task, and what it cost."""
    lines = [
        "| task | learning rate | rank | epochs (best) | batch | steps | tokens | tokens/s | peak memory |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, result in results.items():
        training = result["training"]
        rows = result["data"]["train"] + training["replay"]["rows"]
        per_epoch = -(-rows // training["batch_size"])
        lines.append(
            f"| {name} | {training['learning_rate']:g} | {training['rank']} | {training['epochs']} "
            f"({training['best_step'] / per_epoch:.0f}) | {training['batch_size']} | {training['steps']} "
            f"| {training['tokens']} | {training['tokens_per_second']:.0f} "
            f"| {training['peak_memory_bytes'] / 2**30:.1f} GiB |"
        )
    return "\n".join(lines)


def unproven(results: dict[str, dict[str, Any]]) -> str:
    """Which versions are not proven, and by which figure; they are neither promoted nor exported."""
    broken = [
        f"{name} ({one['name']}: {one['measured']:g}, bound {one['bound']})"
        for name, result in results.items()
        for one in result["proof"]
        if not one["holds"]
    ]
    if not broken:
        return "All versions are proven: every measured invariant holds.\n"
    return f"Unproven, and so neither promoted nor exported: {', '.join(broken)}.\n"


def page(results: dict[str, dict[str, Any]], command: str) -> str:
    """The whole of docs/results.md."""
    better = sum(tuned_and_base(result)["interval"][0] > 0 for result in results.values())
    first = next(iter(results.values()))
    libraries = ", ".join(f"{name} {version}" for name, version in first["code"]["libraries"].items())
    return f"""# Results: ten tasks, zero flags

`hone run train.jsonl --eval eval.jsonl`, nothing else given, on {len(results)} small tasks made from public data sets.
The base is {first["base"]["name"]} ({first["base"]["parameters"] / 1e6:.0f}M parameters). Defaults were chosen on
validation rows split from training data (docs/defaults.md), never on the rows measured here.

Tuned is better than base, with the lower bound of the 95% interval above zero, on **{better} of {len(results)}** tasks.
All of the data is public, so the base may have seen it: read the differences, not the levels.
"rows" are training + held-out; "training" is the training loop, "whole" is the command from start to end, loading,
checking, all arms, retention and the report. "prompted" has an instruction made from the training rows, "few-shot" up
to six training rows that are like the question; retrieval is there where the task has documents (docs/evaluate.md).

{table(results)}

{unproven(results)}
One seed of training each; intervals are over held-out rows, not over training seeds (not measured).
Which metric decides follows from the training answers (docs/evaluate.md); the others stand below with their intervals.
Labels are matched strictly: a base that answers with a sentence around the label scores 0 there.

## What is left of general ability

432 questions over 18 skills, 64 general prompts and 66 texts. What prevents the loss is the default: general rows
beside the data's, and a strength chosen after training (docs/retention.md, which compares them with other ways).

{retained(results)}

Gain against forgetting, by strength:

{frontier(results)}

## What was chosen, and what it cost

{chosen(results)}

## All metrics

Levels are 0 to 100, but for bits_per_byte, where lower is better. BLEU and chrF are sacrebleu's corpus scores.

{all_metrics(results)}

## How to repeat

    {command}
    python benchmarks/prevention.py ../shared/tasks --work FOLDER --page docs/retention.md

`make benchmark-tasks` runs both; the second compares the ways to keep general ability.

Machine: {platform.processor() or platform.machine()}, {os.cpu_count()} cores, {first["threads"]},
{first["base"]["device"]}, {first["base"]["dtype"]}; Python {first["code"]["python"]}, {libraries},
hone {first["code"]["hone"]}.
"""


def threads() -> str:
    """How many threads the runs were allowed, in words."""
    limit = os.environ.get("OMP_NUM_THREADS")
    return f"OMP_NUM_THREADS={limit}" if limit else "one thread a core"


def main() -> None:
    """Run all tasks and write the page and, beside it, the figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tasks", type=Path, help="folder of task folders")
    parser.add_argument("--output", type=Path, default=Path("docs/results.md"), help="the page to write")
    parser.add_argument("--only", nargs="*", default=[], help="tasks to run again; the others stay as they were")
    parser.add_argument("--home", type=Path, help="home folder of the runs; a temporary one unless given")
    arguments = parser.parse_args()
    folders = sorted(path.parent for path in arguments.tasks.glob("*/train.jsonl"))
    folders = [folder for folder in folders if not arguments.only or folder.name in arguments.only]
    figures = arguments.output.with_suffix(".json")
    results: dict[str, dict[str, Any]] = {}
    if arguments.only and figures.exists():
        results = json.loads(figures.read_text(encoding="utf-8"))
    command = f"python benchmarks/tasks.py {arguments.tasks} --output {arguments.output}"
    with tempfile.TemporaryDirectory() as temporary:
        home = arguments.home or Path(temporary)
        for folder in folders:
            print(f"== {folder.name}", file=sys.stderr, flush=True)
            results[folder.name] = summary(run_task(folder, home))
            results = dict(sorted(results.items()))
            figures.write_text(json.dumps(results, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
            arguments.output.write_text(page(results, command), encoding="utf-8")
    print(table(results))


def summary(result: dict[str, Any]) -> dict[str, Any]:
    """A result without what belongs to this machine's folders or repeats the data."""
    kept = ("base", "training", "verdict", "proof", "retention", "wall_seconds")
    counts = {key: value for key, value in result["data"].items() if isinstance(value, int)}
    compared = ("metric", "shape", "rows", "arms", "differences", "other_differences")
    code = {key: result["code"][key] for key in ("hone", "python", "libraries")}
    evaluation = {key: result["evaluation"][key] for key in compared}
    return {
        **{key: result[key] for key in kept},
        "data": counts,
        "evaluation": evaluation,
        "code": code,
        "threads": threads(),
    }


if __name__ == "__main__":
    main()
