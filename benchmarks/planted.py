"""Does ``hone data check --model`` find rows whose answer is another row's? 10% are shuffled, and looked for.

    python benchmarks/planted.py TASKS_FOLDER                       three tasks, three seeds
    python benchmarks/planted.py TASKS_FOLDER --tasks sms-spam --seeds 0

A tenth of the rows get the answer of another row, one that differs from their own. A planted row counts as found where
it is flagged ``mismatched_pair`` or ``label_error``.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
from pathlib import Path

from hone.home import hone_home
from hone.recipe.audit import audit_file
from hone.recipe.audit_model import add_model_faults

CODES = ("mismatched_pair", "label_error")
TASKS = ("sms-spam", "translate-en-de", "e2e-data-to-text")
SHARE = 0.1


def main() -> None:
    """Measure and print a line a task and seed, then the sums."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--tasks", nargs="*", default=list(TASKS))
    parser.add_argument("--seeds", nargs="*", type=int, default=[0, 1, 2])
    parser.add_argument("--model", default="smollm2-135m-instruct")
    options = parser.parse_args()
    for task in options.tasks:
        sums = [0, 0, 0]
        for seed in options.seeds:
            counts = measure(options.folder / task / "train.jsonl", seed=seed, model=options.model)
            print(task, f"seed {seed}", describe(*counts), flush=True)
            sums = [one + other for one, other in zip(sums, counts, strict=True)]
        print(f"{task}: {describe(*sums)}", flush=True)


def measure(path: Path, *, seed: int, model: str) -> tuple[int, int, int]:
    """(planted, flagged, planted and flagged) of one task with one seed."""
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    planted = plant(rows, seed)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "rows.jsonl"
        file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
        report = add_model_faults(audit_file(str(file)), model=model, home=hone_home())
    flagged = {fault.row for fault in report.faults if fault.code in CODES}
    return len(planted), len(flagged), len(planted & flagged)


def plant(rows: list[dict[str, list[dict[str, str]]]], seed: int) -> set[int]:
    """Give a tenth of the rows the answer of another one, in place; their ordinals."""
    rng = random.Random(seed)
    answers = [row["messages"][-1]["content"] for row in rows]
    chosen = rng.sample(range(len(rows)), max(2, round(SHARE * len(rows))))
    for index in chosen:
        others = [answer for answer in answers if answer != answers[index]]
        rows[index]["messages"][-1]["content"] = rng.choice(others)
    return {index + 1 for index in chosen}


def describe(planted: int, flagged: int, both: int) -> str:
    """Precision and recall in words."""
    precision = both / flagged if flagged else 1.0
    found = f"precision {precision:.2f}, recall {both / planted:.2f}"
    return f"{planted} planted, {flagged} flagged, {both} of them planted: {found}"


if __name__ == "__main__":
    main()
