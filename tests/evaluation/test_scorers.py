"""Which metrics a shape gets, and that every metric keeps its promises."""

from __future__ import annotations

import math

import numpy as np
import pytest

from hone.errors import ConfigError
from hone.evaluation.scorers import METRICS, SHAPE_METRICS, likelihood_statistics, metric_named, metrics_for, score
from hone.evaluation.shape import TaskShape

PRIMARY = {"labels": "accuracy", "json": "json_f1", "code": "chrf", "short": "token_f1", "text": "chrf"}
TEXT_METRICS = sorted(name for name, metric in METRICS.items() if metric.statistics)


def shape_of(kind: str) -> TaskShape:
    return TaskShape(kind, ("a", "b") if kind == "labels" else (), "for a test")  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", sorted(PRIMARY))
def test_primary_metric_of_each_shape(kind: str) -> None:
    scores = score(shape_of(kind), ["a", "x"], ["a", "b"])
    assert scores.metric == PRIMARY[kind]
    assert list(scores.values) == list(SHAPE_METRICS[shape_of(kind).kind])
    assert all(len(rows) == 2 for rows in scores.per_row.values())


@pytest.mark.parametrize("name", TEXT_METRICS)
@pytest.mark.parametrize("kind", sorted(PRIMARY))
def test_scores_are_finite_and_within_bounds(name: str, kind: str) -> None:
    references = ["a", "b", '{"a": {"b": [1]}}', "the longer answer of five words", "Ünïcödé 東京 😀", ""]
    for predictions in (references, [""] * 6, ["no"] * 6, references[::-1], ["a" * 5000] * 6):
        scores = score(shape_of(kind), predictions, references, metric=name)
        assert scores.metric == name
        for value in (scores.values[name], *scores.per_row[name]):
            assert math.isfinite(value)
            assert -1e-9 <= value <= 100 + 1e-9


@pytest.mark.parametrize("name", TEXT_METRICS)
def test_right_answers_score_best(name: str) -> None:
    references = ['{"a": 1, "b": "two words more here"}', '{"c": [1, 2], "d": "some other four words"}']
    scores = score(shape_of("labels"), references, references, metric=name)
    assert scores.values[name] == pytest.approx(0 if name == "unknown_label" else 100)


def test_exact_match_follows_the_shape() -> None:
    assert score(shape_of("short"), ["The Eagle!"], ["eagle"]).values["exact_match"] == 100
    assert score(shape_of("code"), ["The Eagle!"], ["eagle"]).values["exact_match"] == 0


def test_a_chosen_metric_comes_first_and_once() -> None:
    names = [metric.name for metric in metrics_for(shape_of("text"), "BLEU")]
    assert names == ["bleu", "chrf", "rouge_l"]
    assert metrics_for(shape_of("text"), "exact-match")[0] is METRICS["exact_match"]


def test_an_unknown_metric_names_the_nearest() -> None:
    with pytest.raises(ConfigError) as caught:
        metric_named("rouge")
    assert "'rouge'" in caught.value.what
    assert caught.value.remedy is not None
    assert "did you mean rouge_l" in caught.value.remedy
    assert all(name in caught.value.remedy for name in METRICS)


def test_a_likelihood_metric_cannot_come_from_texts() -> None:
    with pytest.raises(ConfigError, match="likelihood"):
        score(shape_of("text"), ["a"], ["a"], metric="bits_per_byte")


def test_bits_per_byte_divides_the_sums() -> None:
    metric = METRICS["bits_per_byte"]
    rows = likelihood_statistics([10.0, 30.0], [10, 5])
    assert metric.corpus_score(rows) == pytest.approx(40 / 15)
    assert metric.row_scores(rows).tolist() == [1.0, 6.0]
    assert not metric.higher_is_better


def test_registry_describes_each_metric_in_plain_json() -> None:
    for name, metric in METRICS.items():
        assert metric.name == name
        described = metric.describe()
        assert described["description"].endswith(".")
        assert all(bound is None or np.isfinite(bound) for bound in described["range"])
