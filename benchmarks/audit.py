"""How fast, and in how much memory, ``hone data check`` reads: on one core, over generated files.

    python benchmarks/audit.py                    100 MB, three lengths of rows
    python benchmarks/audit.py --megabytes 1000   1 GB: the memory is that of 100 MB
    python benchmarks/audit.py --profile          where the time goes
    python benchmarks/audit.py --table FOLDER     the table of docs/data.md: what is found in the files below FOLDER

Each measurement is a process of its own, so that its peak memory is its own. The rows are chat rows of random words,
with numbers, quotes, line breaks and letters beyond ASCII, as real ones have; 1 in 500 has a fault.
"""

from __future__ import annotations

import argparse
import cProfile
import json
import pstats
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from hone.data.audit.audit import audit_source

COMMON = [
    "the",
    "order",
    "lamp",
    "is",
    "not",
    "on",
    "my",
    "account",
    "was",
    "charged",
    "twice",
    "please",
    "send",
    "a",
    "new",
    "invoice",
    "for",
    "delivery",
    "to",
    "Munich",
    "why",
    "does",
    "über",
    '"quoted"',
    "naïve",
    "42",
    "1999",
    "press",
    "the",
    "button",
    "for",
    "three",
    "seconds",
    "and",
    "wait",
    "until",
    "it",
    "blinks",
    "then",
    "call",
    "us",
    "again",
]
VOCABULARY = 20_000
# What is read rightly as it is says little about a data set.
QUIET = {"table", "json_document", "no_final_newline", "crlf", "bom", "blank_lines"}
MODES = {
    "form": "bytes, JSON and schema",
    "content": "and every text looked through (secrets, debris, refusals)",
    "all": "and rows compared with one another, coverage",
}


# The columns that --map would name, by the folder of the file: (prompt, completion).
COLUMNS = {
    "arc_easy": ("query", "gold"),
    "banking77": ("text", "category"),
    "bitext_customer_support": ("utterance", "intent"),
    "boolq_500": ("query", "gold"),
    "e2e_nlg": ("mr", "ref"),
    "hate_offensive_6000": ("tweet", "class"),
    "llmbar": ("input", "output_1"),
    "mbpp": ("text", "code"),
    "mts_dialog": ("dialogue", "section_text"),
    "nl2bash": ("description", "prediction"),
    "openbookqa": ("query", "gold"),
    "simple_arithmetic": ("context", "continuation"),
    "svamp": ("Question", "Answer"),
    "triviaqa_700": ("context", "answer"),
    "winogrande": ("continuation", "gold"),
}


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=100)
    parser.add_argument("--row-bytes", type=int, nargs="*", default=[300, 1000, 4000])
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--table", type=Path, metavar="FOLDER")
    parser.add_argument("--measure", nargs=2, metavar=("MODE", "FILE"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(*options.measure)))
        return
    if options.table:
        print_table(options.table)
        return
    with tempfile.TemporaryDirectory() as folder:
        for row_bytes in options.row_bytes:
            path = Path(folder) / f"rows{row_bytes}.jsonl"
            rows = generate(path, options.megabytes * 10**6, row_bytes)
            if options.profile:
                profile(path)
                continue
            for mode, what in MODES.items():
                command = [sys.executable, __file__, "--measure", mode, str(path)]
                done = json.loads(subprocess.run(command, capture_output=True, check=True, text=True).stdout)
                assert done["rows"] == rows
                speed = path.stat().st_size / done["seconds"] / 1e6
                print(
                    f"{row_bytes:5} bytes a row  {speed:6.1f} MB/s  {rows / done['seconds']:9.0f} rows/s  "
                    f"{done['peak_bytes'] / 1e6:5.0f} MB at most (+{done['grown_bytes'] / 1e6:.0f})  {mode}: {what}",
                    flush=True,
                )
            path.unlink()


def print_table(folder: Path) -> None:
    """One line a file: rows, what becomes of them, and every code with its count; with columns named where it must."""
    print("| file | columns | rows | kept | found |\n|---|---|---|---|---|")
    for path in sorted(path for kind in ("jsonl", "json", "csv", "tsv") for path in folder.glob(f"*/*.{kind}")):
        columns = COLUMNS.get(path.parent.name)
        mapping = dict(zip(("prompt", "completion"), columns, strict=True)) if columns else None
        report = audit_source(str(path), mapping=mapping)
        totals = report.to_json()["totals"]
        found = ", ".join(f"{code} {count:,}" for code, count in totals.items() if code not in QUIET) or "nothing"
        name = f"{path.parent.name}/{path.name}"
        shape = " → ".join(columns) if columns else report.format or "none"
        print(f"| {name} | {shape} | {report.rows:,} | {report.kept:,} | {found} |", flush=True)


def generate(path: Path, size: int, row_bytes: int) -> int:
    """Write a file of about ``size`` bytes; the number of its rows."""
    rng = random.Random(0)
    letters = "aeiourstlnmdpbkg"
    rare = ["".join(rng.choices(letters, k=rng.randint(3, 9))) for _ in range(VOCABULARY)]
    rows = written = 0
    with path.open("w", encoding="utf-8") as stream:
        while written < size:
            turns = []
            for role, share in (("user", 0.4), ("assistant", 0.6)):
                count = max(2, int(row_bytes * share * rng.uniform(0.5, 1.5) / 6))
                turns.append({"role": role, "content": _text(rng, rare, count) + rng.choice(("", "\n", "."))})
            if rows % 500 == 499:
                turns[1]["content"] = ""
            line = json.dumps({"messages": turns}, ensure_ascii=False) + "\n"
            stream.write(line)
            written += len(line)
            rows += 1
    return rows


def _text(rng: random.Random, rare: list[str], count: int) -> str:
    return " ".join(rng.choice(COMMON) if rng.random() < 0.5 else rng.choice(rare) for _ in range(count))


def measure(mode: str, path: str) -> dict[str, float]:
    """Audit a file once: seconds, rows, and the most memory this process has had, before and after."""
    before = peak_bytes()
    begun = time.perf_counter()
    report = audit_source(path, content=mode != "form", compare=mode == "all")
    seconds = time.perf_counter() - begun
    return {"seconds": seconds, "rows": report.rows, "peak_bytes": peak_bytes(), "grown_bytes": peak_bytes() - before}


def peak_bytes() -> int:
    """The most memory that this process has had (the system counts in kilobytes, macOS in bytes)."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def profile(path: Path) -> None:
    """Print where the time goes: of the form checks, then with the texts looked through."""
    for content in (False, True):
        profiler = cProfile.Profile()
        profiler.runcall(audit_source, str(path), content=content, compare=False)
        pstats.Stats(profiler).sort_stats("tottime").print_stats(12)


if __name__ == "__main__":
    main()
