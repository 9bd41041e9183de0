"""TRL's SFTTrainer with PEFT, on rows that are tokenized already."""

from __future__ import annotations

import torch
from datasets import Dataset
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import SFTConfig, SFTTrainer  # type: ignore[attr-defined]

from side_by_side.meter import Meter
from side_by_side.spec import Spec, Workload
from side_by_side.trainer_clock import TrainerClock, held_equal, table_of


def run(spec: Spec, workload: Workload, meter: Meter) -> None:
    """Train for ``spec.steps`` steps.

    Settings: ``arguments`` of SFTConfig beside those held equal; ``weights``, their dtype where it is not the compute
    dtype (SFTTrainer loads float32 where it is given a name and nothing else); ``micro_tokens``, ``longest_first``.
    """
    weights = spec.settings.get("weights", spec.dtype)
    own = dict(spec.settings["arguments"])
    if spec.dtype == "float32":
        own["bf16"] = False  # the compute dtype is held equal
    arguments = {**held_equal(spec, workload), "train_sampling_strategy": "sequential", "max_length": None, **own}
    base = AutoModelForCausalLM.from_pretrained(spec.model, dtype=getattr(torch, weights))
    model = PeftModel.from_pretrained(base, spec.adapter, is_trainable=True)
    table = table_of(spec, workload)
    rows = Dataset.from_dict({name: table[name] for name in ("input_ids", "labels")})
    config = SFTConfig(**arguments)
    trainer = SFTTrainer(
        model=model,
        args=config,
        train_dataset=rows,
        processing_class=AutoTokenizer.from_pretrained(spec.model),
        callbacks=[TrainerClock(meter)],
    )
    meter.flags = {"arguments": own}
    trainer.train()
