"""Constructed cases with the embedded base, each with the verdict that it was made for.

    python benchmarks/verdicts.py ../shared/tasks --work FOLDER --output docs/verdicts.md [--only already too_few ...]

A case is data, or a training, of which one knows beforehand what is right to say. Each is one or two commands of hone
with a home folder of its own in FOLDER; its result is kept there as JSON, so that a second call goes on where the first
stopped. The page says what was wanted and what came out, right or wrong.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hone.config.schema import DEFAULT_MODEL
from hone.evaluation.probes.tables import table_of
from hone.home import hone_home
from hone.model.generate import SamplingSettings, generate
from hone.recipe.inference import load_answerer
from hone.types import Message

ACCEPTED_EXIT_CODES = (0, 3)
# Where prompting is enough, the code says whether the tuned model is worse, or as good and not needed.
EXIT_CODES = {"do_not_ship": (3,), "prompting_is_enough": (0, 3)}
LONGEST_OWN_ANSWER = 64
NAMES = {
    "base": "base",
    "prompted": "prompted",
    "few_shot": "few-shot",
    "retrieval": "retrieval",
    "tuned": "tuned",
    "tuned_retrieval": "tuned+retrieval",
}


@dataclass(frozen=True)
class Case:
    """One case.

    Args:
        name: of the case.
        wanted: the decisions that are right.
        says: a pattern that the reason must have.
        about: what was made, and why the verdict is known.
        make: runs it and gives the result's JSON object.
    """

    name: str
    wanted: tuple[str, ...]
    says: str
    about: str
    make: Callable[[Path, Path], dict[str, Any]]


def hone(home: Path, *words: str | Path) -> dict[str, Any]:
    """One command of hone with ``--json``."""
    command = [sys.executable, "-m", "hone", *map(str, words), "--json"]
    done = subprocess.run(command, stdout=subprocess.PIPE, env={**os.environ, "HONE_HOME": str(home)}, check=False)
    if done.returncode not in ACCEPTED_EXIT_CODES:
        raise SystemExit(f"{' '.join(map(str, words))}: ended with code {done.returncode}")
    result: dict[str, Any] = json.loads(done.stdout)
    return result | {"command": " ".join(map(str, words)), "exit_code": done.returncode}


def read(path: Path) -> list[dict[str, Any]]:
    """The rows of a JSONL file."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def write(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    """Write rows as JSONL."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def chat(prompt: str, answer: str) -> dict[str, Any]:
    """One row."""
    return {"messages": [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]}


def already(tasks: Path, home: Path) -> dict[str, Any]:
    """The base's own greedy answers are the reference."""
    folder = home.parent / "data" / "already"
    if not (folder / "eval.jsonl").exists():
        things = [row[0] for name in ("animals", "countries", "elements") for row in table_of(f"{name}.tsv")]
        prompts = [f"Write one short sentence about this: {thing}." for thing in things]
        answerer = load_answerer(DEFAULT_MODEL, home=home, note=lambda text: None)
        asked = [answerer.prompt([Message("user", prompt)], [], arm="base") for prompt in prompts]
        answers = generate(
            answerer.base.model,
            asked,
            stop_ids=answerer.renderer.stop_ids,
            settings=SamplingSettings(LONGEST_OWN_ANSWER),
        )
        pairs = zip(prompts, answers, strict=True)
        rows = [chat(prompt, answerer.text(one.ids).strip()) for prompt, one in pairs if one.stopped]
        random.Random(0).shuffle(rows)
        write(folder / "train.jsonl", rows[:-30])
        write(folder / "eval.jsonl", rows[-30:])
    return hone(home, "run", folder / "train.jsonl", "--eval", folder / "eval.jsonl", "--name", "already")


def documents(tasks: Path, home: Path) -> dict[str, Any]:
    """Facts that stand in documents only."""
    task = tasks / "wiki-questions"
    return hone(
        home, "run", task / "train.jsonl", "--eval", task / "eval.jsonl", "--documents", task / "documents",
        "--name", "documents",
    )  # fmt: skip


def data_to_text(tasks: Path, home: Path) -> dict[str, Any]:
    """A form that the base does not know."""
    task = tasks / "e2e-data-to-text"
    return hone(home, "run", task / "train.jsonl", "--eval", task / "eval.jsonl", "--name", "ship")


def too_few(tasks: Path, home: Path) -> dict[str, Any]:
    """The version of the case before it, on four rows."""
    return hone(home, "evaluate", "ship@1", tasks / "e2e-data-to-text" / "eval.jsonl", "--limit", "4")


def forgets(tasks: Path, home: Path) -> dict[str, Any]:
    """Twenty times the usual learning rate, no general rows, and no sweep of the strength: ``hone train`` has none."""
    task = tasks / "e2e-data-to-text"
    trained = hone(
        home, "train", task / "train.jsonl", "--learning-rate", "0.01", "--epochs", "4", "--general-rows", "0"
    )
    return hone(home, "evaluate", trained["run_dir"], task / "eval.jsonl", "--arms", "base,tuned")


