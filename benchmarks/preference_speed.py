"""DPO beside TRL with PEFT, on pairs whose prompts are as long as their answers: parity first, then speed and memory.

    python benchmarks/preference_speed.py --json FOLDER/preference_speed.json
    python benchmarks/preference_speed.py --json FOLDER/preference_speed.json --page docs/performance.md

Held equal: weights, the adapter to start from, token ids (running text of the bundled example), the pairs of each step,
beta, AdamW and its rate, clipping, dtype. TRL runs in its default way (all pairs of a step at once, the reference
computed anew in each), and at its best known one (the reference computed before, and its time counted apart, as hone's
is), with all pairs of a step at once and with two at a time; all under bfloat16 autocast, which is TRL's default.
TRL's own collator and loss are called in a plain step, without its trainer's logging and dispatch, which is in its
favour. Every run is a process of its own, A B C ..., C B A ...; a round is one pair of hone with each peer.
What lies under a cosine of 0.99 with the float32 gradient of TRL on eager attention is not timed.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "src")]

from side_by_side.machine import Others, describe  # noqa: E402
from side_by_side.page import write_between  # noqa: E402

BEGIN = "<!-- written by benchmarks/preference_speed.py: begin -->"
END = "<!-- written by benchmarks/preference_speed.py: end -->"
BETA, RATE, MAX_NORM = 0.1, 2e-4, 1.0
PAIRS_PER_STEP, WARMUP, TIMED = 8, 1, 3
SHORTEST, LONGEST = 64, 192
LEAST_COSINE, LOSS_BOUND = 0.99, 0.01
FASTEST = ("hone", "trl best, 2 at once")
SYSTEMS = (*FASTEST, "trl best, 8 at once", "trl default, 8 at once")


def make(folder: Path, model: str, dtype: str | None) -> None:
    """The base in safetensors, both adapters, and the token ids of every step."""
    from hone.model.load import load_base
    from side_by_side.prepare import export

    base = load_base(model, home=folder / "home", device="cpu", dtype=dtype)
    facts = export(base, folder, str(base.dtype).removeprefix("torch."))
    source = random.Random("hone-preference-speed")
    rows = (HERE.parent / "examples" / "support" / "train.jsonl").read_text(encoding="utf-8").splitlines()
    text = "\n".join(one["content"] for row in rows for one in json.loads(row)["messages"])
    running = base.tokenizer.encode(text, add_special_tokens=False)

    def tokens(count: int) -> list[int]:
        start = source.randrange(len(running) - count)
        return running[start : start + count]

    steps = []
    for _ in range(WARMUP + TIMED):
        lengths = [source.randint(SHORTEST, LONGEST) for _ in range(PAIRS_PER_STEP)]
        steps.append([[tokens(length), tokens(length), tokens(length)] for length in lengths])
    (folder / "request.json").write_text(json.dumps({"dtype": facts["dtype"], "steps": steps}), encoding="utf-8")


def hone_side(folder: Path, request: dict[str, Any], adapter: str) -> dict[str, Any]:
    """DPO as ``hone train`` runs it: references before, then the one loop's step."""
    import torch

    from hone.data.answers import AnswerSet, pack_answers
    from hone.engine.optimizer import make_optimizer
    from hone.engine.step import train_step
    from hone.model.adapter_files import load_adapter
    from hone.model.allocator import keep_freed_memory
    from hone.model.load import load_base
    from hone.model.lora import adapter_disabled, adapter_parameters
    from hone.recipe.inference import training_path
    from hone.recipe.preference import PreferenceOptions, preference_objective
    from hone.recipe.references import answer_logprobs
    from hone.types import TokenSequence

    keep_freed_memory()
    base = load_base(str(folder / "model"), home=folder / "home", device="cpu", dtype=request["dtype"])
    load_adapter(base.model, folder / adapter)
    base.model.eval()
    parameters = adapter_parameters(base.model)
    objective = preference_objective(PreferenceOptions("dpo", BETA, 0.0, False))
    forward, path = training_path(base.model)
    steps = []
    for step in request["steps"]:
        sets = []
        for prompt, chosen, rejected in step:
            flags = (False,) * len(prompt) + (True,) * len(chosen)
            sides = [TokenSequence((*prompt, *answer), flags, 1) for answer in (chosen, rejected)]
            sets.append(AnswerSet(tuple(sides), ((0, 1),)))
        steps.append(sets)
    with path:
        started = time.perf_counter()
        flat = [sequence for sets in steps for one in sets for sequence in one.sequences]
        with adapter_disabled(base.model):
            known = iter(answer_logprobs(base.model, flat, forward=forward, max_tokens=2048))
        reference_seconds = time.perf_counter() - started
        optimizer = make_optimizer(parameters, weight_decay=0.0)
        ends, losses, gradients = [time.perf_counter()], [], {}
        for sets in steps:
            with_known = [
                AnswerSet(one.sequences, one.pairs, references=tuple(next(known) for _ in one.sequences))
                for one in sets
            ]
            result = train_step(
                base.model, pack_answers(with_known, max_tokens=2048), forward=forward, objective=objective,
                parameters=list(parameters.values()), optimizer=optimizer, learning_rate=RATE,
                max_gradient_norm=1e9 if adapter == "probe" else MAX_NORM,
            )  # fmt: skip
            ends.append(time.perf_counter())
            losses.append(result.loss)
            if adapter == "probe":
                gradients = {name: one.grad.float().clone() for name, one in parameters.items() if one.grad is not None}
                break
    return _figures(ends, losses, gradients, reference_seconds, torch.get_num_threads())


