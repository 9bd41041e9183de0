"""Compare training defaults on validation rows split from training data; no ``eval.jsonl`` is opened.

    python benchmarks/defaults.py ../shared/tasks e2e-data-to-text:1e-3:16:3:4 [TASK:RATE:RANK:EPOCHS:BATCH ...]

24 rows of a task's ``train.jsonl`` (a quarter where there are fewer than 96) are set aside; the rest is trained on with
the numbers given; loss, chrF and exact match of the answers are printed for every epoch.
"""

from __future__ import annotations

import argparse
import random
import tempfile
import time
from pathlib import Path

import sacrebleu
import torch
from torch import Tensor

from hone.config.schema import DEFAULT_MODEL
from hone.data.loader import load_examples
from hone.data.render import Renderer
from hone.engine.events import Event
from hone.engine.loop import LoopSettings, micro_batches, train
from hone.engine.step import mean_loss
from hone.home import hone_home
from hone.model.generate import SamplingSettings, generate
from hone.model.load import load_base
from hone.model.lora import adapter_parameters, attach_adapter
from hone.objective.supervised import supervised_loss
from hone.recipe.inference import training_path
from hone.types import Example

VALIDATION_ROWS = 24
MICRO_BATCH_TOKENS = 2048


class Validations:
    """Keeps the validation losses and passes over everything else."""

    def __init__(self) -> None:
        self.losses: list[float] = []

    def record(self, event: Event) -> None:
        """Take one event."""
        if event.kind == "validation":
            self.losses.append(round(event.data["loss"], 3))


def compare(folder: Path, learning_rate: float, rank: int, epochs: int, batch_size: int) -> str:
    """Train one setting on one task and give its line of the table."""
    base = load_base(DEFAULT_MODEL, home=hone_home())
    renderer = Renderer(base.tokenizer, extra_stop_ids=base.generation_stop_ids)
    examples = load_examples(str(folder / "train.jsonl")).examples
    random.Random(1).shuffle(examples)
    aside = min(VALIDATION_ROWS, len(examples) // 4)
    held, rows = (
        [sequence for example in part for sequence in renderer.render(example).sequences]
        for part in (examples[:aside], examples[aside:])
    )
    attach_adapter(base.model, rank=rank, alpha=2 * rank, seed=0)
    batches = micro_batches(held, max_tokens=MICRO_BATCH_TOKENS)
    steps_per_epoch = -(-len(rows) // batch_size)
    told = Validations()

    limit = max(32, int(1.5 * max(sequence.num_supervised for sequence in rows)))
    prompts = [renderer.prompt(example.prompt, list(map(dict, example.tools))) for example in examples[:aside]]
    parameters = adapter_parameters(base.model)
    weights: list[dict[str, Tensor]] = []
    forward, path = training_path(base.model, reference=False)

    def loss() -> float:
        return mean_loss(base.model, batches, forward=forward, objective=supervised_loss)

    def keep_weights() -> float:
        weights.append({name: parameter.detach().clone() for name, parameter in parameters.items()})
        return loss()

    started = time.perf_counter()
    with path, tempfile.TemporaryDirectory() as checkpoints:
        before = loss()
        result = train(
            base.model, rows, parameters=parameters, forward=forward,
            objective=supervised_loss, evaluate=keep_weights, recorder=told, checkpoints=Path(checkpoints),
            settings=LoopSettings(
                batch_size=batch_size, epochs=epochs, max_steps=None, learning_rate=learning_rate, warmup_share=0.1,
                weight_decay=0.0, max_gradient_norm=1.0, micro_batch_tokens=MICRO_BATCH_TOKENS, seed=0,
                evaluate_every_steps=steps_per_epoch, patience=None, save_every_steps=None, keep_checkpoints=1,
            ),
        )  # fmt: skip
    seconds = time.perf_counter() - started
    by_epoch = []
    for one in weights:
        with torch.no_grad():
            for name, parameter in parameters.items():
                parameter.copy_(one[name])
        answers = generate(base.model, prompts, stop_ids=renderer.stop_ids, settings=SamplingSettings(limit))
        texts = [base.tokenizer.decode(list(answer.ids), skip_special_tokens=True).strip() for answer in answers]
        by_epoch.append(scores(texts, examples[:aside]))
    best = result.progress.best_step // steps_per_epoch
    return (
        f"| {folder.name} | {learning_rate:g} | {rank} | {epochs} | {batch_size} | {before:.3f} | "
        f"{', '.join(map(str, told.losses))} | {best} | {', '.join(by_epoch)} | {seconds:.0f} s |"
    )


def scores(texts: list[str], examples: list[Example]) -> str:
    """Corpus chrF, and the share of exact answers after a slash."""
    references = [example.answer for example in examples]
    exact = sum(text == reference.strip() for text, reference in zip(texts, references, strict=True))
    return f"{sacrebleu.corpus_chrf(texts, [references]).score:.1f}/{exact / len(texts):.0%}"


def main() -> None:
    """Print a table, one line a setting."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tasks", type=Path, help="folder of task folders")
    parser.add_argument("settings", nargs="+", help="TASK:RATE:RANK:EPOCHS:BATCH")
    arguments = parser.parse_args()
    print("| task | rate | rank | epochs | batch | base | by epoch | best | chrF/exact by epoch | time |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    for setting in arguments.settings:
        task, rate, rank, epochs, batch = setting.split(":")
        print(compare(arguments.tasks / task, float(rate), int(rank), int(epochs), int(batch)), flush=True)


if __name__ == "__main__":
    main()
