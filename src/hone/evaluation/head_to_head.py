"""Two versions on the same rows: scores with intervals, the paired difference, and the answers that flipped.

The arithmetic is that of the arms (``arms.py``): the same metrics, the same paired bootstrap and permutation test.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

from hone.evaluation.scorers import Metric, metrics_for
from hone.evaluation.shape import TaskShape
from hone.evaluation.statistics import TOLERANCE, Comparison, PairedBootstrap
from hone.types import JsonDict

__all__ = ["HeadToHead", "compare_answers"]

_DECIMALS = 6


@dataclass(frozen=True, slots=True)
class HeadToHead:
    """What two versions' answers to the same rows are worth.

    Args:
        metric: that decides.
        rows: number of rows.
        scores: of the old and the new version.
        intervals: of these; None with fewer than two units.
        comparison: new minus old.
        flipped: the rows whose answer changed in worth, largest loss first: ``prompt``, ``reference``, ``old``,
            ``new``, ``old_score``, ``new_score``, ``better``.
        unchanged_worth: rows whose answers are other words of the same worth.
        same: rows answered word for word alike.
    """

    metric: Metric
    rows: int
    scores: tuple[float, float]
    intervals: tuple[tuple[float, float] | None, tuple[float, float] | None]
    comparison: Comparison
    flipped: list[JsonDict]
    unchanged_worth: int
    same: int

    @property
    def is_worse(self) -> bool:
        """Whether the new version is worse beyond chance."""
        gain = self.comparison.difference if self.metric.higher_is_better else -self.comparison.difference
        return self.comparison.different and gain < 0

    @property
    def is_judged(self) -> bool:
        """Whether there were rows enough for an interval."""
        return self.comparison.interval is not None

    def to_json(self) -> JsonDict:
        """All of it as plain JSON values."""
        compared = self.comparison
        return {
            "metric": self.metric.name,
            "title": self.metric.title,
            "higher_is_better": self.metric.higher_is_better,
            "rows": self.rows,
            "old": _rounded(self.scores[0]),
            "old_interval": _pair(self.intervals[0]),
            "new": _rounded(self.scores[1]),
            "new_interval": _pair(self.intervals[1]),
            "difference": _rounded(compared.difference),
            "interval": _pair(compared.interval),
            "p_value": None if compared.p_value is None else _rounded(compared.p_value),
            "confidence": compared.confidence,
            "different": compared.different,
            "worse": self.is_worse,
            "wins": compared.wins,
            "losses": compared.losses,
            "ties": compared.ties,
            "same_words": self.same,
            "same_worth": self.unchanged_worth,
            "flipped": self.flipped,
        }


def compare_answers(
    shape: TaskShape,
    prompts: Sequence[str],
    references: Sequence[str],
    *,
    old: Sequence[str],
    new: Sequence[str],
    metric: str | None = None,
    clusters: Sequence[Hashable] | None = None,
    seed: int = 0,
) -> HeadToHead:
    """Judge a new version's answers against an old one's.

    Args:
        shape: the kind of answers the task wants.
        prompts: the last user text of each row, for the list of flipped answers.
        references: the right answers, at least one.
        old: the old version's answers.
        new: the new version's answers.
        metric: that decides; the shape's own where None, or where it is none of texts.
        clusters: per row, what it belongs to; None: each row by itself.
        seed: of resamples and permutations.

    Raises:
        ConfigError: there is no metric of that name.
    """
    assert len(references) == len(old) == len(new) == len(prompts) > 0, "one answer of each to each row"
    deciding = next(one for one in metrics_for(shape, metric) if one.statistics is not None)
    assert deciding.statistics is not None, "it was chosen for having them"
    before, after = (deciding.statistics(answers, references, shape) for answers in (old, new))
    bootstrap = PairedBootstrap(len(references), seed=seed, clusters=clusters)
    word_for_word = list(old) == list(new)
    compared = bootstrap.compare(
        after,
        before,
        deciding.aggregate,
        higher_is_better=deciding.higher_is_better,
        bounds=None if word_for_word else deciding.bounds,
        row_scores=deciding.row_aggregate,
    )
    flipped, same_worth, same = _flipped(
        prompts, references, old, new, deciding.row_scores(before), deciding.row_scores(after), deciding
    )
    return HeadToHead(
        metric=deciding,
        rows=len(references),
        scores=(deciding.corpus_score(before), deciding.corpus_score(after)),
        intervals=(
            bootstrap.interval(before, deciding.aggregate, bounds=deciding.bounds),
            bootstrap.interval(after, deciding.aggregate, bounds=deciding.bounds),
        ),
        comparison=compared,
        flipped=flipped,
        unchanged_worth=same_worth,
        same=same,
    )


def _flipped(
    prompts: Sequence[str],
    references: Sequence[str],
    old: Sequence[str],
    new: Sequence[str],
    old_scores: Any,
    new_scores: Any,
    metric: Metric,
) -> tuple[list[JsonDict], int, int]:
    """The rows whose answer changed in worth; and counts of those of the same worth, and of the same words."""
    flipped, same_worth, same = [], 0, 0
    for at, (before, after) in enumerate(zip(old, new, strict=True)):
        gain = float(new_scores[at] - old_scores[at]) * (1.0 if metric.higher_is_better else -1.0)
        if before == after:
            same += 1
        elif abs(gain) <= TOLERANCE:
            same_worth += 1
        else:
            flipped.append(
                {
                    "prompt": prompts[at],
                    "reference": references[at],
                    "old": before,
                    "new": after,
                    "old_score": _rounded(float(old_scores[at])),
                    "new_score": _rounded(float(new_scores[at])),
                    "better": gain > 0,
                    "gain": _rounded(gain),
                }
            )
    return sorted(flipped, key=lambda row: float(row["gain"])), same_worth, same


def _rounded(value: float) -> float:
    return round(float(value), _DECIMALS)


def _pair(values: tuple[float, float] | None) -> list[float] | None:
    return None if values is None else [_rounded(value) for value in values]
