"""Measure how fast answers come: hone's batcher beside transformers' own generate and beside llama.cpp.

    python benchmarks/serving.py --json docs/serving.json --page docs/serving.md \\
        --node-package FOLDER/node_modules/node-llama-cpp --gguf base-f16.gguf

Each system runs in a fresh process, in turn, ``--rounds`` times; a figure is the median of the rounds. The same model,
the same prompts, greedy, answers of the same length, ``--threads`` threads. The adapters are random and of rank 16 on
every linear layer: what they say does not matter to the time. The GGUF is the same base in 16 bits.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from side_by_side.machine import Others, describe

REPOSITORY = Path(__file__).resolve().parent.parent
NODE_SCRIPT = Path(__file__).resolve().parent / "side_by_side" / "llama_cpp_speed.mjs"
EMBEDDED = "smollm2-135m-instruct"
BEGIN, END = "<!-- figures: benchmarks/serving.py -->", "<!-- end of figures -->"
ROWS, RANK = 8, 16
LONG_PROMPT = 1024
QUESTIONS = (
    "Write a short story about a lamp.", "What is the capital of France? Explain.",
    "How do I return an order that came broken?", "Give me three ideas for dinner tonight.",
    "Explain gravity to a child.", "Write a polite email asking for a refund.",
    "What should I pack for a trip to Norway in winter?", "Tell me about the history of paper.",
)  # fmt: skip
Figures = dict[str, float]


def arguments_of(given: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--model", default=EMBEDDED, help="name or folder of the base; the embedded one if not given")
    add("--dtype", choices=("bfloat16", "float32"), default="bfloat16", help="of hone and of transformers")
    add("--rounds", type=int, default=3, help="times that each system runs")
    add("--new-tokens", type=int, default=64, help="length of each answer")
    add("--threads", type=int, default=1, help="of every measured process")
    add("--node-package", type=Path, help="the folder of an installed node-llama-cpp; left out if not given")
    add("--gguf", type=Path, help="the same base as a GGUF, for llama.cpp")
    add("--launcher", default="", help="what each measured process is started with, as: taskset -c 1 chrt -f 10")
    add("--json", type=Path, help="file for all figures")
    add("--page", type=Path, help="Markdown page that receives the tables")
    add("--child", choices=("hone", "transformers", "prompts"), help=argparse.SUPPRESS)
    return parser.parse_args(given)


def seconds_of(work: Callable[[], Any]) -> float:
    """Wall-clock time of one call."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def load(arguments: argparse.Namespace) -> tuple[Any, list[tuple[int, ...]], tuple[int, ...]]:
    """The base, the prompts, and one long prompt."""
    import torch

    from hone.home import hone_home
    from hone.model.load import load_base
    from hone.recipe.inference import make_renderer
    from hone.types import Message

    torch.set_num_threads(arguments.threads)
    base = load_base(arguments.model, home=hone_home(), device="cpu", dtype=arguments.dtype, note=lambda text: None)
    renderer = make_renderer(base, (), max_length=None, note=lambda text: None)
    prompts = [renderer.prompt([Message("user", text)]) for text in QUESTIONS]
    long = renderer.prompt([Message("user", " ".join(QUESTIONS * 20))])[:LONG_PROMPT]
    assert len(long) == LONG_PROMPT
    return base, prompts, long


