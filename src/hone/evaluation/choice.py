"""Which arm to take: of those that no other is better than the cheapest, if it is shown to be no worse.

    better      the interval of the difference leaves out 0, and the corrected p-value agrees (``statistics.py``)
    not worse   the other arm is not better, and the interval ends before a loss that would matter
    cheaper     fewer tokens an answer; a tuned arm counts half as much again, since it must be trained, kept, served

A loss matters from 5 points of 100 (0.05 bits per byte), or from a tenth of the best arm's gain over the base where
that is more. The choice is among the arms with the names of ``ArmName``; other versions and endpoints are compared,
and chosen by nobody.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hone.evaluation.outcome import Difference, Evaluation

__all__ = ["ARM_NAMES", "EFFORT", "LEAST_STOP_SHARE", "Choice", "choose_arm", "is_better", "is_not_worse", "margin"]

EFFORT = ("base", "prompted", "few_shot", "retrieval", "tuned", "tuned_retrieval")
ARM_NAMES = {
    "base": "the base as it is",
    "prompted": "the base with an instruction",
    "few_shot": "the base with examples in its prompt",
    "retrieval": "the base with passages from the documents",
    "tuned": "the tuned model",
    "tuned_retrieval": "the tuned model with passages from the documents",
}
LEAST_STOP_SHARE = 0.5
"""Share of its answers that a model must end by itself to be chosen, where the base does so."""
MATTERING_SHARE = 0.1
MATTERING_POINTS = 5.0
MATTERING_BITS = 0.05
TUNED_PRICE = 1.5


@dataclass(frozen=True, slots=True)
class Choice:
    """What the intervals say.

    Args:
        arm: the arm to take; None where they leave it open.
        leaders: the arms that no other is better than, cheapest first.
        pair: where it is open, a tuned and an untuned leader, each the best of its kind.
        rivals: leaders that ``arm`` was not shown to be as good as.
    """

    arm: str | None
    leaders: tuple[str, ...]
    pair: tuple[str, str] | None = None
    rivals: tuple[str, ...] = ()


def choose_arm(evaluation: Evaluation) -> Choice:
    """Choose among the arms that end their answers; among all, where the base does not end its own.

    Leaders are the arms that no other is better than. The cheapest of them is taken if it is not worse than the other
    leaders; a tuned one only where it is better than the base. Else, where the leaders are all tuned, or all untuned,
    the question of this comparison is settled all the same, and the one that scores best is taken.

    Args:
        evaluation: with at least a base and a tuned arm.
    """
    arms = _by_cost(evaluation)
    leaders = [one for one in arms if not any(is_better(evaluation, other, one) for other in arms if other != one)]
    fit = [one for one in leaders if not one.startswith("tuned") or is_better(evaluation, one, "base")]
    if fit and all(is_not_worse(evaluation, fit[0], other) for other in leaders if other != fit[0]):
        return Choice(fit[0], tuple(leaders))
    tuned = [one for one in leaders if one.startswith("tuned")]
    untuned = [one for one in leaders if one not in tuned]
    if tuned and untuned:
        return Choice(None, tuple(leaders), (_best(evaluation, tuned), _best(evaluation, untuned)))
    if not fit:
        return Choice(None, tuple(leaders))
    taken = _best(evaluation, fit)
    return Choice(taken, tuple(leaders), rivals=tuple(one for one in leaders if one != taken))


def is_better(evaluation: Evaluation, arm: str, other: str) -> bool:
    """Whether ``arm`` is shown to be better than ``other``."""
    found = _oriented(evaluation, arm, other)
    return found is not None and found[0].comparison.different and found[1] > 0


def is_not_worse(evaluation: Evaluation, arm: str, other: str) -> bool:
    """Whether ``arm`` is shown to be no worse than ``other`` by what would matter."""
    if is_better(evaluation, arm, other):
        return True
    found = _oriented(evaluation, arm, other)
    if found is None or found[0].comparison.interval is None or found[0].comparison.different:
        return False
    direction = _direction(evaluation, arm, found[0])
    return min(direction * end for end in found[0].comparison.interval) > -margin(evaluation)


def margin(evaluation: Evaluation) -> float:
    """The least difference that matters, in the unit of the deciding metric."""
    base = evaluation.arms.get("base")
    own = [summary.score for name, summary in evaluation.arms.items() if name in EFFORT]
    gain = max((abs(score - base.score) for score in own), default=0.0) if base else 0.0
    least = MATTERING_BITS if evaluation.metric.name == "bits_per_byte" else MATTERING_POINTS
    return max(least, MATTERING_SHARE * gain)


def _oriented(evaluation: Evaluation, arm: str, other: str) -> tuple[Difference, int] | None:
    """The difference of two arms and +1 where it speaks for ``arm``, -1 where against it, 0 for none."""
    found = evaluation.difference(arm, other) or evaluation.difference(other, arm)
    if found is None:
        return None
    size = found.comparison.difference * _direction(evaluation, arm, found)
    return found, (size > 0) - (size < 0)


def _direction(evaluation: Evaluation, arm: str, found: Difference) -> int:
    """+1 where a positive difference speaks for ``arm``."""
    upwards = evaluation.metric.higher_is_better
    return 1 if (found.arm == arm) == upwards else -1


def _by_cost(evaluation: Evaluation) -> list[str]:
    """The arms that end their answers, cheapest first; all arms where the base itself does not end its own."""
    base = evaluation.arms.get("base")
    least = 0.0 if base and base.stop_share < LEAST_STOP_SHARE else LEAST_STOP_SHARE
    known = [name for name in EFFORT if name in evaluation.arms and evaluation.arms[name].stop_share >= least]
    costs = {name: evaluation.arms[name].cost for name in known}
    if any(cost is None for cost in costs.values()):
        return known
    return sorted(known, key=lambda name: (costs[name] or 0.0) * (TUNED_PRICE if name.startswith("tuned") else 1.0))


def _best(evaluation: Evaluation, names: Sequence[str]) -> str:
    sign = 1.0 if evaluation.metric.higher_is_better else -1.0
    return max(names, key=lambda name: sign * evaluation.arms[name].score)
