"""The plain loop that many people write: transformers, PEFT, padded batches, AdamW. Also the float32 eager oracle."""

from __future__ import annotations

from contextlib import nullcontext

import torch
from peft import PeftModel
from torch import Tensor
from transformers import AutoModelForCausalLM

from side_by_side.meter import Meter
from side_by_side.spec import IGNORED_LABEL, Spec, Workload


def padded(workload: Workload, rows: list[int]) -> dict[str, Tensor]:
    """Right-padded ids, mask and labels of ``rows``."""
    longest = max(len(workload.ids[row]) for row in rows)
    ids = torch.zeros(len(rows), longest, dtype=torch.long)
    mask = torch.zeros_like(ids)
    labels = torch.full_like(ids, IGNORED_LABEL)
    for place, row in enumerate(rows):
        length = len(workload.ids[row])
        ids[place, :length] = torch.tensor(workload.ids[row])
        labels[place, :length] = torch.tensor(workload.labels[row])
        mask[place, :length] = 1
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def run(spec: Spec, workload: Workload, meter: Meter) -> None:
    """Train for ``spec.steps`` steps.

    Settings: ``micro_tokens`` of one forward pass, padding included (all of a step where absent), ``longest_first``,
    ``attention``, ``autocast`` (bfloat16, over weights that are bfloat16 already).
    """
    settings = spec.settings
    dtype = getattr(torch, spec.dtype)
    attention = settings.get("attention", "sdpa")
    micro_rows = workload.micro_rows(settings.get("micro_tokens"))
    base = AutoModelForCausalLM.from_pretrained(spec.model, dtype=dtype, attn_implementation=attention)
    model = PeftModel.from_pretrained(base, spec.adapter, is_trainable=True)
    model.train()
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trainable, lr=spec.learning_rate, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda done: 1 - done / spec.steps)
    meter.flags = {
        "weights": spec.dtype,
        "adapter": str(trainable[0].dtype).removeprefix("torch."),
        "attn_implementation": attention,
        "micro_batch_rows": micro_rows,
        "longest_first": bool(settings.get("longest_first")),
        "autocast": bool(settings.get("autocast")) and spec.dtype == "bfloat16",
    }
    autocast = bool(settings.get("autocast")) and dtype is torch.bfloat16
    precision = torch.autocast("cpu", dtype) if autocast else nullcontext()
    order = workload.in_order(steps=spec.steps, longest_first=bool(settings.get("longest_first")))
    for step in range(spec.steps):
        rows = [order[place] for place in workload.rows_of(step)]
        supervised, loss_of_step = workload.supervised(step), 0.0
        for start in range(0, len(rows), micro_rows):
            batch = padded(workload, rows[start : start + micro_rows])
            with precision:
                loss = model(**batch, num_items_in_batch=supervised, use_cache=False).loss
            loss.backward()
            loss_of_step += loss.item()
        if step == 0:
            meter.take_gradients(model.named_parameters())
        torch.nn.utils.clip_grad_norm_(trainable, spec.max_gradient_norm)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        meter.losses.append(loss_of_step)
        meter.step_ended()
    meter.take_adapter(model.named_parameters())
