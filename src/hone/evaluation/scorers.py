"""The metrics by name, which of them each task shape gets, and the one function that scores an arm.

Scores run from 0 to 100 except ``bits_per_byte``. The first metric of a shape is its primary one, on which
the verdict rests:

    labels  accuracy, macro_f1, unknown_label
    json    json_f1, json_match, json_valid   (graded first: all-or-nothing moves too little on 60 rows)
    code    chrf, exact_match, bleu
    short   token_f1, exact_match, chrf
    text    chrf, bleu, rouge_l
    all     bits_per_byte of the reference answer, where the likelihood was measured
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from hone.errors import ConfigError
from hone.evaluation import answer_scores, text_scores
from hone.evaluation.shape import ShapeKind, TaskShape
from hone.evaluation.sums import Aggregate, FloatArray, mean_aggregate, ratio
from hone.types import JsonDict

__all__ = [
    "METRICS",
    "SHAPE_METRICS",
    "Metric",
    "Scores",
    "likelihood_statistics",
    "metric_named",
    "metrics_for",
    "score",
]

RowStatistics = Callable[[Sequence[str], Sequence[str], TaskShape], FloatArray]


@dataclass(frozen=True, slots=True)
class Metric:
    """One way to score answers, as sums over rows.

    Args:
        name: the key in ``METRICS``, results and options.
        title: the name as people write it.
        description: what it measures, one sentence for reports.
        aggregate: summed statistics [..., k] -> scores [...]; pure, vectorised over leading axes.
        statistics: (predictions, references, shape) -> [rows, k]; None where the figures come from the
            model's likelihood and not from texts.
        higher_is_better: False where a smaller score is the better one.
        bounds: least and greatest score that can occur; the greatest may be infinite.
        row_aggregate: the score of a single row, where the corpus formula does not suit one row.
    """

    name: str
    title: str
    description: str
    aggregate: Aggregate
    statistics: RowStatistics | None
    higher_is_better: bool = True
    bounds: tuple[float, float] = (0.0, 100.0)
    row_aggregate: Aggregate | None = None

    def corpus_score(self, statistics: FloatArray) -> float:
        """The score over all rows of ``statistics`` [rows, k]."""
        return float(self.aggregate(statistics.sum(axis=0)))

    def row_scores(self, statistics: FloatArray) -> FloatArray:
        """The score of each row of ``statistics`` [rows, k] by itself, [rows]."""
        return (self.row_aggregate or self.aggregate)(statistics)

    def describe(self) -> JsonDict:
        """The metric's title, meaning and range as plain JSON; an infinite bound is null."""
        low, high = self.bounds
        return {
            "name": self.name,
            "title": self.title,
            "description": self.description,
            "higher_is_better": self.higher_is_better,
            "range": [low if np.isfinite(low) else None, high if np.isfinite(high) else None],
        }


@dataclass(frozen=True, slots=True)
class Scores:
    """What one arm's answers are worth.

    Args:
        metric: name of the primary metric.
        values: corpus score by metric name.
        per_row: scores of single rows by metric name, each as long as the predictions.
        statistics: sufficient statistics by metric name, each [rows, k].
    """

    metric: str
    values: dict[str, float]
    per_row: dict[str, list[float]]
    statistics: dict[str, FloatArray]


def _texts(function: Callable[[Sequence[str], Sequence[str]], FloatArray]) -> RowStatistics:
    return lambda predictions, references, shape: function(predictions, references)


def _labels(function: Callable[[Sequence[str], Sequence[str], Sequence[str]], FloatArray]) -> RowStatistics:
    return lambda predictions, references, shape: function(predictions, references, shape.labels)


def _exact_match(predictions: Sequence[str], references: Sequence[str], shape: TaskShape) -> FloatArray:
    normalise = text_scores.normalise_short_answer if shape.kind == "short" else None
    return answer_scores.exact_match_statistics(predictions, references, normalise)


def _bits_aggregate(sums: FloatArray) -> FloatArray:
    return ratio(sums[..., 0], sums[..., 1])


