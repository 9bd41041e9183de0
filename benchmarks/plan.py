"""Ten runs over different tasks, sizes and methods: what ``hone plan`` said of each, and what it took.

    python benchmarks/plan.py --tasks ../shared/tasks --work FOLDER [--runs 1 4] [--max-steps 20] [--page docs/plan.md]

Each run is planned by ``hone plan`` and then done by ``hone train``, in processes of their own with the home folder in
FOLDER. The first estimate of the plan is compared with the measured time of the training loop and the peak of the
process. Targets: median absolute error of time at most 15%, of memory at most 10%, and nothing that fits fails. A run
whose result stands in FOLDER is not done again. All ten take about 20 minutes on two quiet cores.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_BEGIN, _END = "<!-- written by benchmarks/plan.py: begin -->", "<!-- written by benchmarks/plan.py: end -->"
_TARGET_TIME, _TARGET_MEMORY = 0.15, 0.10
# Random weights in the shapes of other sizes; time and memory do not depend on the numbers in them.
_SIZES = {
    "40M": {"hidden_size": 384, "intermediate_size": 1024, "num_hidden_layers": 12, "num_attention_heads": 6,
            "num_key_value_heads": 2},
    "360M": {"hidden_size": 960, "intermediate_size": 2560, "num_hidden_layers": 32, "num_attention_heads": 15,
             "num_key_value_heads": 5},
}  # fmt: skip


@dataclass(frozen=True)
class Case:
    """One run.

    Args:
        task: folder of rows.
        size: of the base: 135M is the embedded one.
        options: of ``hone train``.
    """

    task: str
    size: str = "135M"
    options: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """For the table and the file of its result."""
        return " ".join((self.task, self.size, *self.options))


CASES = (
    Case("e2e-data-to-text"),
    Case("banking77-10"),
    Case("legal-plain-english", options=("--batch-size", "4")),
    Case("clinical-note", options=("--rank", "64")),
    Case("wikisql", options=("--layers", "mlp", "--batch-size", "16")),
    Case("clinical-note", options=("--recompute-layers", "30", "--batch-size", "8")),
    Case("translate-en-de", options=("--adaptation", "full")),
    Case("sms-spam", options=("--dtype", "float32")),
    Case("snips-json", size="360M"),
    Case("nl2bash", size="40M", options=("--batch-size", "8")),
)


def main() -> None:
    """Do the runs that are asked for, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=Path, required=True, help="folder of tasks, each with train.jsonl")
    parser.add_argument("--work", type=Path, required=True, help="folder for home, bases and results")
    parser.add_argument("--runs", type=int, nargs="*", help="numbers of the runs, from 1; all unless given")
    parser.add_argument("--max-steps", type=int, default=20, help="optimizer steps of a run")
    parser.add_argument("--page", type=Path, help="page whose marked part receives the table")
    parser.add_argument("--json", type=Path, help="file that receives the figures")
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    figures = []
    for number in arguments.runs or range(1, len(CASES) + 1):
        found = _measured(number, CASES[number - 1], arguments)
        figures.append(found)
        print(_line(found), flush=True)
    table = _table(figures, arguments.max_steps)
    print("\n" + table)
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    if arguments.page:
        _put_into(arguments.page, table)


