"""Options of ``hone run`` compared on folds of training rows, as a whole run does them; no ``eval.jsonl`` is opened.

    python benchmarks/folds.py ../shared/tasks/e2e-data-to-text --work FOLDER [--folds 3] "" "--epochs 6" ...

Each setting is a line of options, "" for the defaults. Every fold of ``train.jsonl`` is held out once from a run on the
other rows, with its validation and general rows, as a user would have them; BLEU and chrF are of the answers to all
rows together, and "alike" is the share that equals its reference. Whatever stands in FOLDER is not done again. About
two minutes a fold on one thread.
"""

from __future__ import annotations

import argparse
import json
import random
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import sacrebleu

ACCEPTED_EXIT_CODES = (0, 3)


def write_folds(task: Path, work: Path, folds: int) -> list[tuple[Path, Path]]:
    """Files to train on and to hold out, for each fold."""
    lines = (task / "train.jsonl").read_text(encoding="utf-8").splitlines()
    random.Random(0).shuffle(lines)
    pairs = []
    for fold in range(folds):
        train, held_out = work / f"{task.name}-{fold}-train.jsonl", work / f"{task.name}-{fold}-held-out.jsonl"
        for path, wanted in ((train, False), (held_out, True)):
            rows = [line for index, line in enumerate(lines) if (index % folds == fold) == wanted]
            path.write_text("\n".join(rows) + "\n", encoding="utf-8")
        pairs.append((train, held_out))
    return pairs


def answered(train: Path, held_out: Path, options: str, kept: Path) -> dict[str, Any]:
    """Answers and references of one fold, and the seconds of training."""
    if kept.exists():
        found: dict[str, Any] = json.loads(kept.read_text(encoding="utf-8"))
        return found
    command = [sys.executable, "-m", "hone", "run", str(train), "--eval", str(held_out), "--name", "fold"]
    command += ["--arms", "base,tuned", "--probes", "0", "--json", *shlex.split(options)]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=False)
    if done.returncode not in ACCEPTED_EXIT_CODES:
        raise SystemExit(f"{shlex.join(command)}: ended with code {done.returncode}")
    result = json.loads(done.stdout)
    lines = (Path(result["run_dir"]) / "answers.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    found = {
        "answers": [row["answers"]["tuned"] for row in rows],
        "references": [row["reference"] for row in rows],
        "seconds": result["training"]["seconds"],
        "strength": result["training"]["strength"],
    }
    kept.write_text(json.dumps(found, ensure_ascii=False), encoding="utf-8")
    return found


def main() -> None:
    """Print one line for each setting."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", type=Path)
    parser.add_argument("settings", nargs="+", help="options of hone run, a quoted line each")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--folds", type=int, default=3)
    given = parser.parse_args()
    given.work.mkdir(parents=True, exist_ok=True)
    pairs = write_folds(given.task, given.work, given.folds)
    for options in given.settings:
        label = "_".join(options.split()) or "defaults"
        found = [
            answered(*pair, options, given.work / f"{given.task.name}-{fold}-{label}.json")
            for fold, pair in enumerate(pairs)
        ]
        answers, references = ([text for one in found for text in one[key]] for key in ("answers", "references"))
        bleu, chrf = sacrebleu.corpus_bleu(answers, [references]), sacrebleu.corpus_chrf(answers, [references])
        seconds = ", ".join(f"{one['seconds']:.0f}" for one in found)
        same = sum(one.strip() == other.strip() for one, other in zip(answers, references, strict=True)) / len(answers)
        length = bleu.sys_len / bleu.ref_len
        scores = f"BLEU {bleu.score:.1f} (length {length:.2f}) | chrF {chrf.score:.1f} | {same:.0%} alike"
        print(f"{given.task.name} | {options or 'the defaults'} | {scores} | training {seconds} s", flush=True)


if __name__ == "__main__":
    main()