def trl_trainer(folder: Path, dtype: Any, adapter: str, *, attention: str) -> Any:
    """TRL's trainer on the base with the adapter, in evaluation mode; its reference is the base."""
    from datasets import Dataset
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import DPOConfig, DPOTrainer  # type: ignore[attr-defined]

    base = AutoModelForCausalLM.from_pretrained(folder / "model", dtype=dtype, attn_implementation=attention)
    model = PeftModel.from_pretrained(base, folder / adapter, is_trainable=True)
    tokenizer = AutoTokenizer.from_pretrained(folder / "model")
    row = {"prompt": "a", "chosen": "b", "rejected": "c"}
    arguments = DPOConfig(
        output_dir=str(folder / "trl"), beta=BETA, report_to="none", use_cpu=True, bf16=False, disable_tqdm=True,
        gradient_checkpointing=False,
    )  # fmt: skip
    trainer = DPOTrainer(
        model=model, args=arguments, processing_class=tokenizer, train_dataset=Dataset.from_list([row])
    )
    if "ref" in model.peft_config:
        # TRL keeps a copy of an adapter that is trained further as its reference; here it is the base, as in hone
        model.delete_adapter("ref")
    model.eval()
    return trainer


def trl_side(folder: Path, request: dict[str, Any], adapter: str, *, best: bool, at_once: int, oracle: bool) -> Any:
    """TRL's own loss and collator in a plain step."""
    import torch

    dtype = torch.float32 if oracle else getattr(torch, request["dtype"])
    trainer = trl_trainer(folder, dtype, adapter, attention="eager" if oracle else "sdpa")
    model = trainer.model
    parts = [
        [step[start : start + at_once] for start in range(0, len(step), at_once)]
        for step in request["steps"]
    ]  # fmt: skip
    names = ("prompt_ids", "chosen_ids", "rejected_ids")
    batches = [[trainer.data_collator([dict(zip(names, pair, strict=True)) for pair in part]) for part in step]
               for step in parts]  # fmt: skip
    started = time.perf_counter()
    if best:
        trainer.precompute_ref_logps = True
        for step in batches:
            for batch in step:
                with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
                    chosen, rejected = trainer.compute_ref_log_probs(model, batch)
                batch |= {"ref_chosen_logps": chosen, "ref_rejected_logps": rejected}
    reference_seconds = time.perf_counter() - started
    trained = {name: one for name, one in model.named_parameters() if one.requires_grad}
    optimizer = torch.optim.AdamW(trained.values(), lr=RATE, weight_decay=0.0)
    ends, losses, gradients = [time.perf_counter()], [], {}
    for step in batches:
        optimizer.zero_grad(set_to_none=True)
        total = 0.0
        for batch in step:
            with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
                loss = trainer.compute_loss(model, dict(batch)) / len(step)
            loss.backward()
            total += loss.item()
        if adapter == "probe":
            gradients = {name: one.grad.float().clone() for name, one in trained.items()}
        torch.nn.utils.clip_grad_norm_(trained.values(), MAX_NORM)
        optimizer.step()
        ends.append(time.perf_counter())
        losses.append(total)
        if adapter == "probe":
            break
    return _figures(ends, losses, gradients, reference_seconds, torch.get_num_threads())