_ALL_METRICS = (
    Metric(
        "accuracy",
        "Accuracy",
        "Share of answers that are the right label, ignoring case and closing punctuation.",
        mean_aggregate,
        _labels(answer_scores.accuracy_statistics),
    ),
    Metric(
        "macro_f1",
        "Macro-F1",
        "F1 of each label, averaged over labels, so that rare ones count as much.",
        answer_scores.macro_f1_aggregate,
        _labels(answer_scores.macro_f1_statistics),
    ),
    Metric(
        "unknown_label",
        "Unknown label",
        "Share of answers that are none of the labels.",
        mean_aggregate,
        _labels(answer_scores.unknown_label_statistics),
        higher_is_better=False,
    ),
    Metric(
        "json_f1",
        "JSON F1",
        "Share of fields (path and value) that are right: F1 over all fields of all rows.",
        answer_scores.json_f1_aggregate,
        _texts(answer_scores.json_f1_statistics),
    ),
    Metric(
        "json_match",
        "JSON match",
        "Share of answers equal to the reference as JSON, whatever the order of keys.",
        mean_aggregate,
        _texts(answer_scores.json_match_statistics),
    ),
    Metric(
        "json_valid",
        "JSON valid",
        "Share of answers that parse as a JSON object or array.",
        mean_aggregate,
        _texts(answer_scores.json_valid_statistics),
    ),
    Metric(
        "exact_match",
        "Exact match",
        "Share of answers equal to the reference; white space is evened out, and for "
        "short answers also case, punctuation and articles.",
        mean_aggregate,
        _exact_match,
    ),
    Metric(
        "token_f1",
        "Token F1",
        "Words shared with the reference (SQuAD's F1), averaged over rows.",
        mean_aggregate,
        _texts(text_scores.token_f1_statistics),
    ),
    Metric(
        "chrf",
        "chrF",
        "Character n-grams shared with the reference (sacrebleu's corpus chrF2).",
        text_scores.chrf_aggregate,
        _texts(text_scores.chrf_statistics),
    ),
    Metric(
        "bleu",
        "BLEU",
        "Word n-grams shared with the reference (sacrebleu's corpus BLEU, 13a tokens).",
        text_scores.bleu_aggregate,
        _texts(text_scores.bleu_statistics),
        row_aggregate=text_scores.bleu_row_aggregate,
    ),
    Metric(
        "rouge_l",
        "ROUGE-L",
        "Longest common word sequence with the reference (rouge-score's F-measure), averaged.",
        mean_aggregate,
        _texts(text_scores.rouge_l_statistics),
    ),
    Metric(
        "bits_per_byte",
        "Bits per byte",
        "How badly the model predicts the reference answer; lower is better.",
        _bits_aggregate,
        None,
        higher_is_better=False,
        bounds=(0.0, float("inf")),
    ),
)

METRICS: Mapping[str, Metric] = {metric.name: metric for metric in _ALL_METRICS}

SHAPE_METRICS: Mapping[ShapeKind, tuple[str, ...]] = {
    "labels": ("accuracy", "macro_f1", "unknown_label"),
    "json": ("json_f1", "json_match", "json_valid"),
    "code": ("chrf", "exact_match", "bleu"),
    "short": ("token_f1", "exact_match", "chrf"),
    "summary": ("rouge_l", "chrf", "bleu"),
    "text": ("chrf", "bleu", "rouge_l"),
}


def metric_named(name: str) -> Metric:
    """Look a metric up.

    Raises:
        ConfigError: there is no metric of that name; the message gives the nearest and all of them.
    """
    key = name.strip().casefold().replace("-", "_")
    if key in METRICS:
        return METRICS[key]
    near = difflib.get_close_matches(key, METRICS, n=2, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}? " if near else ""
    raise ConfigError(
        f"there is no metric {name!r}",
        where="metric",
        remedy=f"{hint}The metrics are: {', '.join(sorted(METRICS))}.",
    )


def metrics_for(shape: TaskShape, metric: str | None = None) -> list[Metric]:
    """The metrics of a shape, primary first; a metric chosen by name takes the first place.

    Raises:
        ConfigError: ``metric`` is unknown.
    """
    metrics = [METRICS[name] for name in SHAPE_METRICS[shape.kind]]
    if metric is None:
        return metrics
    chosen = metric_named(metric)
    return [chosen, *(other for other in metrics if other.name != chosen.name)]


def likelihood_statistics(bits: Sequence[float], reference_bytes: Sequence[int]) -> FloatArray:
    """Statistics of ``bits_per_byte``: (bits, bytes) per row, [rows, 2].

    Args:
        bits: bits that the model needs for the reference answer, per row.
        reference_bytes: UTF-8 bytes of the reference answer, per row.
    """
    return np.column_stack([np.asarray(bits, np.float64), np.asarray(reference_bytes, np.float64)])


def score(
    shape: TaskShape, predictions: Sequence[str], references: Sequence[str], *, metric: str | None = None
) -> Scores:
    """Score answers by the metrics of their shape.

    Args:
        shape: what kind of answers the task wants.
        predictions: the answers; an empty one is a wrong answer, never an error.
        references: the right answers, as many.
        metric: name of the primary metric where it is not the shape's own.

    Raises:
        ConfigError: ``metric`` is unknown, or is one that texts alone cannot give.
    """
    assert len(predictions) == len(references), "one prediction per reference"
    metrics = metrics_for(shape, metric)
    if metrics[0].statistics is None:
        raise ConfigError(f"{metrics[0].name} needs the model's likelihood, not only its answers", where="metric")
    statistics = {one.name: one.statistics(predictions, references, shape) for one in metrics if one.statistics}
    return Scores(
        metric=metrics[0].name,
        values={name: METRICS[name].corpus_score(sums) for name, sums in statistics.items()},
        per_row={name: METRICS[name].row_scores(sums).tolist() for name, sums in statistics.items()},
        statistics=statistics,
    )
