"""Whether answers belong to their questions: their score against their own references, less that against other rows'.

A model that was trained on answers of other questions learns their form, and overlap with any reference of the data
rises with it. Its answers then fit the references of other rows as well as their own. The distance between the two
scores is what is owed to the question itself; where tuning makes it smaller, the gain was of form alone. One and the
same answer to every row owes its question nothing, however wide the interval is.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from hone.evaluation.scorers import Metric
from hone.evaluation.shape import ShapeKind, TaskShape
from hone.evaluation.statistics import Comparison, PairedBootstrap
from hone.evaluation.sums import Aggregate, FloatArray, most_common_share
from hone.types import JsonDict

__all__ = ["ArmFit", "Fit", "measure_fit"]

# Other rows that each answer is held against: more change the mean little.
_OTHERS = 4
# Where one answer is right and all others are wrong, an answer that fits its question by less than this share of what
# the references do fits it by chance.
_CHANCE_SHARE = 0.25
# Rows whose right answer is another than the most frequent one: where there are so many, a model that knows the task
# does not give one answer to all.
_ROWS_THAT_DIFFER = 5
_EXACTING: tuple[ShapeKind, ...] = ("labels", "json", "short")


@dataclass(frozen=True, slots=True)
class ArmFit:
    """One arm's answers, under the primary metric.

    Args:
        own: score against the references of their own rows.
        others: against those of other rows.
        interval: of ``own - others``; None with fewer than two rows.
    """

    own: float
    others: float
    interval: tuple[float, float] | None

    @property
    def distance(self) -> float:
        """How much better the answers fit their own questions than others."""
        return self.own - self.others


@dataclass(frozen=True, slots=True)
class Fit:
    """All arms.

    Args:
        arms: by name.
        of_references: the distance that the references themselves have.
        against_base: the distance of each tuned arm minus the base's.
        exacting: the answers are right or wrong, so that a fit near 0 is chance.
        constant: arms that gave one and the same answer to all rows, of which at least five want another one.
    """

    arms: Mapping[str, ArmFit]
    of_references: float
    against_base: Mapping[str, Comparison]
    exacting: bool
    constant: frozenset[str] = frozenset()

    def is_form_alone(self, arm: str) -> bool:
        """Whether the arm's answers belong to their questions less than the base's, by chance, or not at all.

        Args:
            arm: a tuned arm.
        """
        if arm in self.constant:
            return True
        compared, fit = self.against_base.get(arm), self.arms[arm]
        if compared is not None and compared.different and compared.difference < 0:
            return True
        if not self.exacting or fit.interval is None:
            return False
        low, high = fit.interval
        return low <= 0 and high <= _CHANCE_SHARE * self.of_references

    def is_shown(self, arm: str) -> bool:
        """Whether answers that are right or wrong are shown to be more than chance; true for free text.

        Args:
            arm: a tuned arm.
        """
        interval = self.arms[arm].interval
        return not self.exacting or interval is None or interval[0] > 0

    def to_json(self) -> JsonDict:
        """The figures as plain JSON values."""
        return {
            "arms": {
                name: {
                    "own": round(fit.own, 6),
                    "others": round(fit.others, 6),
                    "interval": None if fit.interval is None else [round(bound, 6) for bound in fit.interval],
                }
                for name, fit in self.arms.items()
            },
            "of_references": round(self.of_references, 6),
            "against_base": {
                name: {
                    "difference": round(compared.difference, 6),
                    "interval": None if compared.interval is None else [round(bound, 6) for bound in compared.interval],
                    "different": compared.different,
                }
                for name, compared in self.against_base.items()
            },
        }


def measure_fit(
    metric: Metric,
    shape: TaskShape,
    references: Sequence[str],
    predictions: Mapping[str, Sequence[str]],
    bootstrap: PairedBootstrap,
) -> Fit | None:
    """Hold every arm's answers against their own and other references.

    Args:
        metric: the primary one.
        shape: of the answers.
        references: one per row.
        predictions: of each arm by its name, one per row.
        bootstrap: of the evaluation.

    Returns:
        None where it cannot be told: under two rows, a metric of the likelihood, or one where lower is better.
    """
    if len(references) < 2 or metric.statistics is None or not metric.higher_is_better:
        return None
    orders = _other_rows(len(references), seed=bootstrap.seed)

    def statistics(answers: Sequence[str]) -> FloatArray:
        """[rows, 2k]: each row's sums against its own reference, and their mean against others."""
        assert metric.statistics is not None, "checked above"
        own = metric.statistics(answers, references, shape)
        rotated = [metric.statistics(answers, [references[at] for at in order], shape) for order in orders]
        return np.concatenate([own, np.mean(rotated, axis=0)], axis=1)

    found = {name: statistics(answers) for name, answers in predictions.items()}
    distance = _distance(metric.aggregate)
    tuned = [name for name in found if name.startswith("tuned")] if "base" in found else []
    rows = None if metric.row_aggregate is None else _distance(metric.row_aggregate)
    return Fit(
        arms={
            name: ArmFit(*_both(metric.aggregate, sums.sum(axis=0)), bootstrap.interval(sums, distance))
            for name, sums in found.items()
        },
        of_references=float(distance(statistics(references).sum(axis=0))),
        against_base={
            name: bootstrap.compare(found[name], found["base"], distance, row_scores=rows, comparisons=len(tuned))
            for name in tuned
        },
        exacting=shape.kind in _EXACTING,
        constant=_constant(references, predictions),
    )


def _constant(references: Sequence[str], predictions: Mapping[str, Sequence[str]]) -> frozenset[str]:
    """The arms that give one and the same answer where rows want different ones."""
    if round(len(references) * (1 - most_common_share(references))) < _ROWS_THAT_DIFFER:
        return frozenset()
    return frozenset(name for name, answers in predictions.items() if most_common_share(answers) == 1)


def _other_rows(rows: int, *, seed: int) -> list[list[int]]:
    """For each comparison, the row whose reference stands in for one's own: never one's own."""
    order = list(range(rows))
    random.Random(f"hone-fit-{seed}").shuffle(order)
    place = {row: at for at, row in enumerate(order)}
    steps = range(1, 1 + min(_OTHERS, rows - 1))
    return [[order[(place[row] + step) % rows] for row in range(rows)] for step in steps]


def _both(aggregate: Aggregate, sums: FloatArray) -> tuple[float, float]:
    half = sums.shape[-1] // 2
    return float(aggregate(sums[..., :half])), float(aggregate(sums[..., half:]))


def _distance(aggregate: Aggregate) -> Aggregate:
    def between(sums: FloatArray) -> FloatArray:
        half = sums.shape[-1] // 2
        return aggregate(sums[..., :half]) - aggregate(sums[..., half:])

    return between
