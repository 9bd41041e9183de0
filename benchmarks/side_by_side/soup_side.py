"""soup-cli on rows that are tokenized already, in an environment of its own.

Its trainer is built by its own wrapper from its own config. What the config cannot say is set on the trainer before it
starts: the adapter's first numbers, and that rows come in the order given.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from safetensors.torch import load_file
from soup_cli.config.schema import SoupConfig
from soup_cli.trainer.sft import SFTTrainerWrapper

from side_by_side.meter import Meter, canonical
from side_by_side.spec import Spec, Workload
from side_by_side.trainer_clock import TrainerClock, held_equal, table_of


def config_of(spec: Spec, workload: Workload) -> dict[str, Any]:
    """What would stand in its YAML file, paths left out."""
    equal = held_equal(spec, workload)
    training = {
        "epochs": 1,
        "lr": spec.learning_rate,
        "batch_size": equal["per_device_train_batch_size"],
        "gradient_accumulation_steps": equal["gradient_accumulation_steps"],
        "warmup_ratio": 0.0,
        "weight_decay": 0.0,
        "max_grad_norm": spec.max_gradient_norm,
        "optimizer": "adamw_torch",
        "scheduler": "linear",
        "logging_steps": 1,
        "save_steps": 1_000_000,
        "quantization": "none",
        "lora": {"r": 16, "alpha": 32, "dropout": 0.0, "target_modules": _target_modules(spec)},
        **spec.settings["training"],
    }
    longest = max(len(ids) for ids in workload.ids)
    return {
        "task": "sft",
        "data": {"format": "pre_tokenized", "max_length": max(longest, 64), "val_split": 0.0},
        "training": training,
    }


def _target_modules(spec: Spec) -> list[str]:
    tensors = load_file(Path(spec.adapter) / "adapter_model.safetensors")
    return sorted({canonical(name).rpartition(".lora_")[0].rpartition(".")[2] for name in tensors})


def start_from(model: torch.nn.Module, adapter: Path) -> None:
    """Copy the exported adapter into the one that soup-cli drew by itself."""
    start = {canonical(name): tensor for name, tensor in load_file(adapter / "adapter_model.safetensors").items()}
    own = {canonical(name): parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    if set(own) != set(start):
        raise SystemExit(f"its adapter has other layers: {sorted(set(own) ^ set(start))[:4]}")
    with torch.no_grad():
        for name, parameter in own.items():
            parameter.copy_(start[name])


def run(spec: Spec, workload: Workload, meter: Meter) -> None:
    """Train for ``spec.steps`` steps.

    Settings: ``training``, entries of the config beside those held equal; ``micro_tokens``, ``longest_first``.
    """
    scratch = Path(spec.scratch)
    os.chdir(scratch)  # it takes data and output from below the working folder alone
    tokenized = scratch / "tokenized"
    Dataset.from_dict(table_of(spec, workload)).save_to_disk(tokenized)
    config = config_of(spec, workload)
    data = {**config["data"], "train": "tokenized", "tokenized_path": "tokenized"}
    whole = SoupConfig(**{**config, "base": spec.model, "output": "output", "data": data})
    wrapper = SFTTrainerWrapper(whole, device="cpu")
    wrapper.setup({"train": []})
    trainer = wrapper.trainer
    trainer.args.train_sampling_strategy = "sequential"
    trainer.args.max_steps = spec.steps
    start_from(trainer.model, Path(spec.adapter))
    trainer.add_callback(TrainerClock(meter))
    meter.flags = {"training": config["training"]}
    trainer.train()
