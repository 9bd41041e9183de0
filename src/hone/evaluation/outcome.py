"""What a comparison found, in figures: the object that the verdict, the report and ``--json`` read.

Every number is finite; what nobody measured is None (null), with its reason in ``not_measured``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from hone.evaluation.fit import Fit
from hone.evaluation.scorers import Metric
from hone.evaluation.shape import TaskShape
from hone.evaluation.slices import SliceFound
from hone.evaluation.statistics import Comparison
from hone.types import JsonDict

__all__ = ["ArmSummary", "Difference", "Evaluation"]

DECIMALS = 6
WRITTEN_TOKEN_PRICE = 4
PER_ANSWERS = 1000


@dataclass(frozen=True, slots=True)
class ArmSummary:
    """One arm in figures.

    Args:
        arm: its name.
        score: the primary metric over all rows.
        interval: confidence interval of ``score``; None with fewer than two rows (or clusters).
        metrics: score by metric name; None where it was not measured.
        stop_share: share of answers, 0 to 1, that the model ended by itself.
        tokens: tokens generated in all; None where nobody counted them.
        seconds: time of generating all answers; None where nobody measured it.
        most_common_share: share of rows, 0 to 1, that got this arm's most frequent answer.
        prompt_tokens: tokens read in all; None where nobody counted them.
        computed_prompt_tokens: those of them that had to be computed: an opening that all prompts share counts once.
        answers: rows answered.
        how: what the arm was made of, as an instruction or the number of examples.
    """

    arm: str
    score: float
    interval: tuple[float, float] | None
    metrics: dict[str, float | None]
    stop_share: float
    tokens: int | None
    seconds: float | None
    most_common_share: float
    prompt_tokens: int | None = None
    computed_prompt_tokens: int | None = None
    answers: int = 0
    how: JsonDict = field(default_factory=dict)

    @property
    def cost(self) -> float | None:
        """Computed prompt tokens of an answer, and its own tokens at four times their price; None if not counted.

        Hosts commonly ask four times as much for a token written as for one read, and on one's own machine a written
        token costs a pass of the model of its own.
        """
        if self.computed_prompt_tokens is None or self.tokens is None or not self.answers:
            return None
        return (self.computed_prompt_tokens + WRITTEN_TOKEN_PRICE * self.tokens) / self.answers


@dataclass(frozen=True, slots=True)
class Difference:
    """``arm`` minus ``against`` under one metric, on the same rows."""

    arm: str
    against: str
    metric: str
    comparison: Comparison

    def to_json(self) -> JsonDict:
        """The difference as plain JSON values."""
        compared = self.comparison
        return {
            "arm": self.arm,
            "against": self.against,
            "metric": self.metric,
            "difference": _rounded(compared.difference),
            "interval": _rounded_pair(compared.interval),
            "p_value": _rounded(compared.p_value),
            "p_adjusted": _rounded(compared.p_adjusted),
            "confidence": compared.confidence,
            "different": compared.different,
            "wins": compared.wins,
            "losses": compared.losses,
            "ties": compared.ties,
            "rows_needed": compared.rows_needed,
        }


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The whole comparison.

    Args:
        metrics: all metrics, the primary one first.
        shape: the kind of answers.
        rows: number of held-out rows.
        arms: each arm in figures, in the order given.
        differences: every pair of arms, the one that costs more effort minus the other, under the primary metric;
            p-values corrected over them.
        other_differences: the same pairs under the other metrics; not what the verdict rests on.
        examples: ``best`` and ``worst`` rows.
        answers: every row with all its answers and scores.
        not_measured: what is null in the figures, with the reason.
        method: how intervals and p-values were made.
        reference_most_common_share: share of rows, 0 to 1, that have the most frequent reference answer.
        grounding: what the answers owe to the documents; None where there are none.
        fit: whether the answers belong to their questions; None where that cannot be told.
        slices: base and tuned arms on parts of the rows.
        unit: what ``rows`` counts: ``row``, or ``pair`` where answers are compared.
    """

    metrics: list[Metric]
    shape: TaskShape
    rows: int
    arms: dict[str, ArmSummary]
    differences: list[Difference]
    other_differences: list[Difference]
    examples: dict[str, list[JsonDict]]
    answers: list[JsonDict]
    not_measured: list[JsonDict]
    method: JsonDict
    reference_most_common_share: float
    grounding: JsonDict | None = None
    fit: Fit | None = None
    slices: Sequence[SliceFound] = ()
    unit: Literal["row", "pair"] = "row"

    @property
    def held_out(self) -> str:
        """What was judged on, counted, as ``40 held-out rows``."""
        return f"{self.rows} held-out {self.unit}{'' if self.rows == 1 else 's'}"

    @property
    def metric(self) -> Metric:
        """The primary metric, on which the verdict rests."""
        return self.metrics[0]

    def difference(self, arm: str, against: str, metric: str | None = None) -> Difference | None:
        """One difference; ``metric`` None is the primary one. None where it was not made."""
        for one in [*self.differences, *self.other_differences]:
            if (one.arm, one.against, one.metric) == (arm, against, metric or self.metric.name):
                return one
        return None

    def to_json(self) -> JsonDict:
        """The ``evaluation`` object of a run's result; every number is finite, what was not measured is null."""
        return {
            "metric": self.metric.name,
            "metrics": {metric.name: metric.describe() for metric in self.metrics},
            "shape": self.shape.to_json(),
            "rows": self.rows,
            "unit": self.unit,
            "arms": {name: _summary_json(summary) for name, summary in self.arms.items()},
            "differences": [one.to_json() for one in self.differences],
            "other_differences": [one.to_json() for one in self.other_differences],
            "examples": self.examples,
            "not_measured": self.not_measured,
            "method": self.method,
            "grounding": self.grounding,
            "fit": None if self.fit is None else self.fit.to_json(),
            "slices": [one.to_json() for one in self.slices],
        }


def _summary_json(summary: ArmSummary) -> JsonDict:
    return {
        "score": _rounded(summary.score),
        "interval": _rounded_pair(summary.interval),
        "metrics": {name: _rounded(value) for name, value in summary.metrics.items()},
        "stop_share": _rounded(summary.stop_share),
        "most_common_share": _rounded(summary.most_common_share),
        "tokens": summary.tokens,
        "seconds": _rounded(summary.seconds),
        "prompt_tokens": summary.prompt_tokens,
        "per_1000_answers": _per_thousand(summary),
        "how": summary.how,
    }


def _per_thousand(summary: ArmSummary) -> JsonDict | None:
    """What a thousand answers cost: tokens read, those of them computed, tokens written, seconds on this machine."""
    if not summary.answers:
        return None
    totals = {
        "prompt_tokens": summary.prompt_tokens,
        "computed_prompt_tokens": summary.computed_prompt_tokens,
        "tokens": summary.tokens,
        "seconds": summary.seconds,
    }
    scale = PER_ANSWERS / summary.answers
    return {name: None if total is None else round(total * scale, 1) for name, total in totals.items()}


def _rounded(number: float | None) -> float | None:
    return None if number is None else round(float(number), DECIMALS)


def _rounded_pair(pair: tuple[float, float] | None) -> list[float | None] | None:
    return None if pair is None else [_rounded(pair[0]), _rounded(pair[1])]
