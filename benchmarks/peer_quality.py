"""What LLaMA-Factory, set by hand, reaches on a task that hone is given with no flag: several seeds of training.

    python benchmarks/peer_quality.py --model FOLDER --task ../shared/tasks/e2e-data-to-text --work FOLDER \
        --llamafactory-python FOLDER/llamafactory/bin/python [--seeds 0 1 2] [--rate 5e-4] [--epochs 3] [--batch 4]

LoRA of rank 16 on all linear layers, on every row of ``train.jsonl``; its own template and its own prediction, greedy;
corpus BLEU and chrF by sacrebleu against the single references of ``eval.jsonl``. ``--model`` is the folder of the
converted base, as ``hone doctor`` names the home folder it lies in. The environment is that of ``speed.py`` with jieba,
nltk and rouge-chinese beside it, which its prediction imports.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import time
from pathlib import Path
from typing import Any

import sacrebleu

# LLaMA-Factory imports torchaudio for rows with sound; where it is not there, an empty module passes.
_START = """
import importlib.util, json, sys, types
from importlib.machinery import ModuleSpec
if importlib.util.find_spec("torchaudio") is None:
    module = types.ModuleType("torchaudio")
    module.__spec__ = ModuleSpec("torchaudio", loader=None)
    sys.modules["torchaudio"] = module
from llamafactory.train.tuner import run_exp
run_exp(json.load(open(sys.argv[1])))
"""


def main() -> None:
    """Train and answer once for each seed; print one line each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="folder of the converted base")
    parser.add_argument("--task", type=Path, required=True, help="folder with train.jsonl and eval.jsonl")
    parser.add_argument("--work", type=Path, required=True, help="folder for what is written")
    parser.add_argument("--llamafactory-python", type=Path, required=True, help="python of its environment")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--rate", type=float, default=5e-4, help="learning rate")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--batch", type=int, default=4, help="rows of a step")
    arguments = parser.parse_args()
    _write_data(arguments.task, arguments.work)
    for seed in arguments.seeds:
        print(json.dumps(_measured(seed, arguments)), flush=True)


def _write_data(task: Path, work: Path) -> None:
    work.mkdir(parents=True, exist_ok=True)
    tags = {"role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant"}
    described = {}
    for part in ("train", "eval"):
        rows = [json.loads(line) for line in (task / f"{part}.jsonl").read_text(encoding="utf-8").splitlines()]
        (work / f"{part}.json").write_text(json.dumps(rows), encoding="utf-8")
        described[part] = {
            "file_name": f"{part}.json",
            "formatting": "sharegpt",
            "columns": {"messages": "messages"},
            "tags": tags,
        }
    (work / "dataset_info.json").write_text(json.dumps(described), encoding="utf-8")


def _measured(seed: int, arguments: argparse.Namespace) -> dict[str, Any]:
    work: Path = arguments.work
    adapter, answers = work / f"adapter-{seed}", work / f"answers-{seed}"
    both = {
        "model_name_or_path": str(arguments.model),
        "stage": "sft",
        "finetuning_type": "lora",
        "dataset_dir": str(work),
        "template": "smollm2",
        "cutoff_len": 1024,
        "bf16": True,
        "use_cpu": True,
        "seed": seed,
        "overwrite_output_dir": True,
        "report_to": "none",
    }
    started = time.perf_counter()
    training = {
        "do_train": True,
        "dataset": "train",
        "lora_target": "all",
        "lora_rank": 16,
        "lora_alpha": 32,
        "learning_rate": arguments.rate,
        "num_train_epochs": arguments.epochs,
        "per_device_train_batch_size": arguments.batch,
        "lr_scheduler_type": "cosine",
        "warmup_ratio": 0.1,
        "output_dir": str(adapter),
        "save_strategy": "no",
    }
    _run(work / f"train-{seed}.json", {**both, **training}, arguments)
    seconds = time.perf_counter() - started
    prediction = {
        "do_predict": True,
        "predict_with_generate": True,
        "adapter_name_or_path": str(adapter),
        "eval_dataset": "eval",
        "do_sample": False,
        "max_new_tokens": 128,
        "per_device_eval_batch_size": 8,
        "output_dir": str(answers),
    }
    _run(work / f"predict-{seed}.json", {**both, **prediction}, arguments)
    lines = (answers / "generated_predictions.jsonl").read_text(encoding="utf-8").splitlines()
    texts = [json.loads(line)["predict"].strip() for line in lines]
    eval_rows = (arguments.task / "eval.jsonl").read_text(encoding="utf-8").splitlines()
    references = [json.loads(line)["messages"][-1]["content"] for line in eval_rows]
    return {
        "seed": seed,
        "rate": arguments.rate,
        "epochs": arguments.epochs,
        "batch": arguments.batch,
        "rows": len(texts),
        "bleu": round(sacrebleu.corpus_bleu(texts, [references]).score, 2),
        "chrf": round(sacrebleu.corpus_chrf(texts, [references]).score, 2),
        "seconds_with_loading": round(seconds),
    }


def _run(path: Path, settings: dict[str, Any], arguments: argparse.Namespace) -> None:
    path.write_text(json.dumps(settings, indent=2), encoding="utf-8")
    with path.with_suffix(".log").open("w", encoding="utf-8") as log:
        command = [str(arguments.llamafactory_python), "-c", _START, str(path)]
        subprocess.run(command, check=True, stdout=log, stderr=subprocess.STDOUT)


if __name__ == "__main__":
    main()