def _figures(
    ends: list[float], losses: list[float], gradients: dict[str, Any], reference_seconds: float, threads: int
) -> dict[str, Any]:
    from side_by_side.meter import canonical, peak_rss_bytes

    return {
        "steps": [after - before for before, after in pairwise(ends)],
        "losses": losses,
        "gradients": {canonical(name): one for name, one in gradients.items()},
        "reference_seconds": reference_seconds,
        "peak_rss_bytes": peak_rss_bytes(),
        "threads": threads,
    }


def worker(folder: Path, system: str, adapter: str, out: Path) -> None:
    """One run in this process; its figures, and its gradients beside them."""
    from safetensors.torch import save_file

    request = json.loads((folder / "request.json").read_text(encoding="utf-8"))
    if adapter == "probe":
        request["steps"] = request["steps"][:1]
    if system == "hone":
        found = hone_side(folder, request, adapter)
    else:
        oracle = system == "oracle"
        at_once = PAIRS_PER_STEP if oracle or system.endswith("8 at once") else 2
        found = trl_side(folder, request, adapter, best="best" in system, at_once=at_once, oracle=oracle)
    gradients = found.pop("gradients")
    if gradients:
        save_file({name: tensor.contiguous() for name, tensor in gradients.items()}, out.with_suffix(".safetensors"))
    out.write_text(json.dumps(found), encoding="utf-8")


def run(folder: Path, system: str, adapter: str, threads: int) -> dict[str, Any]:
    """The same in a fresh process."""
    out = folder / f"{system.replace(' ', '-').replace(',', '')}-{adapter}.json"
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, __file__, "--worker", str(folder), system, adapter, str(out)]
    subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL)
    return dict(json.loads(out.read_text(encoding="utf-8"))) | {"gradients": str(out.with_suffix(".safetensors"))}


