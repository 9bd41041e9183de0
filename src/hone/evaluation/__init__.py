"""The comparison that matters: shapes, metrics, intervals, the verdict and the report."""

from __future__ import annotations

from hone.evaluation.arms import ArmResult, evaluate_arms
from hone.evaluation.outcome import ArmSummary, Difference, Evaluation
from hone.evaluation.scorers import METRICS, Metric, Scores, metric_named, score
from hone.evaluation.shape import TaskShape, detect_shape
from hone.evaluation.verdict import Verdict, decide

__all__ = [
    "METRICS",
    "ArmResult",
    "ArmSummary",
    "Difference",
    "Evaluation",
    "Metric",
    "Scores",
    "TaskShape",
    "Verdict",
    "decide",
    "detect_shape",
    "evaluate_arms",
    "metric_named",
    "score",
]
