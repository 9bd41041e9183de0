"""Are there enough rows? Short trainings on an eighth, a quarter, half and all of them: ``--learning-curve``.

Each is the LoRA training that ``hone run`` would do with so many rows, from the same start, judged by the best loss on
validation rows that are the same for all. The subsets are nested, so that each only adds rows to the one before.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from hone.config.schema import TrainConfig
from hone.data.audit.report import AuditReport
from hone.data.loader import load_examples
from hone.data.split import split_examples
from hone.engine.events import Event
from hone.engine.loop import LoopSettings, micro_batches, train
from hone.engine.step import mean_loss
from hone.errors import DataError
from hone.evaluation.learning_curve import LEAST_POINTS, LearningCurve, fit_learning_curve, nested_sizes
from hone.evaluation.shape import ShapeKind
from hone.model.load import LoadedModel, load_base
from hone.objective.supervised import supervised_loss
from hone.planning.choose import TrainingChoices
from hone.planning.shape import shape_of
from hone.recipe.adapting import attach_method
from hone.recipe.inference import make_renderer, training_path
from hone.recipe.planner import choose_numbers
from hone.recipe.rows import render_rows, shape_of_answers
from hone.types import TokenSequence

__all__ = ["MOST_TRAINED", "add_learning_curve"]

# Rows of the longest training: with more, the first of the seeded order.
MOST_TRAINED = 800
_LEAST_ROWS = 40
_MOST_VALIDATION = 100
_VALIDATION_SHARE = 0.2
_PATIENCE_EPOCHS = 2


class _Silent:
    """A recorder that records nothing: what counts is the loss at the end."""

    def record(self, event: Event) -> None:
        """Take an event, and forget it."""


def add_learning_curve(
    report: AuditReport,
    *,
    model: str,
    home: Path,
    mapping: Mapping[str, str] | None = None,
    max_length: int | None = None,
    seed: int = 0,
    note: Callable[[str], None] = lambda text: None,
) -> AuditReport:
    """Measure the learning curve of an audited file, and add it to what was learned.

    Args:
        report: of the file; one that is refused comes back as it is.
        model: the base to train from.
        home: hone's home folder.
        mapping: columns that the user named.
        max_length: longest row in tokens; the base's context unless given.
        seed: of the validation rows, of the order of the others, and of the adapter's start.
        note: receives sentences for the user.

    Raises:
        DataError: fewer than 40 rows can be used, or all are near copies of one another.
        HoneError: the model cannot be used.
    """
    if report.refused:
        return report
    loaded = load_examples(report.source, mapping=mapping)
    examples = [example for example in loaded.examples if example.row not in report.late_drops]
    config = TrainConfig.model_validate({"data": report.source, "model": model, "seed": seed})
    base = load_base(model, home=home, note=note)
    renderer = make_renderer(base, examples, max_length=max_length, note=note)
    usable, sequences = render_rows(examples, renderer, loaded.ledger)
    aside = min(_MOST_VALIDATION, round(_VALIDATION_SHARE * len(usable)))
    split = (
        split_examples(usable, held_out=aside, seed=seed, purpose="validation") if len(usable) >= _LEAST_ROWS else None
    )
    if split is None or len(nested_sizes(len(split.train))) < LEAST_POINTS:
        raise DataError(
            f"{len(usable)} rows can be used, at least {_LEAST_ROWS} with different prompts are needed",
            where=f"{report.source} (--learning-curve)",
            why="a curve needs three trainings, each on twice as many rows as the one before, and others to judge by",
            remedy="leave --learning-curve out",
        )
    # ordered by the hash of seed and prompt: a prefix is a random choice, and the larger ones hold the smaller
    ordered = [sequence for example in split.train[:MOST_TRAINED] for sequence in sequences[example.row]]
    validation = [sequence for example in split.held_out for sequence in sequences[example.row]]
    answers = shape_of_answers(split.train).kind
    curve, before = _measure(config, base, ordered, validation, answers=answers, home=home, note=note)
    measured = {**curve.to_json(), "base_loss": round(before, 4), "validation_rows": len(split.held_out), "seed": seed}
    return replace(report, learned={**(report.learned or {}), "learning_curve": measured})


def _measure(
    config: TrainConfig,
    base: LoadedModel,
    ordered: Sequence[TokenSequence],
    validation: Sequence[TokenSequence],
    *,
    answers: ShapeKind,
    home: Path,
    note: Callable[[str], None],
) -> tuple[LearningCurve, float]:
    """The curve, and the loss of the base without training; in bits per token."""
    sizes = nested_sizes(len(ordered))
    adaptation = attach_method(config, base, _choose(config, base, ordered, answers), None, home=home)
    parameters = adaptation.parameters()
    start = {name: parameter.detach().clone() for name, parameter in parameters.items()}
    forward, path = training_path(base.model, reference=False)
    base.model.eval()
    losses = []
    with path, tempfile.TemporaryDirectory(prefix="hone-curve-") as folder:
        held = micro_batches(validation, max_tokens=_choose(config, base, ordered, answers).micro_batch_tokens)

        def validation_loss() -> float:
            return mean_loss(base.model, held, forward=forward, objective=supervised_loss)

        adaptation.refresh()
        before = validation_loss() / math.log(2)
        for number, size in enumerate(sizes, start=1):
            note(f"learning curve: training {number} of {len(sizes)}, on {size} rows")
            with torch.no_grad():
                for name, parameter in parameters.items():
                    parameter.copy_(start[name])
            adaptation.refresh()
            rows = ordered[:size]
            settings = _settings(config, _choose(config, base, rows, answers), size)
            result = train(
                base.model, rows, parameters=parameters, forward=forward, objective=supervised_loss,
                settings=settings, evaluate=validation_loss, recorder=_Silent(),
                checkpoints=Path(folder) / str(size), rate_factors=adaptation.rate_factors(config.learning_rate_ratio),
                refresh=adaptation.refresh,
            )  # fmt: skip
            best = result.progress.best_loss
            assert best is not None
            losses.append(best / math.log(2))
    return fit_learning_curve(sizes, losses), before


def _choose(
    config: TrainConfig, base: LoadedModel, rows: Sequence[TokenSequence], answers: ShapeKind
) -> TrainingChoices:
    return choose_numbers(
        config, shape_of(base.model, context_length=base.context_length), rows,
        free_bytes=None, bytes_per_value=base.model.dtype.itemsize, has_validation=True, answers=answers,
        on_card=base.on_card,
    )  # fmt: skip


def _settings(config: TrainConfig, choices: TrainingChoices, size: int) -> LoopSettings:
    every = -(-size // choices.batch_size)
    return LoopSettings(
        batch_size=choices.batch_size,
        epochs=choices.epochs,
        max_steps=None,
        learning_rate=choices.learning_rate,
        warmup_share=choices.warmup_share,
        weight_decay=config.weight_decay,
        max_gradient_norm=config.max_gradient_norm,
        micro_batch_tokens=choices.micro_batch_tokens,
        seed=config.seed,
        evaluate_every_steps=every,
        patience=_PATIENCE_EPOCHS,
        save_every_steps=every * choices.epochs + 1,  # nobody resumes it
        keep_checkpoints=1,
    )
