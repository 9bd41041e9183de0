"""How fast rollouts are written: hone's generator beside transformers' generate, on the model with its adapter.

    python benchmarks/rollouts.py --json FOLDER/rollouts.json [--page docs/performance.md]

A step of reinforcement learning as hone takes it: 8 prompts, 8 answers to each, drawn at temperature 1 from the whole
vocabulary, every answer of the same length. Both start from the same weights and the same adapter, which is not merged,
because it is trained. transformers gets the prompts once, padded on the left, with ``num_return_sequences``; that is
how TRL writes rollouts without a server. Before anything is timed, a greedy answer of both has to be the same in
float32. Every run is a process of its own, in turn; a round is one pair.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "src")]

from side_by_side.machine import Others, describe  # noqa: E402
from side_by_side.page import write_between  # noqa: E402

BEGIN = "<!-- written by benchmarks/rollouts.py: begin -->"
END = "<!-- written by benchmarks/rollouts.py: end -->"
SYSTEMS = ("hone", "transformers")
PROMPTS, SAMPLES, COMPARED = 8, 8, 24


def make(folder: Path, model: str, dtype: str | None, tokens: int) -> None:
    """The base in safetensors, an adapter that does something, and the prompts."""
    from hone.model.load import load_base
    from hone.recipe.inference import make_renderer
    from hone.types import Message
    from side_by_side.prepare import export

    base = load_base(model, home=folder / "home", device="cpu", dtype=dtype)
    renderer = make_renderer(base, (), max_length=None, note=lambda text: None)
    lines = (HERE.parent / "examples" / "support" / "train.jsonl").read_text(encoding="utf-8").splitlines()[:PROMPTS]
    turns = [[one for one in json.loads(line)["messages"] if one["role"] != "assistant"] for line in lines]
    prompts = [renderer.prompt([Message(one["role"], one["content"]) for one in row]) for row in turns]
    facts = export(base, folder, str(base.dtype).removeprefix("torch."))
    request = {"dtype": facts["dtype"], "prompts": prompts, "tokens": tokens, "pad": renderer.stop_ids[0]}
    (folder / "request.json").write_text(json.dumps(request), encoding="utf-8")


def hone_side(folder: Path, request: dict[str, Any], *, greedy: bool) -> Any:
    """Seconds of a step's rollouts; or the tokens of greedy answers."""
    from hone.model.adapter_files import load_adapter
    from hone.model.generate import SamplingSettings, generate
    from hone.model.load import load_base

    dtype = "float32" if greedy else request["dtype"]
    base = load_base(str(folder / "model"), home=folder / "home", device="cpu", dtype=dtype)
    load_adapter(base.model, folder / "probe")
    base.model.eval()
    prompts = [tuple(one) for one in request["prompts"]]
    if greedy:
        found = generate(base.model, prompts, stop_ids=(), settings=SamplingSettings(COMPARED))
        return [list(one.ids) for one in found]

    def write(tokens: int) -> None:
        asked = [one for one in prompts for _ in range(SAMPLES)]
        settings = SamplingSettings(max_new_tokens=tokens, temperature=1.0)
        found = generate(base.model, asked, stop_ids=(), seeds=list(range(len(asked))), settings=settings)
        assert all(len(one.ids) == tokens for one in found)

    return _seconds(write, request["tokens"])