def shuffled(tasks: Path, home: Path) -> dict[str, Any]:
    """Each answer belongs to another row's question; the held-out rows are as they were."""
    task = tasks / "e2e-data-to-text"
    rows = read(task / "train.jsonl")
    answers = [row["messages"][-1]["content"] for row in rows]
    random.Random(0).shuffle(answers)
    for row, answer in zip(rows, answers, strict=True):
        row["messages"][-1]["content"] = answer
    data = write(home.parent / "data" / "shuffled" / "train.jsonl", rows)
    return hone(home, "run", data, "--eval", task / "eval.jsonl", "--name", "shuffled")


CASES = (
    Case("already", ("prompting_is_enough",), "the base does the task as it is",
         "the references are the base's own answers", already),
    Case("documents", ("retrieval_is_enough", "ship_with_retrieval"), "passages",
         "wiki-questions with its documents: the facts stand nowhere else", documents),
    Case("ship", ("ship",), "is better", "e2e-data-to-text: a form that the base does not know", data_to_text),
    Case("too_few", ("not_enough_evidence",), r"more (than \d+ )?held-out row", "the version of `ship` on four rows",
         too_few),
    Case("forgets", ("do_not_ship",), "It forgot", "e2e-data-to-text at twenty times the usual learning rate, "
         "without general rows, at full strength", forgets),
    Case("shuffled", ("do_not_ship",), "a form and not the task", "e2e-data-to-text with the answers shuffled among "
         "the training rows", shuffled),
)  # fmt: skip


def is_right(case: Case, result: dict[str, Any]) -> bool:
    """Whether decision, reason and exit code are those that were wanted."""
    verdict = result["verdict"]
    codes = EXIT_CODES.get(verdict["decision"], (0,))
    said = re.search(case.says, verdict["reason"]) is not None
    return verdict["decision"] in case.wanted and said and result["exit_code"] in codes


def scores(result: dict[str, Any]) -> str:
    """The score of every arm."""
    evaluation = result["evaluation"]
    listed = (f"{NAMES[name]} {arm['score']:.1f}" for name, arm in evaluation["arms"].items())
    return f"{evaluation['metrics'][evaluation['metric']]['title']}: {', '.join(listed)}"


def retention(result: dict[str, Any]) -> str:
    """Strength, questions and distance."""
    found = result["retention"]
    strength = found["strength"]["value"] if found["strength"] else 1
    probes, own = found["probes"], found["own_answers"]
    return f"strength {strength:g}; questions {probes['base']:.1f} to {probes['tuned']:.1f}; {own['kl_nats']:.2f} nats"


def page(results: dict[str, dict[str, Any]], command: str) -> str:
    """The whole of docs/verdicts.md."""
    cases = {case.name: case for case in CASES}
    right = sum(is_right(cases[name], result) for name, result in results.items())
    lines = ["| case | made of | wanted | verdict | arms | retention |", "|---|---|---|---|---|---|"]
    for name, result in results.items():
        case, verdict = cases[name], result["verdict"]
        word = verdict["decision"] if is_right(case, result) else f"**{verdict['decision']}**, not as wanted"
        wanted = " or ".join(f"`{one}`" for one in case.wanted)
        lines.append(f"| {name} | {case.about} | {wanted} | {word} | {scores(result)} | {retention(result)} |")
    reasons = [f"**{name}**: {result['verdict']['reason']}" for name, result in results.items()]
    return "\n".join([
        "# Verdicts on constructed cases",
        "",
        "Cases of which one knows beforehand what is right to say, run with the embedded base and zero flags but those",
        f"named. {right} of {len(results)} verdicts are the wanted ones.",
        "",
        *lines,
        "",
        "The reasons as hone gave them:",
        "",
        *[f"- {reason}" for reason in reasons],
        "",
        "## How to repeat",
        "",
        f"    {command}",
        "",
    ])  # fmt: skip


def main() -> None:
    """Run what has no result yet, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tasks", type=Path)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--only", nargs="+", choices=[case.name for case in CASES])
    given = parser.parse_args()
    home = given.work / "home"
    home.mkdir(parents=True, exist_ok=True)
    if not (home / "models").exists() and (hone_home() / "models").exists():
        (home / "models").symlink_to(hone_home() / "models")
    results = {}
    for case in CASES:
        kept = given.work / f"{case.name}.json"
        if not kept.exists() and (given.only is None or case.name in given.only):
            kept.write_text(json.dumps(case.make(given.tasks, home), ensure_ascii=False), encoding="utf-8")
        if kept.exists():
            results[case.name] = json.loads(kept.read_text(encoding="utf-8"))
            decision = results[case.name]["verdict"]["decision"]
            print(
                f"{case.name}: {decision}, {'as' if is_right(case, results[case.name]) else 'NOT as'} wanted",
                flush=True,
            )
    if given.output:
        command = f"python benchmarks/verdicts.py {given.tasks} --work FOLDER --output {given.output}"
        given.output.write_text(page(results, command), encoding="utf-8")


if __name__ == "__main__":
    main()
