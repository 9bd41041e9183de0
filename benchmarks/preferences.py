"""Train on public preferences and judge on held-out pairs: accuracy with intervals, by method and by length.

    python benchmarks/preferences.py --json FOLDER/preferences.json --sets llmbar hh oasst --methods dpo reward
    python benchmarks/preferences.py --json FOLDER/preferences.json --page docs/preferences.md

Each set is rewritten into hone's rows, a fifth of them is set aside by ``hone run``, which does the rest; nothing but
the longest answer of the report is set. Every result is kept in the JSON file as soon as it is there, and the same
command goes on where it was. ``--rows`` takes the first rows of each set alone, and says so in the table.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from side_by_side.page import write_between

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
BEGIN = "<!-- written by benchmarks/preferences.py: begin -->"
END = "<!-- written by benchmarks/preferences.py: end -->"
_HEAD = (
    "| set | method | trained on | held out | base | tuned | difference | tuned, like length (pairs) | longer wins |\n"
    "|---|---|---|---|---|---|---|---|---|\n"
)


def llmbar() -> Iterator[dict[str, Any]]:
    """An instruction and two outputs, of which one follows it (Zeng et al. 2023)."""
    for path in sorted((SHARED / "llmbar").glob("*.json")):
        for row in json.loads(path.read_text(encoding="utf-8")):
            chosen, rejected = ("output_1", "output_2") if row["label"] == 1 else ("output_2", "output_1")
            if row[chosen] != row[rejected]:
                yield {"prompt": row["input"], "chosen": row[chosen], "rejected": row[rejected]}


def hh() -> Iterator[dict[str, Any]]:
    """Dialogues whose last answer people preferred as the less harmful one (Bai et al. 2022)."""
    for path in sorted((SHARED / "hh_rlhf_harmless_600").glob("*.jsonl")):
        yield from (json.loads(line) for line in path.read_text(encoding="utf-8").splitlines())


def oasst() -> Iterator[dict[str, Any]]:
    """Answers of volunteers to one prompt, ranked by volunteers (Koepf et al. 2023)."""
    for line in (SHARED / "oasst_trees_100" / "en_100_tree.jsonl").read_text(encoding="utf-8").splitlines():
        yield from _ranked(json.loads(line)["prompt"], [])


def _ranked(node: dict[str, Any], before: list[dict[str, str]]) -> Iterator[dict[str, Any]]:
    role = "user" if node["role"] == "prompter" else "assistant"
    turns = [*before, {"role": role, "content": node["text"]}]
    replies = node.get("replies") or []
    ranked = [one for one in replies if one.get("rank") is not None]
    if role == "user" and len(ranked) > 1:
        yield {
            "prompt": turns,
            "answers": [[{"role": "assistant", "content": one["text"]}] for one in ranked],
            "ranks": [one["rank"] + 1 for one in ranked],
        }
    for reply in replies:
        yield from _ranked(reply, turns)


SETS = {"llmbar": llmbar, "hh": hh, "oasst": oasst}


def measure(name: str, method: str, *, rows: int | None, home: Path, further: list[str]) -> dict[str, Any]:
    """One ``hone run`` on a set; the figures of its result."""
    data = [row for _, row in zip(range(rows or 10**9), SETS[name](), strict=False)]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"{name}.jsonl"
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in data), encoding="utf-8")
        command = [sys.executable, "-m", "hone", "run", str(path), "--method", method, "--json"]
        run = home / "runs" / f"benchmark-{name}-{method}-{os.getpid()}"
        command += ["--max-new-tokens", "48", "--output", str(run)]
        source = str(Path(__file__).resolve().parents[1] / "src")
        environment = {**os.environ, "HONE_HOME": str(home), "PYTHONPATH": source}
        done = subprocess.run([*command, *further], stdout=subprocess.PIPE, check=False, env=environment)
    if done.returncode not in (0, 3):
        raise SystemExit(f"hone run ended with code {done.returncode}; see above")
    return figures(json.loads(done.stdout), name, method, rows)


def figures(result: dict[str, Any], name: str, method: str, rows: int | None) -> dict[str, Any]:
    """What is kept of the result of a run; of one that was resumed by hand too."""
    evaluation = result["evaluation"]
    kept = ("steps", "seconds", "learning_rate", "epochs", "batch_size", "validation_loss", "tokens_per_second")
    return {
        "set": name,
        "method": method,
        "rows": rows,
        "data": {part: result["data"][part] for part in ("train", "validation", "held_out")},
        "training": {part: result["training"][part] for part in kept},
        "arms": {arm: {part: one[part] for part in ("score", "interval")} for arm, one in evaluation["arms"].items()},
        "difference": evaluation["differences"][0],
        "preferences": evaluation["preferences"],
        "verdict": result["verdict"]["decision"],
        "proof": all(one["holds"] for one in result["proof"]),
        "code": result["code"],
    }


def table(results: list[dict[str, Any]]) -> str:
    """The results as a table of Markdown."""
    lines = []
    for one in results:
        told, arms = one["preferences"], one["arms"]
        low, high = one["difference"]["interval"]
        matched = told["slices"]["length_matched"]
        alike = matched["arms"].get("tuned")
        first = "" if one["rows"] is None else f", first {one['rows']} rows"
        lines.append(
            f"| {one['set']}{first} | {one['method']} | {one['data']['train']} rows | {told['pairs']} pairs | "
            f"{_figure(arms['base'])} | {_figure(arms['tuned'])} | "
            f"{one['difference']['difference']:+.1f} ({low:+.1f} to {high:+.1f}) | "
            f"{_figure(alike) if alike else '-'} ({matched['pairs']}) | {told['longer_is_better']:.1f} |"
        )
    return _HEAD + "\n".join(lines) + "\n"


def _figure(arm: dict[str, Any]) -> str:
    low, high = arm["interval"]
    return f"{arm['score']:.1f} ({low:.1f} to {high:.1f})"


def main() -> None:
    """Measure what is not measured yet, or write the page's table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, required=True, help="file of the results")
    parser.add_argument("--sets", nargs="*", choices=SETS, default=[], help="which sets")
    parser.add_argument("--methods", nargs="*", default=["dpo", "reward"], help="which methods")
    parser.add_argument("--rows", type=int, help="first rows of each set alone")
    parser.add_argument("--home", type=Path, help="hone's home folder; a temporary one unless given")
    parser.add_argument("--page", type=Path, help="page whose table is written anew")
    options, further = parser.parse_known_args()
    results = json.loads(options.json.read_text(encoding="utf-8")) if options.json.exists() else []
    with tempfile.TemporaryDirectory() as temporary:
        home = options.home or Path(temporary)
        for name in options.sets:
            for method in options.methods:
                if any((one["set"], one["method"], one["rows"]) == (name, method, options.rows) for one in results):
                    continue
                results.append(measure(name, method, rows=options.rows, home=home, further=further))
                options.json.write_text(json.dumps(results, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    if results:
        print(table(results))
    if options.page:
        write_between(options.page, BEGIN, END, table(results))


if __name__ == "__main__":
    main()
