"""The clock for everything that runs on transformers' Trainer: TRL, LLaMA-Factory, soup-cli."""

from __future__ import annotations

from typing import Any

from transformers import TrainerCallback

from side_by_side.meter import Meter
from side_by_side.spec import Spec, Workload


class TrainerClock(TrainerCallback):
    """Reads the clock at the end of each optimizer step, and keeps what the Trainer logs."""

    def __init__(self, meter: Meter) -> None:
        self._meter = meter

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        """Note what the peer made of its settings."""
        dtypes = {parameter.requires_grad: parameter.dtype for parameter in model.parameters()}
        self._meter.flags |= {
            "weights": str(dtypes.get(False)).removeprefix("torch."),
            "adapter": str(dtypes.get(True)).removeprefix("torch."),
            "autocast": bool(args.bf16),
            "recompute": bool(getattr(model, "is_gradient_checkpointing", False)),
            "attention": model.config._attn_implementation,
            "micro_batch_rows": args.per_device_train_batch_size,
            "accumulation": args.gradient_accumulation_steps,
        }

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        """Take the whole first step's gradients, micro-batches accumulated; the bound of gates clips nothing."""
        if state.global_step == 0:
            self._meter.take_gradients(model.named_parameters())

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Note the time."""
        self._meter.step_ended()

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        """Keep the loss of a step."""
        if logs and "loss" in logs:
            self._meter.losses.append(float(logs["loss"]))

    def on_train_end(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        """Keep the trained adapter."""
        self._meter.take_adapter(model.named_parameters())


def held_equal(spec: Spec, workload: Workload) -> dict[str, Any]:
    """Trainer arguments that are no setting of the peer's but part of the protocol."""
    micro_rows = workload.micro_rows(spec.settings.get("micro_tokens"))
    return {
        "output_dir": spec.scratch,
        "max_steps": spec.steps,
        "per_device_train_batch_size": micro_rows,
        "gradient_accumulation_steps": workload.rows_per_step // micro_rows,
        "learning_rate": spec.learning_rate,
        "lr_scheduler_type": "linear",
        "warmup_steps": 0,
        "weight_decay": 0.0,
        "max_grad_norm": spec.max_gradient_norm,
        "optim": "adamw_torch",
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": True,
    }


def table_of(spec: Spec, workload: Workload) -> dict[str, list[list[int]]]:
    """Columns of a data set with the workload's rows in the order of training."""
    order = workload.in_order(steps=spec.steps, longest_first=bool(spec.settings.get("longest_first")))
    return {
        "input_ids": [workload.ids[row] for row in order],
        "attention_mask": [[1] * len(workload.ids[row]) for row in order],
        "labels": [workload.labels[row] for row in order],
    }