def _measured(number: int, case: Case, arguments: argparse.Namespace) -> dict[str, Any]:
    path = arguments.work / f"run-{number:02}-{arguments.max_steps}.json"
    if path.exists():
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return found
    home = arguments.work / "home"
    words = [str(arguments.tasks / case.task / "train.jsonl"), "--model", _base(case.size, arguments.work, home)]
    words += ["--max-steps", str(arguments.max_steps), "--no-early-stop", *case.options, "--json"]
    planned = _hone(home, "plan", *words, "--held-out", "0")
    assert planned is not None, "a plan ends well or the benchmark ends"
    estimate = planned["estimates"][0]
    trained = _hone(home, "train", *words, may_fail=True)
    actual = trained["training"]["plan"]["actual"] if trained else None
    found = {
        "case": case.name,
        "fits": estimate["fits"],
        "failed": trained is None,
        "predicted": {name: estimate[name] for name in ("seconds", "peak_memory_bytes")},
        "predicted_by_run": trained["training"]["plan"]["predicted"] if trained else None,
        "actual": actual,
        "corrected_by": estimate["corrected_by"],
        "memory_by_part": estimate["memory_by_part"],
        "seconds_by_cause": estimate["seconds_by_cause"],
        "cores": planned["machine"]["processor"]["cores_usable"],
        "processor": planned["machine"]["processor"]["name"],
    }
    path.write_text(json.dumps(found, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return found


def _hone(home: Path, *words: str, may_fail: bool = False) -> dict[str, Any] | None:
    environment = {**os.environ, "HONE_HOME": str(home)}
    command = [sys.executable, "-m", "hone", *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode == 0:
        found: dict[str, Any] = json.loads(done.stdout)
        return found
    sys.stderr.write(done.stderr[-2000:])
    if not may_fail:
        raise SystemExit(f"hone {' '.join(words)} ended with {done.returncode}")
    return None


def _base(size: str, work: Path, home: Path) -> str:
    """The embedded base, or a folder of random weights in another size's shape with the same tokenizer."""
    if size == "135M":
        return "smollm2-135m-instruct"
    folder = work / f"random-{size}"
    if not (folder / "config.json").exists():
        import torch
        from transformers import AutoModelForCausalLM

        from hone.model.load import load_base

        base = load_base("smollm2-135m-instruct", home=home, device="cpu", weights=False, note=lambda _text: None)
        config = base.model.config
        for name, value in _SIZES[size].items():
            setattr(config, name, value)
        config.head_dim = config.hidden_size // config.num_attention_heads
        config.dtype = torch.bfloat16
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config).to(torch.bfloat16)
        base.tokenizer.save_pretrained(folder)
        model.save_pretrained(folder)
    return str(folder)


def _error(found: dict[str, Any], figure: str) -> float:
    return float(found["predicted"][figure] / found["actual"][figure] - 1)


def _line(found: dict[str, Any]) -> str:
    if found["failed"]:
        return f"| {found['case']} | failed | | | | | | {found['fits']} |"
    seconds, peak = "seconds", "peak_memory_bytes"
    predicted, actual = found["predicted"], found["actual"]
    return (
        f"| {found['case']} | {predicted[seconds]:.1f} s | {actual[seconds]:.1f} s | {_error(found, seconds):+.0%} "
        f"| {predicted[peak] / 2**30:.2f} GiB | {actual[peak] / 2**30:.2f} GiB | {_error(found, peak):+.0%} "
        f"| {found['fits']} |"
    )


def _table(figures: list[dict[str, Any]], max_steps: int) -> str:
    done = [found for found in figures if not found["failed"]]
    lines = [
        f"{len(figures)} runs of at most {max_steps} steps on {figures[0]['processor']}, {figures[0]['cores']} cores.",
        "",
        "| run | time, predicted | taken | error | memory, predicted | taken | error | fits |",
        "|---|---|---|---|---|---|---|---|",
        *map(_line, figures),
        "",
    ]
    for figure, name, target in (("seconds", "time", _TARGET_TIME), ("peak_memory_bytes", "memory", _TARGET_MEMORY)):
        errors = [abs(_error(found, figure)) for found in done]
        if errors:
            lines.append(
                f"- {name}: median absolute error {statistics.median(errors):.1%}, largest {max(errors):.1%} "
                f"(target {target:.0%})"
            )
    broken = [found["case"] for found in figures if found["failed"] and found["fits"] != "no"]
    lines.append(f"- fits but failed: {', '.join(broken) or 'none'}")
    return "\n".join(lines)


def _put_into(page: Path, table: str) -> None:
    text = page.read_text(encoding="utf-8")
    before, rest = text.split(_BEGIN)
    _, after = rest.split(_END)
    page.write_text(f"{before}{_BEGIN}\n\n{table}\n\n{_END}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