def measure_hone(arguments: argparse.Namespace) -> Figures:
    """Tokens a second of hone's batcher, its first-token times, and how far a long prompt holds a writing row up."""
    import torch

    from hone.model.adapter_weights import AdapterWeights
    from hone.model.batcher import Batcher
    from hone.model.rows import BatcherLimits, RowRequest
    from hone.model.sampling import SamplingSettings

    base, prompts, long = load(arguments)
    batcher = Batcher(base.model, context_length=base.context_length, limits=BatcherLimits(prefix_bytes=0))
    generator = torch.Generator().manual_seed(0)
    names = [f"adapter {number}" for number in range(ROWS)]
    for name in names:
        layers = {
            layer: (
                (torch.rand(RANK, inner, generator=generator).mul_(2).sub_(1) / inner**0.5).to(base.dtype),
                (torch.randn(outer, RANK, generator=generator) * 0.002).to(base.dtype),
            )
            for layer, (inner, outer) in batcher.widths.items()
        }
        batcher.add_adapter(name, AdapterWeights(RANK, layers))

    def submit(prompt: Sequence[int], adapter: str | None, tokens: int) -> int:
        return batcher.submit(RowRequest(tuple(prompt), (), SamplingSettings(tokens), adapter=adapter))

    def answer(adapters: Sequence[str | None], tokens: int = arguments.new_tokens) -> int:
        for prompt, adapter in zip(prompts, adapters, strict=False):
            submit(prompt, adapter, tokens)
        written = 0
        while not batcher.idle:
            written += len(batcher.step())
        assert written == len(adapters) * tokens
        return written

    def rate(adapters: Sequence[str | None]) -> float:
        answer(adapters, 4)
        return len(adapters) * arguments.new_tokens / seconds_of(lambda: answer(adapters))

    def first_token(prompt: Sequence[int]) -> float:
        def run() -> None:
            submit(prompt, None, 1)
            while not batcher.idle:
                batcher.step()

        run()
        return statistics.median(seconds_of(run) for _ in range(3))

    figures = {"one_row": rate([None]), "one_row_adapter": rate(names[:1]), "all_rows": rate([None] * ROWS)}
    figures["all_rows_one_adapter"] = rate(names[:1] * ROWS)
    figures["all_rows_own_adapters"] = rate(names)
    figures["first_token_seconds"] = first_token(prompts[0])
    figures["first_token_long_seconds"] = first_token(long)

    # a row writes while a long prompt is read beside it
    submit(prompts[0], None, 40)
    alone = [seconds_of(batcher.step) for _ in range(10)]
    submit(long, None, 1)
    beside = [seconds_of(batcher.step) for _ in range(-(-LONG_PROMPT // batcher.limits.chunk_tokens))]
    while not batcher.idle:
        batcher.step()
    figures["gap_alone_seconds"] = statistics.median(alone[1:])
    figures["gap_beside_long_seconds"] = max(beside)
    return figures


def measure_transformers(arguments: argparse.Namespace) -> Figures:
    """The same of ``generate``: one row, and all rows left-padded to one batch."""
    import torch

    base, prompts, long = load(arguments)

    def generate(rows: Sequence[Sequence[int]], tokens: int) -> None:
        longest = max(map(len, rows))
        ids = torch.tensor([[0] * (longest - len(row)) + list(row) for row in rows])
        mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows])
        out = base.model.generate(
            ids, attention_mask=mask, do_sample=False, min_new_tokens=tokens, max_new_tokens=tokens, pad_token_id=0
        )
        assert out.shape[1] == longest + tokens

    def rate(rows: Sequence[Sequence[int]]) -> float:
        generate(rows, 4)
        return len(rows) * arguments.new_tokens / seconds_of(lambda: generate(rows, arguments.new_tokens))

    def first_token(prompt: Sequence[int]) -> float:
        generate([prompt], 1)
        return statistics.median(seconds_of(lambda: generate([prompt], 1)) for _ in range(3))

    return {
        "one_row": rate(prompts[:1]),
        "all_rows": rate(prompts),
        "first_token_seconds": first_token(prompts[0]),
        "first_token_long_seconds": first_token(long),
    }


def child(arguments: argparse.Namespace, given: Sequence[str], name: str) -> Any:
    """What a fresh process of this file prints."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(arguments.threads), "MKL_NUM_THREADS": str(arguments.threads)}
    command = [*arguments.launcher.split(), sys.executable, str(Path(__file__).resolve()), *given, "--child", name]
    done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def measure_node(arguments: argparse.Namespace, prompts: Sequence[Sequence[int]]) -> tuple[Figures, str]:
    """The same of llama.cpp: one row, and all rows as sequences of one context."""
    asked = {
        "package": str(arguments.node_package.resolve()), "model": str(arguments.gguf.resolve()),
        "prompts": list(prompts), "threads": arguments.threads, "newTokens": arguments.new_tokens,
    }  # fmt: skip
    done = subprocess.run(
        [*arguments.launcher.split(), "node", str(NODE_SCRIPT)],
        input=json.dumps(asked),
        check=True,
        capture_output=True,
        text=True,
    )
    found = json.loads(done.stdout.splitlines()[-1])
    rates = {name: found[key]["tokens"] / found[key]["seconds"] for name, key in (("one_row", "oneRow"), ("all_rows", "allRows"))}  # fmt: skip # noqa: E501
    return {**rates, "first_token_seconds": found["firstTokenSeconds"]}, found["runtime"]


def run_all(arguments: argparse.Namespace, given: Sequence[str]) -> dict[str, Any]:
    """All rounds, and the medians."""
    import torch
    import transformers

    rounds: dict[str, list[Figures]] = {"hone": [], "transformers": []}
    runtimes = {"hone": "hone's batcher", "transformers": f"transformers {transformers.__version__} generate"}
    prompts = child(arguments, given, "prompts") if arguments.node_package else []
    others = Others()
    for number in range(arguments.rounds):
        for name in ("transformers", "hone"):
            rounds[name].append(child(arguments, given, name))
        if arguments.node_package:
            figures, runtimes["llama.cpp"] = measure_node(arguments, prompts)
            rounds.setdefault("llama.cpp", []).append(figures)
        sys.stderr.write(f"round {number + 1} of {arguments.rounds}\n")
    medians = {
        name: {figure: statistics.median(one[figure] for one in all_rounds) for figure in all_rounds[0]}
        for name, all_rounds in rounds.items()
    }
    hone = medians["hone"]
    return {
        "machine": describe(), "torch": torch.__version__, "runtimes": runtimes, "dtype": arguments.dtype,
        "model": arguments.model, "threads": arguments.threads, "rounds": arguments.rounds, "rows": ROWS,
        "new_tokens": arguments.new_tokens, "rank": RANK, "others_share": others.share(),
        "launched": f", started with `{arguments.launcher}`" if arguments.launcher else "",
        "adapters_ratio": hone["all_rows_own_adapters"] / hone["all_rows_one_adapter"],
        "medians": medians, "all_rounds": rounds,
    }  # fmt: skip


def tables(found: dict[str, Any]) -> str:
    """The figures as Markdown."""
    medians, hone = found["medians"], found["medians"]["hone"]
    machine = found["machine"]
    features = ", ".join(machine["features"]) or "no special features"
    share = found["others_share"]
    gguf = " (llama.cpp: the same base as a GGUF in 16 bits)" if "llama.cpp" in medians else ""
    lines = [
        f"{machine['system']} {machine['architecture']} ({features}); every process with {found['threads']} "
        f"thread{found['launched']}. torch {found['torch']}, {found['model']} in {found['dtype']}{gguf}."
        f" Greedy answers of {found['new_tokens']} tokens to prompts of about 40; medians "
        f"of {found['rounds']} rounds, in turn"
        + (f"; other processes took {share:.0%} of the machine meanwhile." if share is not None else "."),
        "",
        f"| tokens a second | one row | {found['rows']} rows |",
        "|---|---:|---:|",
    ]
    for name, figures in medians.items():
        lines.append(f"| {found['runtimes'][name]} | {figures['one_row']:.1f} | {figures['all_rows']:.1f} |")
    lines.append(f"| hone, one adapter | {hone['one_row_adapter']:.1f} | {hone['all_rows_one_adapter']:.1f} |")
    lines.append(f"| hone, {found['rows']} adapters, one a row | | {hone['all_rows_own_adapters']:.1f} |")
    lines += [
        "",
        f"{found['rows']} adapters of rank {found['rank']} against one, in the same number of rows: "
        f"**{found['adapters_ratio']:.2f}** of the throughput.",
        "",
        f"| seconds to the first token | prompt of about 40 | prompt of {LONG_PROMPT} |",
        "|---|---:|---:|",
    ]
    for name, figures in medians.items():
        long = figures.get("first_token_long_seconds")
        shown = "" if long is None else f"{long:.2f}"
        lines.append(f"| {found['runtimes'][name]} | {figures['first_token_seconds']:.3f} | {shown} |")
    lines += [
        "",
        f"A row that writes gets a token every {hone['gap_alone_seconds'] * 1000:.0f} ms by itself, and at worst after "
        f"{hone['gap_beside_long_seconds'] * 1000:.0f} ms while a prompt of {LONG_PROMPT} tokens is read beside it.",
    ]
    return "\n".join(lines)


def main() -> None:
    """Measure, or be one of the measured processes."""
    arguments = arguments_of()
    given = sys.argv[1:]
    if arguments.child == "prompts":
        print(json.dumps(load(arguments)[1]))
    elif arguments.child:
        print(json.dumps({"hone": measure_hone, "transformers": measure_transformers}[arguments.child](arguments)))
    else:
        found = run_all(arguments, given)
        if arguments.json:
            arguments.json.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        if arguments.page:
            text = arguments.page.read_text(encoding="utf-8")
            before, _, rest = text.partition(BEGIN)
            page = f"{before}{BEGIN}\n{tables(found)}\n{END}{rest.partition(END)[2]}"
            arguments.page.write_text(page, encoding="utf-8")
        print(tables(found))


if __name__ == "__main__":
    main()