def least_cosine(one: str, other: str) -> float:
    """The least cosine of any tensor's gradients."""
    import torch
    from safetensors.torch import load_file

    first, second = load_file(one), load_file(other)
    if first.keys() != second.keys():
        raise SystemExit(f"the trained tensors differ: {sorted(first.keys() ^ second.keys())[:4]}")
    return min(
        float(torch.nn.functional.cosine_similarity(first[name].flatten(), second[name].flatten(), dim=0))
        for name in first
    )


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Parity of all systems, then the rounds; what the file of results holds already is not done again."""
    path: Path = options.json
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    found = {"model": options.model, "threads": options.threads, "parity": {}, "rounds": [], **found}

    def keep() -> None:
        path.write_text(json.dumps(found, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")

    if len(found["rounds"]) >= options.rounds:
        return found
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        make(folder, options.model, options.dtype)
        request = json.loads((folder / "request.json").read_text(encoding="utf-8"))
        real = sum(3 * len(prompt) + len(prompt) for step in request["steps"][WARMUP:] for prompt, _, _ in step)
        found |= {"dtype": request["dtype"], "tokens_per_step": real / TIMED, "machine": describe()}
        if set(SYSTEMS) - found["parity"].keys():
            oracle = run(folder, "oracle", "probe", options.threads)
            for system in SYSTEMS:
                one = run(folder, system, "probe", options.threads)
                cosine = least_cosine(one["gradients"], oracle["gradients"])
                losses = {"loss": one["losses"][0], "oracle_loss": oracle["losses"][0]}
                found["parity"][system] = {"cosine": cosine, **losses}
                print(f"{system}: {found['parity'][system]}", file=sys.stderr, flush=True)
            keep()
        timed = [name for name in SYSTEMS if found["parity"][name]["cosine"] >= LEAST_COSINE]
        while len(found["rounds"]) < options.rounds:
            number = len(found["rounds"])
            wanted = timed if number < options.slow_rounds else [name for name in timed if name in FASTEST]
            order = wanted if number % 2 == 0 else wanted[::-1]
            others = Others()
            runs = {name: run(folder, name, "start", options.threads) for name in order}
            found["rounds"].append({**runs, "others_share": others.share()})
            keep()
            told = ", ".join(f"{name} {_step(one):.2f} s" for name, one in runs.items())
            print(f"round {len(found['rounds'])}: {told}", file=sys.stderr, flush=True)
    return found


def _step(one: dict[str, Any]) -> float:
    return float(median(one["steps"][WARMUP:]))


def table(found: dict[str, Any]) -> str:
    """The figures as Markdown: tokens count for each answer, a prompt for both."""
    lines = [
        "| system | rounds | s a step | tokens/s | hone is faster by | reference, s | peak, GB | cosine | last loss |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name in (one for one in SYSTEMS if one in found["rounds"][0]):
        rounds = [one for one in found["rounds"] if name in one]
        seconds = median(_step(one[name]) for one in rounds)
        ratios = sorted(_step(one[name]) / _step(one["hone"]) for one in rounds)
        lines.append(
            f"| {name} | {len(rounds)} | {seconds:.2f} | {found['tokens_per_step'] / seconds:.0f} | "
            f"{median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f}) | "
            f"{median(one[name]['reference_seconds'] for one in rounds):.1f} | "
            f"{max(one[name]['peak_rss_bytes'] for one in rounds) / 1e9:.2f} | "
            f"{found['parity'][name]['cosine']:.4f} | {rounds[0][name]['losses'][-1]:.4f} |"
        )
    rounds = found["rounds"]
    note = (
        f"\n{PAIRS_PER_STEP} pairs a step, prompts and answers of {SHORTEST} to {LONGEST} tokens, {found['dtype']}, "
        f"{found['threads']} threads, {len(rounds)} rounds, {TIMED} steps after {WARMUP} to warm up; other processes "
        f"took at most {max(one['others_share'] or 0.0 for one in rounds):.0%} of the cores.\n"
    )
    return "\n".join(lines) + "\n" + note


def main() -> None:
    """Measure, or do one run as a worker."""
    if sys.argv[1:2] == ["--worker"]:
        folder, system, adapter, out = sys.argv[2:6]
        worker(Path(folder), system, adapter, Path(out))
        return
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, required=True, help="file of the results")
    parser.add_argument("--model", default="smollm2-135m-instruct", help="the base")
    parser.add_argument("--dtype", help="of the weights; hone's choice unless given")
    parser.add_argument("--rounds", type=int, default=5, help="rounds")
    parser.add_argument("--slow-rounds", type=int, default=1, help="rounds of all but hone and TRL at its fastest")
    parser.add_argument("--threads", type=int, default=2, help="of every process")
    parser.add_argument("--page", type=Path, help="page whose table is written anew")
    options = parser.parse_args()
    found = measure(options)
    print(table(found))
    if options.page:
        write_between(options.page, BEGIN, END, table(found))


if __name__ == "__main__":
    main()
