"""GRPO, RLOO and PPO at equal rollouts on tasks whose answers can be checked: held-out reward before and after.

    python benchmarks/reinforcement.py --json FOLDER/reinforcement.json --tasks arithmetic snips --methods grpo rloo ppo
    python benchmarks/reinforcement.py --json FOLDER/reinforcement.json --page docs/preferences.md

Nothing is set but the rewards and the number of rollouts (``--steps`` times 8 prompts times 8 answers; 40 and 12 steps
unless given); PPO takes two optimizer steps over the same answers. Other options go to ``hone run``. Each result is
kept in the JSON file as soon as it is there, and the same command goes on where it was. The rewards are the functions
of this file, as ``--reward FILE:FUNCTION`` takes them.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

SHARED = Path(__file__).resolve().parents[2] / "shared"
BEGIN = "<!-- written by benchmarks/reinforcement.py: begin -->"
END = "<!-- written by benchmarks/reinforcement.py: end -->"
_HEAD = (
    "| task | method | rollouts | held out | base | tuned | difference | watched | KL | tokens an answer | minutes |\n"
    "|---|---|---|---|---|---|---|---|---|---|---|\n"
)
_HELD_OUT_ARITHMETIC = 60
_EXAMPLES = 4
_SAMPLES = 3
EPOCHS = {"ppo": 2}


def arithmetic(prompt: list[dict[str, str]], answer: str, row: dict[str, Any]) -> float:
    """1 for the right number and nothing else; 0.2 for another number alone, up to 0.6 the nearer; 0.1 among words."""
    text = answer.strip().replace(",", "")
    if not re.fullmatch(r"-?\d+", text):
        return 0.1 if re.search(r"\d", text) else 0.0
    right, found = int(row["reference_answer"]), int(text)
    if found == right:
        return 1.0
    return 0.2 + 0.4 * max(0.0, 1.0 - abs(found - right) / max(1, abs(right)))


def exact(prompt: list[dict[str, str]], answer: str, row: dict[str, Any]) -> float:
    """1 for the right answer and nothing else, white space aside: watched, never trained on."""
    return float(answer.strip() == str(row["reference_answer"]).strip())


def snips(prompt: list[dict[str, str]], answer: str, row: dict[str, Any]) -> float:
    """0.1 for JSON, 0.1 for its form, and what share of intent and slots is right: F1, times 0.8."""
    try:
        found = json.loads(answer)
    except ValueError:
        return 0.0
    if not isinstance(found, dict) or set(found) != {"intent", "slots"} or not isinstance(found["slots"], dict):
        return 0.1
    wanted = _fields(json.loads(row["reference_answer"]))
    given = _fields(found)
    shared = sum((wanted & given).values())
    return 0.2 + 0.8 * 2 * shared / (sum(wanted.values()) + sum(given.values()))


def same_json(prompt: list[dict[str, str]], answer: str, row: dict[str, Any]) -> float:
    """1 for the right JSON, whatever the order of its keys: watched, never trained on."""
    try:
        return float(json.loads(answer) == json.loads(row["reference_answer"]))
    except ValueError:
        return 0.0


def _fields(value: dict[str, Any]) -> Counter[tuple[str, str]]:
    slots = [(str(key), json.dumps(one, sort_keys=True)) for key, one in value["slots"].items()]
    return Counter([("intent", json.dumps(value["intent"])), *slots])


def _arithmetic_rows(folder: Path) -> tuple[Path, list[str]]:
    """Sums and differences of two numbers, with four others as turns in front of each: without them the base chats.

    The examples are not trained on.
    """
    lines = (SHARED / "data" / "simple_arithmetic" / "simple_arithmetic_nospaces.jsonl").read_text(encoding="utf-8")
    rows = [json.loads(line) for line in lines.splitlines()]
    kept = [row for row in rows if re.fullmatch(r"\d+[+-]\d+=", row["context"])]
    said = [(("user", row["context"]), ("assistant", row["continuation"].strip())) for row in kept]
    turns = [[{"role": role, "content": text} for role, text in pair] for pair in said]
    system = {"role": "system", "content": "Complete the equation with the number alone."}
    before = [system, *(turn for pair in turns[:_EXAMPLES] for turn in pair)]
    path = folder / "arithmetic.jsonl"
    asked = [{"messages": [*before, *pair]} for pair in turns[_EXAMPLES:]]
    path.write_text("".join(json.dumps(row) + "\n" for row in asked), encoding="utf-8")
    return path, ["--held-out", str(_HELD_OUT_ARITHMETIC)]


def _snips_rows(folder: Path) -> tuple[Path, list[str]]:
    """The task's rows, with four of the training rows as turns in front of each: without them the base never tries.

    The examples are one of each of four intents, and are not trained on.
    """
    task = SHARED / "tasks" / "snips-json"
    rows = {part: [json.loads(line)["messages"] for line in (task / f"{part}.jsonl").read_text("utf-8").splitlines()]
            for part in ("train", "eval")}  # fmt: skip
    shown = list({json.loads(turns[-1]["content"])["intent"]: turns for turns in rows["train"]}.values())[:_EXAMPLES]
    before = [rows["train"][0][0], *(turn for turns in shown for turn in turns[-2:])]
    for part, of_part in rows.items():
        asked = [[*before, *turns[-2:]] for turns in of_part if turns not in shown]
        text = "".join(json.dumps({"messages": turns}, ensure_ascii=False) + "\n" for turns in asked)
        (folder / f"{part}.jsonl").write_text(text, encoding="utf-8")
    return folder / "train.jsonl", ["--eval", str(folder / "eval.jsonl")]


# Rows, reward, watched reward, and steps of 64 rollouts that end within half an hour on one thread.
TASKS = {
    "arithmetic": (_arithmetic_rows, "arithmetic", "exact", 24),
    "snips": (_snips_rows, "snips", "same_json", 12),
}


def measure(task: str, method: str, *, steps: int | None, home: Path, further: list[str]) -> dict[str, Any]:
    """One ``hone run``; the figures of its result, its curve and some answers."""
    rows, reward, watch, usual_steps = TASKS[task]
    with tempfile.TemporaryDirectory() as folder:
        data, options = rows(Path(folder))
        run = home / "runs" / f"benchmark-{task}-{method}-{os.getpid()}"
        command = [sys.executable, "-m", "hone", "run", str(data), "--method", method, "--json", "--output", str(run)]
        command += ["--reward", f"{__file__}:{reward}", "--watch-reward", f"{__file__}:{watch}", *options]
        command += ["--max-steps", str((steps or usual_steps) * EPOCHS.get(method, 1)), "--name", f"{task}-{method}"]
        source = str(Path(__file__).resolve().parents[1] / "src")
        environment = {**os.environ, "HONE_HOME": str(home), "PYTHONPATH": source}
        began = time.perf_counter()
        done = subprocess.run([*command, *further], stdout=subprocess.PIPE, check=False, env=environment)
        seconds = time.perf_counter() - began
    if done.returncode not in (0, 3):
        raise SystemExit(f"hone run ended with code {done.returncode}; see above")
    result = json.loads(done.stdout)
    evaluation = result["evaluation"]
    metrics = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    figures = ("step", "reward", "watch_reward", "kl", "length", "ended", "repetition", "undecided_groups")
    curve = [{name: one[name] for name in figures} for one in metrics if one["event"] == "step"]
    rollouts = (run / "rollouts.jsonl").read_text(encoding="utf-8").splitlines()
    kept = ("steps", "seconds", "learning_rate", "batch_size", "policy", "tokens_per_second")
    return {
        "task": task,
        "method": method,
        "rollouts": len(rollouts),
        "data": {part: result["data"][part] for part in ("train", "held_out")},
        "training": {part: result["training"][part] for part in kept},
        "seconds": round(seconds, 1),
        "arms": {arm: {part: one[part] for part in ("score", "interval", "metrics")}
                 for arm, one in evaluation["arms"].items()},
        "difference": evaluation["differences"][0],
        "watched": next((one for one in evaluation["other_differences"] if one["metric"] == "watch_reward"), None),
        "rewards": evaluation["rewards"],
        "curve": curve,
        "samples": evaluation["examples"]["best"][:_SAMPLES] + evaluation["examples"]["worst"][:_SAMPLES],
        "verdict": result["verdict"]["decision"],
        "retention": result["retention"],
        "proof": all(one["holds"] for one in result["proof"]),
        "code": result["code"],
    }  # fmt: skip


def table(results: list[dict[str, Any]]) -> str:
    """The results as tables of Markdown: figures, the curve of each, and answers to one row."""
    lines = []
    for one in results:
        low, high = one["difference"]["interval"]
        watched = one["watched"]
        shown = "-" if watched is None else f"{watched['difference']:+.3f}"
        lines.append(
            f"| {one['task']} | {one['method']} | {one['rollouts']} | {one['data']['held_out']} rows | "
            f"{_figure(one['arms']['base'])} | {_figure(one['arms']['tuned'])} | "
            f"{one['difference']['difference']:+.3f} ({low:+.3f} to {high:+.3f}) | {shown} | "
            f"{one['curve'][-1]['kl']:.3f} | "
            f"{one['rewards']['base']['length']:.1f} to {one['rewards']['tuned']['length']:.1f} | "
            f"{one['training']['seconds'] / 60:.1f} |\n"
        )
    curves = ["| task | method | reward by quarters of the training |\n|---|---|---|\n"]
    for one in results:
        points = one["curve"]
        quarters = [points[len(points) * part // 4 : len(points) * (part + 1) // 4] for part in range(4)]
        means = [sum(point["reward"] for point in part) / len(part) for part in quarters if part]
        curves.append(f"| {one['task']} | {one['method']} | {' · '.join(f'{mean:.3f}' for mean in means)} |\n")
    samples = ["| task | method | asked | base | tuned |\n|---|---|---|---|---|\n"]
    for one in results:
        row = one["samples"][0]
        said = [_cell(row["prompt"]), _cell(row["answers"]["base"]), _cell(row["answers"]["tuned"])]
        samples.append(f"| {one['task']} | {one['method']} | {' | '.join(said)} |\n")
    return _HEAD + "".join(lines) + "\n" + "".join(curves) + "\n" + "".join(samples)


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "/").replace("`", "'").split())[:90]


def _figure(arm: dict[str, Any]) -> str:
    low, high = arm["interval"]
    return f"{arm['score']:.3f} ({low:.3f} to {high:.3f})"


def main() -> None:
    """Measure what is not measured yet, or write the page's tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, required=True, help="file of the results")
    parser.add_argument("--tasks", nargs="*", choices=TASKS, default=[], help="which tasks")
    parser.add_argument("--methods", nargs="*", default=["grpo", "rloo", "ppo"], help="which methods")
    parser.add_argument("--steps", type=int, help="steps of 8 prompts with 8 answers each; by task unless given")
    parser.add_argument("--home", type=Path, help="hone's home folder; a temporary one unless given")
    parser.add_argument("--page", type=Path, help="page whose tables are written anew")
    options, further = parser.parse_known_args()
    results = json.loads(options.json.read_text(encoding="utf-8")) if options.json.exists() else []
    with tempfile.TemporaryDirectory() as temporary:
        home = options.home or Path(temporary)
        for task in options.tasks:
            for method in options.methods:
                if any((one["task"], one["method"]) == (task, method) for one in results):
                    continue
                results.append(measure(task, method, steps=options.steps, home=home, further=further))
                options.json.write_text(json.dumps(results, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    if results:
        print(table(results))
    if options.page:
        from side_by_side.page import write_between  # not above: hone reads this file for its rewards

        write_between(options.page, BEGIN, END, table(results))


if __name__ == "__main__":
    main()
