"""hone as ``hone train`` runs it: the same loading, the same path, the same loop; only the rows' order is given."""

from __future__ import annotations

import sys
from contextlib import nullcontext
from pathlib import Path

import torch

import hone.data.pack as pack_module
import hone.model.attention as attention_module
import hone.model.forward as forward_module
import hone.recipe.inference as inference_module
from hone.data.pack import plan_steps, shared_length
from hone.engine.events import Event
from hone.engine.loop import LoopSettings, train
from hone.model.adapter_files import load_adapter
from hone.model.allocator import keep_freed_memory
from hone.model.fast_layers import FastLayers
from hone.model.load import load_base
from hone.model.lora import adapter_parameters
from hone.model.machine import available_device_bytes
from hone.objective.supervised import supervised_loss
from hone.planning.choose import Facts, Given, MethodRules, choose_training
from hone.recipe.inference import training_path
from hone.types import TokenSequence
from side_by_side.meter import Meter
from side_by_side.spec import IGNORED_LABEL, Spec, Workload

_SEED = 0
_NO_FAST_LAYERS = FastLayers(0, 0, 0, ("switched off",))


class _Clock:
    """A recorder that reads the clock at each step's event."""

    def __init__(self, meter: Meter, parameters: dict[str, torch.nn.Parameter]) -> None:
        self._meter, self._parameters = meter, parameters

    def record(self, event: Event) -> None:
        """Take one event; a step's gradients are still there when it comes."""
        if event.kind == "step":
            self._meter.step_ended()
            self._meter.losses.append(event.data["loss"])
            self._meter.take_gradients(self._parameters.items())


def sequences_of(workload: Workload, steps: int) -> list[TokenSequence]:
    """The rows, laid so that hone's own order of the seed meets them step by step as the workload has them."""
    count = steps * workload.rows_per_step
    placed: list[TokenSequence | None] = [None] * count
    order = plan_steps(count, batch_size=workload.rows_per_step, epochs=1, seed=_SEED)
    for place, position in enumerate(index for _, _, indices in order for index in indices):
        flags = tuple(label != IGNORED_LABEL for label in workload.labels[place])
        placed[position] = TokenSequence(tuple(workload.ids[place]), flags, place + 1)
    return [sequence for sequence in placed if sequence is not None]


def switch_off(part: str | None) -> None:
    """Put one part of the engine off in this process.

    Raises:
        KeyError: there is no such part.
    """
    if part is None:
        return
    module, name, value = {
        "shared_prefixes": (pack_module, "_MIN_SHARED_TOKENS", 1 << 60),
        "fast_layers": (inference_module, "fast_layers_enabled", lambda model: nullcontext(_NO_FAST_LAYERS)),
        "chunked_head": (forward_module, "find_output_head", lambda model: None),
        "attention_products": (attention_module, "_BY_PRODUCTS", frozenset()),
        "kept_memory": (sys.modules[__name__], "keep_freed_memory", lambda: False),
    }[part]
    if not hasattr(module, name):
        raise KeyError(f"{module.__name__} has no {name}; the table of parts is out of date")
    setattr(module, name, value)


def run(spec: Spec, workload: Workload, meter: Meter) -> None:
    """Train for ``spec.steps`` steps. Settings: ``path``, keyword arguments of ``training_path``; ``off``, a part."""
    switch_off(spec.settings.get("off"))
    keep_freed_memory()
    base = load_base(spec.model, home=Path(spec.scratch), dtype=spec.dtype, note=meter.notes.append)
    load_adapter(base.model, Path(spec.adapter))
    parameters = adapter_parameters(base.model)
    sequences = sequences_of(workload, spec.steps)
    shape = base.model.config.get_text_config()
    facts = Facts(
        num_parameters=sum(parameter.numel() for parameter in base.model.parameters()),
        num_layers=shape.num_hidden_layers, width=shape.hidden_size, context_length=base.context_length,
        row_lengths=[len(sequence.ids) for sequence in sequences],
        available_bytes=available_device_bytes(base.device), bytes_per_value=base.model.dtype.itemsize,
        shared_tokens=shared_length(sequences), on_card=base.on_card,
    )  # fmt: skip
    choices = choose_training(facts, Given(), MethodRules())
    settings = LoopSettings(
        batch_size=workload.rows_per_step, epochs=1, max_steps=None, learning_rate=spec.learning_rate,
        warmup_share=0.0, weight_decay=0.0, max_gradient_norm=spec.max_gradient_norm,
        micro_batch_tokens=choices.micro_batch_tokens, seed=_SEED, evaluate_every_steps=10**9, patience=None,
        save_every_steps=None, keep_checkpoints=1,
    )  # fmt: skip
    meter.flags = {
        "weights": spec.dtype,
        "adapter": str(next(iter(parameters.values())).dtype).removeprefix("torch."),
        "micro_batch_tokens": choices.micro_batch_tokens,
        "training_path": spec.settings["path"],
    }
    base.model.eval()  # as the recipe does: no dropout
    forward, context = training_path(base.model, **spec.settings["path"])
    with context:
        train(
            base.model, sequences, parameters=parameters, forward=forward, objective=supervised_loss,
            settings=settings, evaluate=None, recorder=_Clock(meter, parameters),
            checkpoints=Path(spec.scratch) / "checkpoints",
        )  # fmt: skip
    meter.take_adapter(parameters.items())