def transformers_side(folder: Path, request: dict[str, Any], *, greedy: bool) -> Any:
    """The same of PEFT's model and transformers' generate."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    dtype = torch.float32 if greedy else getattr(torch, request["dtype"])
    base = AutoModelForCausalLM.from_pretrained(folder / "model", dtype=dtype, attn_implementation="sdpa")
    model = PeftModel.from_pretrained(base, folder / "probe")
    model.eval()
    longest = max(map(len, request["prompts"]))
    ids = torch.tensor([[request["pad"]] * (longest - len(one)) + one for one in request["prompts"]])
    mask = torch.tensor([[0] * (longest - len(one)) + [1] * len(one) for one in request["prompts"]])

    def write(tokens: int, **how: Any) -> Any:
        with torch.no_grad():
            out = model.generate(
                input_ids=ids, attention_mask=mask, max_new_tokens=tokens, min_new_tokens=tokens, eos_token_id=None,
                pad_token_id=request["pad"], **how,
            )  # fmt: skip
        assert out.shape[1] == longest + tokens
        return out[:, longest:]

    if greedy:
        return write(COMPARED, do_sample=False).tolist()
    drawn = {"do_sample": True, "temperature": 1.0, "top_k": 0, "top_p": 1.0, "num_return_sequences": SAMPLES}
    return _seconds(lambda tokens: write(tokens, **drawn), request["tokens"])


def _seconds(write: Any, tokens: int) -> float:
    write(4)
    started = time.perf_counter()
    write(tokens)
    return time.perf_counter() - started


def run(folder: Path, system: str, threads: int, *, greedy: bool = False) -> Any:
    """What one run in a fresh process finds."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, __file__, "--worker", str(folder), system, "greedy" if greedy else "timed"]
    done = subprocess.run(command, check=True, env=environment, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Parity, then the rounds."""
    import transformers

    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        make(folder, options.model, options.dtype, options.tokens)
        request = json.loads((folder / "request.json").read_text(encoding="utf-8"))
        hone, peer = (run(folder, system, options.threads, greedy=True) for system in SYSTEMS)
        if hone != peer:
            raise SystemExit("greedy answers differ in float32: nothing is timed")
        others, rounds = Others(), []
        for number in range(options.rounds):
            order = SYSTEMS if number % 2 == 0 else SYSTEMS[::-1]
            rounds.append({system: run(folder, system, options.threads) for system in order})
            print(f"round {number + 1}: {rounds[-1]}", file=sys.stderr, flush=True)
        return {
            "machine": describe(), "transformers": transformers.__version__, "dtype": request["dtype"],
            "model": options.model, "threads": options.threads, "tokens": options.tokens,
            "prompt_tokens": sum(map(len, request["prompts"])), "seconds": rounds, "others_share": others.share(),
        }  # fmt: skip


def table(found: dict[str, Any]) -> str:
    """The figures as Markdown."""
    written = PROMPTS * SAMPLES * found["tokens"]
    ratios = sorted(one["transformers"] / one["hone"] for one in found["seconds"])
    lines = ["| system | tokens/s | seconds |", "|---|---|---|"]
    for system in SYSTEMS:
        seconds = median(one[system] for one in found["seconds"])
        lines.append(f"| {system} | {written / seconds:.0f} | {seconds:.1f} |")
    share = found["others_share"]
    return "\n".join([
        *lines,
        "",
        f"hone is faster by {median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f}, {len(ratios)} rounds).",
        "",
        f"{PROMPTS} prompts ({found['prompt_tokens']} tokens), {SAMPLES} answers of {found['tokens']} tokens to each, "
        f"{found['dtype']}, {found['threads']} threads, transformers {found['transformers']}; greedy answers of "
        f"{COMPARED} tokens are the same in float32"
        + (f"; other processes took {share:.0%} of the machine meanwhile." if share is not None else "."),
    ])  # fmt: skip


def main() -> None:
    """Measure, or do one run as a worker."""
    if sys.argv[1:2] == ["--worker"]:
        folder, system, kind = sys.argv[2:5]
        request = json.loads((Path(folder) / "request.json").read_text(encoding="utf-8"))
        side = hone_side if system == "hone" else transformers_side
        print(json.dumps(side(Path(folder), request, greedy=kind == "greedy")))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, required=True, help="file of the results")
    parser.add_argument("--model", default="smollm2-135m-instruct", help="the base")
    parser.add_argument("--dtype", help="of the weights; hone's choice unless given")
    parser.add_argument("--tokens", type=int, default=64, help="of each answer")
    parser.add_argument("--rounds", type=int, default=5, help="rounds")
    parser.add_argument("--threads", type=int, default=2, help="of every process")
    parser.add_argument("--page", type=Path, help="page whose table is written anew")
    options = parser.parse_args()
    if not options.json.exists():
        options.json.write_text(json.dumps(measure(options), ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    found = json.loads(options.json.read_text(encoding="utf-8"))
    print(table(found))
    if options.page:
        write_between(options.page, BEGIN, END, table(found) + "\n")


if __name__ == "__main__":
    main()
