"""Measure hone's training engine beside its peers: fresh processes, interleaved pairs, correctness before speed.

    python benchmarks/speed.py --work FOLDER --json docs/performance.json --page docs/performance.md \\
        --rows examples/support/train.jsonl --rows ../shared/tasks/e2e-data-to-text/train.jsonl \\
        --llamafactory-python PATH --soup-python PATH

Every result is kept in FOLDER as it comes: the same command goes on where it was interrupted, and measures anew what
has changed (hone's sources, the rows, a setting). ``benchmarks/README.md`` tells how, and how to set up the peers.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from side_by_side.campaign import Campaign, Outcome, Plan
from side_by_side.figures import summarize
from side_by_side.machine import describe, usable_cores
from side_by_side.measure import Environments, Store, run_tool
from side_by_side.page import write_page
from side_by_side.systems import SYSTEMS

REPOSITORY = Path(__file__).resolve().parent.parent
EXAMPLE = REPOSITORY / "examples" / "support"
WORKLOADS = ("W1", "W2", "W3", "W5")
EMBEDDED = "smollm2-135m-instruct"


def arguments_of(given: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--work", type=Path, required=True, help="folder for results, models and logs; kept between runs")
    add("--json", type=Path, help="file for all figures")
    add("--page", type=Path, help="Markdown page that receives the tables")
    add("--rows", type=Path, action="append", help="JSONL of chat rows, repeatable; the bundled example if not given")
    add("--documents", type=Path, default=EXAMPLE / "documents", help="text for the system prompt of W5")
    add("--model", default=EMBEDDED, help="name or folder of the base; the embedded one if not given")
    add("--dtype", choices=("bfloat16", "float32"), help="of the computation; hone's choice if not given")
    add("--workloads", nargs="+", choices=WORKLOADS, default=list(WORKLOADS), help="which of the workloads")
    add("--systems", nargs="+", choices=list(SYSTEMS), help="which of the systems; all if not given")
    add("--pairs", type=int, default=5, help="rounds of hone and of peers at their best")
    add("--default-pairs", type=int, default=2, help="rounds of peers as they come")
    add("--ablation-pairs", type=int, default=2, help="rounds of hone with one switch off; 0 for none")
    add("--threads", type=int, default=usable_cores(), help="threads of every measured process")
    add("--learning-rate", type=float, default=5e-4, help="of every system")
    add("--limit-seconds", type=float, default=1800, help="after which a measurement is given up")
    add("--llamafactory-python", help="interpreter of an environment with llamafactory 0.9.5")
    add("--soup-python", help="interpreter of an environment with soup-cli[train] 0.77")
    add("--quick", action="store_true", help="one pair, three steps, small rows: to see that everything works")
    return parser.parse_args(given)


def plan_of(arguments: argparse.Namespace) -> Plan:
    """What is to be measured."""
    pairs = (1, 1, 1) if arguments.quick else (arguments.pairs, arguments.default_pairs, arguments.ablation_pairs)
    wanted = arguments.systems or [
        name for name in SYSTEMS if pairs[2] > 0 or not name.startswith("hone without")
    ]  # fmt: skip
    systems = tuple(name for name in SYSTEMS if name in {*wanted, "hone"})
    seconds = 0.05 if arguments.quick else 2.0
    return Plan(
        systems=systems,
        pairs=pairs[0],
        default_pairs=pairs[1],
        ablation_pairs=pairs[2],
        learning_rate=arguments.learning_rate,
        limit_seconds=arguments.limit_seconds,
        roofline_seconds=seconds,
    )


def prepare(arguments: argparse.Namespace, environments: Environments) -> Path:
    """The shared base, adapters and rows, made once for a request."""
    folder: Path = arguments.work / "prepared"
    model = Path(arguments.model)
    request = {
        "folder": str(folder.resolve()),
        "model": str(model.resolve()) if model.is_dir() else arguments.model,
        "dtype": arguments.dtype,
        "workloads": arguments.workloads,
        "sources": [str(path.resolve()) for path in arguments.rows or [EXAMPLE / "train.jsonl"]],
        "documents": str(arguments.documents.resolve()),
        "quick": arguments.quick,
    }
    made = folder / "prepared.json"
    if not made.exists() or json.loads(made.read_text(encoding="utf-8"))["request"] != request:
        folder.mkdir(parents=True, exist_ok=True)
        made.unlink(missing_ok=True)
        path = folder / "request.json"
        path.write_text(json.dumps(request, ensure_ascii=False), encoding="utf-8")
        print("preparing base, adapters and rows", file=sys.stderr, flush=True)
        run_tool("prepare", [str(path)], environments, arguments.work / "logs" / "prepare.txt")
    return folder


def command_of(arguments: argparse.Namespace) -> str:
    """The command to repeat the run, without this machine's folders."""
    words = ["python benchmarks/speed.py --work FOLDER"]
    for path in arguments.rows or []:
        words.append(f"--rows {path if not path.is_absolute() else 'PATH/' + '/'.join(path.parts[-2:])}")
    if arguments.model != EMBEDDED:
        words.append("--model MODEL")
    if arguments.dtype:
        words.append(f"--dtype {arguments.dtype}")
    if arguments.workloads != list(WORKLOADS):
        words.append("--workloads " + " ".join(arguments.workloads))
    if arguments.systems:
        words.append("--systems " + " ".join(f"'{name}'" if " " in name else name for name in arguments.systems))
    words.append(f"--pairs {arguments.pairs} --default-pairs {arguments.default_pairs}")
    words.append(f"--ablation-pairs {arguments.ablation_pairs} --threads {arguments.threads}")
    words += ["--quick"] if arguments.quick else []
    words += ["--llamafactory-python PATH"] if arguments.llamafactory_python else []
    words += ["--soup-python PATH"] if arguments.soup_python else []
    file = arguments.json.name if arguments.json else "performance.json"
    return " ".join([*words, f"--json docs/{file} --page docs/performance.md"])


