"""Held-out rewards: what the arms' answers to the same rows are worth, with intervals, and what a gamed one shows.

The reward decides. A second one that nothing was trained on stands beside it, and the usual metrics where every row has
a reference answer. A reward that rises while these fall, while answers grow long or repeat themselves, was gamed.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from hone.evaluation.arms import ArmResult
from hone.evaluation.correction import corrected
from hone.evaluation.examples import answers_by_row, pick_examples
from hone.evaluation.outcome import ArmSummary, Difference, Evaluation
from hone.evaluation.scorers import Metric, metrics_for
from hone.evaluation.shape import TaskShape
from hone.evaluation.statistics import PairedBootstrap
from hone.evaluation.sums import FloatArray, most_common_share, ratio
from hone.types import JsonDict

__all__ = ["REWARD", "WATCH_REWARD", "GradedArm", "GradedRows", "compare_rewards"]

_DECIMALS = 6
_EVERYTHING = (float("-inf"), float("inf"))


def _mean(sums: FloatArray) -> FloatArray:
    return ratio(sums[..., 0], sums[..., 1])


REWARD = Metric(
    "reward", "Reward", "What the reward that was trained on gives an answer, averaged over rows.", _mean, None,
    bounds=_EVERYTHING,
)  # fmt: skip
WATCH_REWARD = Metric(
    "watch_reward", "Watched reward", "What a second reward, not trained on, gives an answer.", _mean, None,
    bounds=_EVERYTHING,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class GradedRows:
    """The held-out rows.

    Args:
        numbers: their ordinals in the file.
        prompts: the last user text of each.
        references: the reference answers; empty ones where rows have none.
        clusters: what is drawn together, as a hash of the prompt.
    """

    numbers: Sequence[int]
    prompts: Sequence[str]
    references: Sequence[str]
    clusters: Sequence[Hashable]

    @property
    def have_answers(self) -> bool:
        """Whether every row has a reference answer."""
        return all(self.references)


@dataclass(frozen=True, slots=True)
class GradedArm:
    """An arm's answers and what they are worth.

    Args:
        result: the answers.
        rewards: of each.
        watched: by the second reward; None where there is none.
        repetition: share of each answer that repeats itself.
    """

    result: ArmResult
    rewards: Sequence[float]
    watched: Sequence[float] | None
    repetition: Sequence[float]


def compare_rewards(
    rows: GradedRows, arms: Sequence[GradedArm], *, shape: TaskShape, seed: int = 0
) -> tuple[Evaluation, JsonDict]:
    """Compare arms by the rewards of their answers.

    Args:
        rows: at least one.
        arms: base, tuned or both.
        shape: the kind of answers, by which the usual metrics are chosen.
        seed: of the bootstrap.

    Returns:
        The comparison, and as JSON what it holds besides: mean length and repetition of each arm.
    """
    assert rows.numbers, "at least one row"
    metrics = [REWARD, *([WATCH_REWARD] if all(arm.watched is not None for arm in arms) else [])]
    metrics += metrics_for(shape) if rows.have_answers else []
    bootstrap = PairedBootstrap(len(rows.numbers), seed=seed, clusters=list(rows.clusters))
    statistics = {arm.result.arm: _statistics(metrics, arm, rows, shape) for arm in arms}
    differences = _differences(metrics, arms, statistics, bootstrap)
    results = [arm.result for arm in arms]
    answers = answers_by_row(
        rows.numbers,
        rows.prompts,
        rows.references,
        {one.arm: one.predictions for one in results},
        {one.arm: one.stopped for one in results},
        {name: REWARD.row_scores(found["reward"]) for name, found in statistics.items()},
    )
    names = [one.arm for one in results]
    focus = "tuned" if "tuned" in names else names[-1]
    evaluation = Evaluation(
        metrics=metrics,
        shape=shape,
        rows=len(rows.numbers),
        arms={arm.result.arm: _summary(arm, metrics, statistics[arm.result.arm], bootstrap) for arm in arms},
        differences=[one for one in differences if one.metric == "reward"],
        other_differences=[one for one in differences if one.metric != "reward"],
        examples=pick_examples(answers, focus, "base" if focus == "tuned" and "base" in names else None),
        answers=answers,
        not_measured=[],
        method=bootstrap.describe("distinct prompt"),
        reference_most_common_share=most_common_share(rows.references) if rows.have_answers else 1.0,
    )
    further = {
        arm.result.arm: {
            "length": _average(arm.result.output_tokens or ()),
            "repetition": _average(arm.repetition),
        }
        for arm in arms
    }
    return evaluation, {"rewards": further}


def _statistics(metrics: Sequence[Metric], arm: GradedArm, rows: GradedRows, shape: TaskShape) -> dict[str, FloatArray]:
    given = {"reward": arm.rewards, "watch_reward": arm.watched}
    found = {}
    for metric in metrics:
        values = given.get(metric.name)
        if values is not None:
            found[metric.name] = np.column_stack([np.asarray(values, dtype=np.float64), np.ones(len(values))])
        elif metric.statistics is not None:
            found[metric.name] = metric.statistics(arm.result.predictions, rows.references, shape)
    return found


def _differences(
    metrics: Sequence[Metric],
    arms: Sequence[GradedArm],
    statistics: Mapping[str, Mapping[str, FloatArray]],
    bootstrap: PairedBootstrap,
) -> list[Difference]:
    by_name = {arm.result.arm: arm.result for arm in arms}
    if not {"base", "tuned"} <= by_name.keys():
        return []
    alike = list(by_name["tuned"].predictions) == list(by_name["base"].predictions)
    found = []
    for metric in metrics:
        finite = metric.bounds if np.isfinite(metric.bounds).all() and not alike else None
        compared = bootstrap.compare(
            statistics["tuned"][metric.name], statistics["base"][metric.name], metric.aggregate,
            higher_is_better=metric.higher_is_better, bounds=finite, row_scores=metric.row_aggregate,
        )  # fmt: skip
        found += [Difference("tuned", "base", metric.name, one) for one in corrected([compared])]
    return found


def _summary(
    arm: GradedArm, metrics: Sequence[Metric], statistics: Mapping[str, FloatArray], bootstrap: PairedBootstrap
) -> ArmSummary:
    result = arm.result
    read = result.prompt_tokens
    return ArmSummary(
        arm=result.arm,
        score=REWARD.corpus_score(statistics["reward"]),
        interval=bootstrap.interval(statistics["reward"], REWARD.aggregate),
        metrics={metric.name: metric.corpus_score(statistics[metric.name]) for metric in metrics},
        stop_share=sum(map(bool, result.stopped)) / len(result.stopped),
        tokens=None if result.output_tokens is None else sum(result.output_tokens),
        seconds=result.seconds,
        most_common_share=most_common_share(result.predictions),
        prompt_tokens=None if read is None else sum(read),
        computed_prompt_tokens=None if read is None else sum(read) - result.shared_prompt_tokens * (len(read) - 1),
        answers=len(result.predictions),
        how=result.how,
    )


def _average(values: Sequence[float]) -> float | None:
    return round(sum(values) / len(values), _DECIMALS) if values else None
