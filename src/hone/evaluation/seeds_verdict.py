"""What trainings with other seeds do to a verdict, which is about the adapter of one of them.

ship                  stays where the interval over rows and seeds, too, says better; else not enough evidence: on
                      these rows this adapter is better, and whether its training or its seed did it is open
not enough evidence   stays: what other adapters do is no evidence for the one that is registered; figures are added
ship with retrieval   stays with a warning: the other seeds answered without passages
all others            stay: nothing is claimed of the training; a warning where the seeds do not agree with it
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hone.evaluation.digits import digits_of
from hone.evaluation.scorers import Metric
from hone.types import JsonDict

__all__ = ["with_seeds_verdict"]


def with_seeds_verdict(verdict: JsonDict, seeds: Mapping[str, Any], metric: Metric) -> JsonDict:
    """The verdict that also knows the other seeds.

    Args:
        verdict: the ``verdict`` object of the first seed's comparison.
        seeds: the ``seeds`` object of the evaluation.
        metric: the one that decides.
    """
    sign = 1.0 if metric.higher_is_better else -1.0
    finding = _finding(seeds["different"], sign * seeds["difference"])
    told = _sentence(seeds, metric)
    numbers = {name: seeds[name] for name in ("mean", "standard_deviation", "difference", "interval", "different")}
    changed = {**verdict, "numbers": {**verdict["numbers"], "seeds": {"trainings": len(seeds["trainings"]), **numbers}}}
    decision = verdict["decision"]
    if decision == "ship" and finding != "better":
        why = "which includes 0" if finding == "undecided" else "which is worse"
        reason = f"That the training makes it better, and not its seed, is not shown: {told}, {why}. "
        reason += f"Of seed {seeds['trainings'][0]['seed']}, the registered one, over rows alone: {verdict['reason']}"
        changed["numbers"]["arm"] = None
        return {**changed, "decision": "not_enough_evidence", "reason": reason}
    if decision in ("ship", "not_enough_evidence"):
        return {**changed, "reason": f"{verdict['reason']} Trained again: {told}."}
    if decision == "ship_with_retrieval":
        missing = {
            "what": "seeds with retrieval",
            "reason": "the adapters of the other seeds answered without passages: how much the seed does to the tuned "
            "model with passages is not known",
        }
        warnings = verdict["warnings"] if finding == "better" else [*verdict["warnings"], _capital(f"{told}.")]
        return {**changed, "warnings": warnings, "not_measured": [*verdict["not_measured"], missing]}
    own = verdict["numbers"]
    if _finding(own["different"], sign * own["difference"]) != finding:
        return {**changed, "warnings": [*verdict["warnings"], _capital(f"{told}.")]}
    return changed


def _finding(different: bool, gain: float) -> str:
    return "undecided" if not different else "better" if gain > 0 else "worse"


def _sentence(seeds: Mapping[str, Any], metric: Metric) -> str:
    digits = digits_of(metric.name)
    said = (
        f"over {len(seeds['trainings'])} seeds of training {metric.title} is {seeds['mean']:.{digits}f} on average "
        f"(standard deviation {seeds['standard_deviation']:.{digits}f}), {seeds['difference']:+.{digits}f} beside the "
        "base"
    )
    if seeds["interval"] is None:
        return said
    low, high = seeds["interval"]
    return f"{said}, {seeds['confidence']:.0%} interval over rows and seeds {low:+.{digits}f} to {high:+.{digits}f}"


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
