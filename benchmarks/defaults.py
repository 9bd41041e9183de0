"""Compare training defaults on validation rows split from training data; no ``eval.jsonl`` is opened.

    python benchmarks/defaults.py ../shared/tasks e2e-data-to-text:1e-3:16:4:8 [TASK:RATE:RANK:EPOCHS:BATCH ...]

24 rows of a task's ``train.jsonl`` (a quarter where there are fewer than 96) are set aside; the rest is trained on with
the numbers given; loss, chrF and exact match of the answers are printed for every epoch. ``--folds N`` sets each N-th
part of the rows aside in turn, and adds BLEU and chrF over the answers to all of them.
"""

from __future__ import annotations

import argparse
import random
import tempfile
import time
from dataclasses import dataclass
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


@dataclass(frozen=True)
class Setting:
    """What is compared: ``TASK:RATE:RANK:EPOCHS:BATCH``."""

    task: str
    learning_rate: float
    rank: int
    epochs: int
    batch_size: int

    @staticmethod
    def parse(text: str) -> Setting:
        """Read it from the command line."""
        task, rate, rank, epochs, batch = text.split(":")
        return Setting(task, float(rate), int(rank), int(epochs), int(batch))


@dataclass(frozen=True)
class Answers:
    """Answers to the rows that were set aside, of every epoch, and the references."""

    by_epoch: list[list[str]]
    references: list[str]


def compare(tasks: Path, setting: Setting, fold: int, folds: int | None) -> tuple[str, Answers]:
    """Train one setting on one part of a task; give its line of the table, and the answers."""
    folder, learning_rate, rank = tasks / setting.task, setting.learning_rate, setting.rank
    epochs, batch_size = setting.epochs, setting.batch_size
    base = load_base(DEFAULT_MODEL, home=hone_home())
    renderer = Renderer(base.tokenizer, extra_stop_ids=base.generation_stop_ids)
    examples = load_examples(str(folder / "train.jsonl")).examples
    random.Random(1).shuffle(examples)
    aside = len(examples) // folds if folds else min(VALIDATION_ROWS, len(examples) // 4)
    examples = examples[fold * aside :] + examples[: fold * aside]
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
    answered = Answers([], [example.answer for example in examples[:aside]])
    for one in weights:
        with torch.no_grad():
            for name, parameter in parameters.items():
                parameter.copy_(one[name])
        answers = generate(base.model, prompts, stop_ids=renderer.stop_ids, settings=SamplingSettings(limit))
        texts = [base.tokenizer.decode(list(answer.ids), skip_special_tokens=True).strip() for answer in answers]
        answered.by_epoch.append(texts)
    best = result.progress.best_step // steps_per_epoch
    line = (
        f"| {folder.name} | {learning_rate:g} | {rank} | {epochs} | {batch_size} | {before:.3f} | "
        f"{', '.join(map(str, told.losses))} | {best} | "
        f"{', '.join(scores(texts, answered.references) for texts in answered.by_epoch)} | {seconds:.0f} s |"
    )
    return line, answered


def scores(texts: list[str], references: list[str]) -> str:
    """Corpus chrF, and the share of exact answers after a slash."""
    exact = sum(text == reference.strip() for text, reference in zip(texts, references, strict=True))
    return f"{sacrebleu.corpus_chrf(texts, [references]).score:.1f}/{exact / len(texts):.0%}"


def main() -> None:
    """Print a table, one line a setting."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tasks", type=Path, help="folder of task folders")
    parser.add_argument("settings", nargs="+", help="TASK:RATE:RANK:EPOCHS:BATCH")
    parser.add_argument("--folds", type=int, help="answer all rows, in so many parts")
    arguments = parser.parse_args()
    print("| task | rate | rank | epochs | batch | base | by epoch | best | chrF/exact by epoch | time |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    for setting in map(Setting.parse, arguments.settings):
        found = []
        for fold in range(arguments.folds or 1):
            line, answers = compare(arguments.tasks, setting, fold, arguments.folds)
            found.append(answers)
            print(line, flush=True)
        if arguments.folds:
            print_pooled(setting, found)


def print_pooled(setting: Setting, found: list[Answers]) -> None:
    """BLEU and chrF of every epoch over the answers of all parts."""
    references = [reference for part in found for reference in part.references]
    for epoch in range(setting.epochs):
        texts = [text for part in found for text in part.by_epoch[epoch]]
        bleu, chrf = sacrebleu.corpus_bleu(texts, [references]), sacrebleu.corpus_chrf(texts, [references])
        print(
            f"{setting}, epoch {epoch + 1}, {len(texts)} rows: BLEU {bleu.score:.1f}, chrF {chrf.score:.1f}", flush=True
        )


if __name__ == "__main__":
    main()
