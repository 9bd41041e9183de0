"""Whole trainings with nothing wrong with them: every invariant of each, so that a false alarm would show.

python -m tests.proof.clean_runs 200     as docs/proof.md reports it; some minutes on a core
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
from collections import Counter
from pathlib import Path

import torch

from hone.data.render import Renderer
from hone.engine.events import Event
from hone.engine.loop import LoopSettings, train
from hone.model.adapter_files import load_adapter, save_adapter
from hone.model.fused_lora import fuse_adapted_layers
from hone.model.generate import SamplingSettings, generate
from hone.model.lora import adapter_parameters, attach_adapter
from hone.model.low_rank import LowRankAdaptation
from hone.objective.supervised import supervised_loss
from hone.proof.invariant import Invariant, described
from hone.proof.memory import check_memory
from hone.proof.postflight import (
    check_merged,
    check_probe,
    check_stops,
    check_training,
    probe_sequences,
    stored_rows_logprobs,
    write_probe,
)
from hone.proof.preflight import check_model
from hone.proof.rows import check_rows
from hone.recipe.inference import training_path
from hone.recipe.proving import probe_files, reproduce
from hone.types import Example, Message
from tests.tiny import FAMILIES, tiny_model, tiny_tokenizer

_THINGS = ("lamp", "order", "garden", "bell", "letter", "river", "ladder", "window", "engine", "coat")
_ANSWERS = ("is on the way", "is lit", "waits", "is lost", "stands by the door")
# Enough to learn the end of an answer: invariant 12 measures the training, too, and may fail for a good cause.
_EPOCHS = 40


class _Unheard:
    def record(self, event: Event) -> None:
        """Nothing is kept."""


def rows_of(seed: int) -> tuple[list[Example], list[Example]]:
    """Training and held-out rows, drawn from ``seed``: with a system prompt or without, some with two turns."""
    draw = random.Random(seed)
    numbers = draw.sample(range(100, 1000), 14)
    shared = draw.random() < 0.5
    rows = []
    for row, number in enumerate(numbers, start=1):
        thing = draw.choice(_THINGS)
        turns = [Message("system", "answer in a few words, and only about the house")] if shared else []
        turns.append(Message("user", f"where is the {thing} of house {number}" + " now" * draw.randrange(6) + "?"))
        turns.append(Message("assistant", f"the {thing} {_ANSWERS[len(thing) % 5]}", supervised=True))
        if draw.random() < 0.3:
            turns.append(Message("user", f"and {number * 3} days later?"))
            turns.append(Message("assistant", "it is gone", supervised=True))
        rows.append(Example(tuple(turns), row=row, line=row, source="rows.jsonl"))
    return rows[:10], rows[10:]


def clean_run(seed: int, folder: Path) -> tuple[str, list[Invariant]]:
    """One training from seed to merged weights, and what was measured on the way.

    Args:
        seed: of weights, rows, adapter and order; it also says which family and which type.
        folder: receives the adapter and the probes.

    Returns:
        What ran, in words, and all invariants, the loader's probe among them.
    """
    family, dtype = FAMILIES[seed % len(FAMILIES)], (torch.float32, torch.bfloat16)[seed // len(FAMILIES) % 2]
    renderer = Renderer(tiny_tokenizer(), max_length=256)
    training, held_out = rows_of(seed)
    sequences = [sequence for example in training for sequence in renderer.render(example).sequences]
    model = tiny_model(family, seed).to(dtype)
    attach_adapter(model, rank=8, alpha=16.0, seed=seed)
    parameters = adapter_parameters(model)
    settings = LoopSettings(
        batch_size=4, epochs=_EPOCHS, max_steps=None, learning_rate=1e-2, warmup_share=0.1, weight_decay=0.0,
        max_gradient_norm=1.0, micro_batch_tokens=200, seed=seed, evaluate_every_steps=1000, patience=None,
        save_every_steps=None, keep_checkpoints=1,
    )  # fmt: skip
    found = check_rows(training, held_out, sequences, renderer, bos_id=None)
    forward, path = training_path(model)
    with path:
        found += check_model(model, sequences, parameters=parameters, forward=forward)
        found.append(
            check_memory(model, sequences, parameters=parameters, forward=forward, batch_size=4, micro_batch_tokens=200)
        )
        progress = train(
            model, sequences, parameters=parameters, forward=forward, objective=supervised_loss, settings=settings,
            evaluate=None, recorder=_Unheard(), checkpoints=folder / "checkpoints",
        ).progress  # fmt: skip
        found.append(
            check_training(
                LowRankAdaptation(model, title="LoRA").parts(),
                smallest_gradient_norm=progress.smallest_gradient_norm,
                largest_gradient_norm=progress.largest_gradient_norm,
            )
        )
        write_probe(folder / "probe", model, probe_sequences(sequences), forward=forward)
        files = probe_files(model, renderer, forward=forward, note=lambda _text: None)
        save_adapter(model, folder / "adapter", base_name=family, notes={}, files=files)
    found += _after(family, seed, dtype, folder, renderer, training)
    return f"seed {seed}, {family}, {str(dtype).removeprefix('torch.')}", found


def _after(
    family: str, seed: int, dtype: torch.dtype, folder: Path, renderer: Renderer, training: list[Example]
) -> list[Invariant]:
    """Invariants 10 to 12 on a base built anew, and the loader's probe."""
    model = tiny_model(family, seed).to(dtype)
    load_adapter(model, folder / "adapter")
    fuse_adapted_layers(model)
    forward, path = training_path(model)
    with path:
        found = [check_probe(folder / "probe", model, forward=forward)]
        tuned_S = stored_rows_logprobs(folder / "probe", model, forward=forward)
        reproduced = reproduce(folder / "adapter", model, renderer, forward=forward)
    assert reproduced is not None
    prompts = [renderer.prompt(example.messages[:-1]) for example in training]
    answers = generate(model, prompts, stop_ids=renderer.stop_ids, settings=SamplingSettings(max_new_tokens=40))
    LowRankAdaptation(model, title="LoRA").merge()
    forward, path = training_path(model)
    with path:
        merged = check_merged(folder / "probe", model, tuned_S=tuned_S, forward=forward)
    return [*found, reproduced, merged, check_stops([answer.stopped for answer in answers])]


def main() -> int:
    """Make as many clean runs as asked for; print each alarm, then the counts. Exit code 1 where there was one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("count", type=int)
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    options = parser.parse_args()
    alarms: Counter[int] = Counter()
    measured = 0
    for seed in range(options.first, options.first + options.count):
        with tempfile.TemporaryDirectory() as folder:
            what, found = clean_run(seed, Path(folder))
        measured += len(found)
        for invariant in found:
            if not invariant.holds:
                alarms[invariant.number] += 1
                print(what, described(invariant), flush=True)
        done = seed - options.first + 1
        if done % 20 == 0:
            print(f"{done} of {options.count} runs, alarms: {dict(alarms) or 'none'}", file=sys.stderr, flush=True)
    print(f"{options.count} runs, {measured} invariants measured, alarms: {dict(alarms) or 'none'}")
    return 1 if alarms else 0


if __name__ == "__main__":
    sys.exit(main())