def publish(arguments: argparse.Namespace, campaign: Campaign, outcomes: dict[str, Outcome]) -> None:
    """Write what is known so far: after each workload, so that a long run can be read while it goes on."""
    prepared, command = campaign.prepared, command_of(arguments)
    results: dict[str, Any] = {
        "machine": describe(),
        "model": prepared["model"],
        "dtype": prepared["dtype"],
        "threads": arguments.threads,
        "learning_rate": arguments.learning_rate,
    }
    found = {
        name: {**summarize(outcome, prepared["model"], prepared["dtype"]), "command": command}
        for name, outcome in outcomes.items()
    }
    results["workloads"] = {**measured_before(arguments.json, results), **found}
    if arguments.json:
        arguments.json.write_text(json.dumps(results, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    if arguments.page:
        write_page(arguments.page, results, arguments.json)


def measured_before(file: Path | None, same: dict[str, Any]) -> dict[str, Any]:
    """Workloads that an earlier command put into the file, on this machine and with all else alike."""
    if file is None or not file.exists():
        return {}
    before: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    workloads: dict[str, Any] = before.pop("workloads")
    return workloads if before == same else {}


def main() -> None:
    """Prepare, measure, judge, publish."""
    arguments = arguments_of()
    arguments.work = arguments.work.resolve()
    arguments.work.mkdir(parents=True, exist_ok=True)
    pythons = {"own": sys.executable}
    pythons |= {"llamafactory": arguments.llamafactory_python} if arguments.llamafactory_python else {}
    pythons |= {"soup": arguments.soup_python} if arguments.soup_python else {}
    environments = Environments(pythons, arguments.threads)
    campaign = Campaign(Store(arguments.work), prepare(arguments, environments), environments, plan_of(arguments))
    outcomes: dict[str, Outcome] = {}
    for name in campaign.prepared["workloads"]:
        outcomes[name] = campaign.run(name)
        publish(arguments, campaign, outcomes)


if __name__ == "__main__":
    main()
