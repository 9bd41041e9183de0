"""LLaMA-Factory on rows that are tokenized already, in an environment of its own.

It imports torchaudio at its top for rows with sound. Where that is not installed, an empty module of the name is put
in its place; no row here has sound. Neither torchvision nor torchaudio need be there.
"""

from __future__ import annotations

import importlib.util
import sys
import types
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

from datasets import Dataset, DatasetDict

from side_by_side.meter import Meter
from side_by_side.spec import Spec, Workload
from side_by_side.trainer_clock import TrainerClock, held_equal, table_of


def stand_in_for_torchaudio(meter: Meter) -> None:
    """Let ``import torchaudio`` pass where there is none; said in the flags."""
    if importlib.util.find_spec("torchaudio") is None:
        module = types.ModuleType("torchaudio")
        module.__spec__ = ModuleSpec("torchaudio", loader=None)
        sys.modules["torchaudio"] = module
        meter.notes.append("an empty module stood in for torchaudio")


def arguments_of(spec: Spec, workload: Workload) -> dict[str, Any]:
    """What would stand in its YAML file, paths left out."""
    equal = held_equal(spec, workload)
    return {
        "stage": "sft",
        "do_train": True,
        "finetuning_type": "lora",
        "template": "default",
        "dataset": "tokenized",  # must be named, and is not looked at where tokenized_path holds rows
        "trust_remote_code": False,
        "disable_shuffling": True,
        "overwrite_output_dir": True,
        **{name: value for name, value in equal.items() if name != "output_dir"},
        **spec.settings["arguments"],
    }


def run(spec: Spec, workload: Workload, meter: Meter) -> None:
    """Train for ``spec.steps`` steps.

    Settings: ``arguments`` beside those held equal; ``micro_tokens``, ``longest_first``.
    """
    stand_in_for_torchaudio(meter)
    from llamafactory.train.tuner import run_exp

    tokenized = Path(spec.scratch) / "tokenized"
    DatasetDict({"train": Dataset.from_dict(table_of(spec, workload))}).save_to_disk(tokenized)
    arguments = arguments_of(spec, workload)
    places = {
        "model_name_or_path": spec.model,
        "adapter_name_or_path": spec.adapter,
        "tokenized_path": str(tokenized),
        "output_dir": str(Path(spec.scratch) / "output"),
    }
    meter.flags = {"arguments": spec.settings["arguments"]}
    run_exp({**arguments, **places}, callbacks=[TrainerClock(meter)])
