"""The decision that a comparison of arms allows, with its sentence; ``verdict.py`` puts warnings around it.

The choice of the arm is ``choice.py``'s; here it gets its name:

    tuned             ship; do_not_ship where it is worse than the base on a part of the rows (``slices.py``);
                      not_enough_evidence where labels, JSON or short answers may be right by chance (``fit.py``)
    tuned_retrieval   ship_with_retrieval
    prompted, few_shot   prompting_is_enough
    retrieval         retrieval_is_enough
    base              prompting_is_enough where the base scores at least 75 of 100, so that there is little to gain;
                      else do_not_ship: the training has brought nothing
    none              not_enough_evidence
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from hone.evaluation.choice import ARM_NAMES, Choice, choose_arm, is_better
from hone.evaluation.digits import digits_of
from hone.evaluation.fit import Fit
from hone.evaluation.outcome import Evaluation
from hone.evaluation.slices import SliceFound
from hone.evaluation.statistics import LARGEST_FACTOR, Comparison

__all__ = ["ArmsDecision", "Decision", "decide_between_arms", "worse_slices"]

Decision = Literal[
    "ship", "do_not_ship", "prompting_is_enough", "retrieval_is_enough", "ship_with_retrieval", "not_enough_evidence"
]

DONE_ALREADY = 75.0
DEARER = 1.5


@dataclass(frozen=True, slots=True)
class ArmsDecision:
    """What the arms alone say.

    Args:
        decision: one of the decisions of a verdict.
        reason: a sentence or two with the figures.
        arm: the arm to take; None where that is open.
        warnings: what to know about the other arms.
    """

    decision: Decision
    reason: str
    arm: str | None
    warnings: tuple[str, ...] = ()


def decide_between_arms(evaluation: Evaluation) -> ArmsDecision:
    """Name what the intervals allow.

    Args:
        evaluation: with a base and a tuned arm whose difference has an interval.
    """
    choice = choose_arm(evaluation)
    rows = f"On {evaluation.held_out}"
    if choice.arm is None:
        return ArmsDecision("not_enough_evidence", f"{rows} {_undecided(evaluation, choice)}", None)
    warnings = tuple(_rival(evaluation, choice.arm, rival) for rival in choice.rivals)
    if choice.arm.startswith("tuned"):
        if evaluation.fit is not None and evaluation.fit.is_form_alone(choice.arm):
            reason = f"{rows} {ARM_NAMES[choice.arm]} {_form(evaluation, evaluation.fit, choice.arm)}"
            return ArmsDecision("do_not_ship", reason, None, warnings)
        if evaluation.fit is not None and not evaluation.fit.is_shown(choice.arm):
            reason = f"{rows} {ARM_NAMES[choice.arm]} {_chance(evaluation, evaluation.fit, choice.arm)}"
            return ArmsDecision("not_enough_evidence", reason, None, warnings)
        if parts := worse_slices(evaluation, choice.arm):
            return ArmsDecision("do_not_ship", f"{rows} {_worse_on(evaluation, choice.arm, parts)}", None, warnings)
        others = [name for name in ARM_NAMES if name in evaluation.arms and name not in ("base", choice.arm)]
        reason = f"{rows} {ARM_NAMES[choice.arm]} is better: {_against(evaluation, choice.arm, 'base')}."
        beside = [_beside(evaluation, choice.arm, other) for other in others if other not in choice.rivals]
        reason += f" Beside it: {'; '.join(beside)}." if beside else ""
        decision: Decision = "ship" if choice.arm == "tuned" else "ship_with_retrieval"
        return ArmsDecision(decision, reason, choice.arm, warnings)
    already = evaluation.metric.bounds == (0.0, 100.0) and evaluation.arms["base"].score >= DONE_ALREADY
    if is_better(evaluation, "base", "tuned"):
        worse = f"the tuned model is worse: {_against(evaluation, 'tuned', 'base')}"
        if choice.arm == "base" and already:
            reason = f"{rows} the base does the task as it is, and {worse}."
            return ArmsDecision("prompting_is_enough", reason, "base", warnings)
        if choice.arm == "base":
            return ArmsDecision("do_not_ship", f"{rows} {worse}.", "base", warnings)
        warnings = (f"Beside the base as it is, {worse}.", *warnings)
    best = "tuned_retrieval" if _scores_best(evaluation, "tuned_retrieval", "tuned") else "tuned"
    if choice.arm == "base":
        comparison = _against(evaluation, best, "base")
        if already:
            reason = f"{rows} the base does the task as it is: {comparison}."
            return ArmsDecision("prompting_is_enough", reason, "base", warnings)
        found = f"is no better: {comparison}"
        if is_better(evaluation, best, "base"):  # and yet it was not to be chosen
            stops, least = (f"{evaluation.arms[arm].stop_share:.0%}" for arm in (best, "base"))
            found = f"scores better, and ends its answers too seldom ({stops} of them; the base {least}): {comparison}"
        return ArmsDecision("do_not_ship", f"{rows} {ARM_NAMES[best]} {found}.", "base", warnings)
    better = is_better(evaluation, choice.arm, best)
    word = "is better than" if better else "is not worse than"
    reason = f"{rows} {ARM_NAMES[choice.arm]} {word} {ARM_NAMES[best]}: {_against(evaluation, best, choice.arm)}."
    enough: Decision = "retrieval_is_enough" if choice.arm == "retrieval" else "prompting_is_enough"
    return ArmsDecision(enough, reason + _price(evaluation, choice.arm, best), choice.arm, warnings)


def _chance(evaluation: Evaluation, fit: Fit, arm: str) -> str:
    """That the arm's answers may be right by chance alone."""
    digits = _digits(evaluation)
    own, others = (f"{one:.{digits}f}" for one in (fit.arms[arm].own, fit.arms[arm].others))
    low, high = fit.arms[arm].interval or (0.0, 0.0)
    return (
        f"is better ({_against(evaluation, arm, 'base')}), but its answers are not shown to belong to their questions: "
        f"they reach {own} against their own references and {others} against those of other rows (interval of the "
        f"distance {low:+.{digits}f} to {high:+.{digits}f}). More held-out {evaluation.unit}s would tell."
    )


def _form(evaluation: Evaluation, fit: Fit, arm: str) -> str:
    """What shows that the arm's answers do not belong to their questions."""
    digits = _digits(evaluation)
    own, others = (f"{one:.{digits}f}" for one in (fit.arms[arm].own, fit.arms[arm].others))
    of_base = " and ".join(f"{one:.{digits}f}" for one in (fit.arms["base"].own, fit.arms["base"].others))
    return (
        f"has learnt a form and not the task: its answers reach {evaluation.metric.title} {own} against their own "
        f"references and {others} against those of other rows (the base {of_base}). Look whether the training answers "
        "belong to their questions."
    )


def worse_slices(evaluation: Evaluation, arm: str) -> list[SliceFound]:
    """The parts of the rows that count, and on which ``arm`` is shown to be worse than the base.

    Args:
        evaluation: the comparison.
        arm: a tuned arm.
    """
    higher = evaluation.metric.higher_is_better
    return [one for one in evaluation.slices if one.slice.decides and one.is_worse(arm, higher_is_better=higher)]


def _worse_on(evaluation: Evaluation, arm: str, worse: Sequence[SliceFound]) -> str:
    """Better over all rows, and where it is not."""
    digits = _digits(evaluation)
    parts = []
    for one in worse:
        found = _figures(one.against_base[arm], digits)
        scores = f"{one.scores[arm]:.{digits}f} against {one.scores['base']:.{digits}f}"
        parts.append(f"{one.slice.name} ({len(one.slice.rows)} rows): {scores} ({found})")
    return (
        f"{ARM_NAMES[arm]} is better over all ({_against(evaluation, arm, 'base')}) and worse than the base on a part "
        f"of them, {'; '.join(parts)}. More training rows of that kind are the remedy."
    )


def _undecided(evaluation: Evaluation, choice: Choice) -> str:
    tuned, untuned = choice.pair or ("tuned", "base")
    found = evaluation.difference(tuned, untuned)
    needed = found.comparison.rows_needed if found else None
    if needed is None:
        least = LARGEST_FACTOR * evaluation.rows
        remedy = f"a difference this small would take more than {least} held-out {evaluation.unit}s to decide"
    else:
        more = max(1, needed - evaluation.rows)
        remedy = f"about {more} more held-out {evaluation.unit}{'' if more == 1 else 's'} would decide it"
    if untuned == "base" and tuned == "tuned":
        return f"it is undecided which is better: {_against(evaluation, tuned, untuned)}; {remedy}."
    names = f"{ARM_NAMES[tuned]} or {ARM_NAMES[untuned]}"
    return f"it is undecided which is better, {names}: {_against(evaluation, tuned, untuned)}; {remedy}."


def _against(evaluation: Evaluation, arm: str, other: str) -> str:
    """Both scores, the difference, its interval and its p-value."""
    digits = _digits(evaluation)
    against = "the base's" if other == "base" else f"{ARM_NAMES[other]} at"
    scores = (
        f"{evaluation.metric.title} {evaluation.arms[arm].score:.{digits}f} against {against} "
        f"{evaluation.arms[other].score:.{digits}f}"
    )
    found = evaluation.difference(arm, other)
    return scores if found is None else f"{scores} ({_figures(found.comparison, digits)})"


def _figures(compared: Comparison, digits: int) -> str:
    if compared.interval is None or compared.p_value is None:
        return f"difference {compared.difference:+.{digits}f}, no interval"
    low, high = compared.interval
    return (
        f"difference {compared.difference:+.{digits}f}, {compared.confidence:.0%} interval {low:+.{digits}f} to "
        f"{high:+.{digits}f}, {_p(compared.p_value if compared.p_adjusted is None else compared.p_adjusted)}"
    )


def _beside(evaluation: Evaluation, arm: str, other: str) -> str:
    score = f"{evaluation.arms[other].score:.{_digits(evaluation)}f}"
    if is_better(evaluation, arm, other):
        return f"{ARM_NAMES[other]} {score}"
    return f"{ARM_NAMES[other]} {score}, no better"


def _rival(evaluation: Evaluation, arm: str, rival: str) -> str:
    return f"Whether {ARM_NAMES[rival]} does as well is undecided: {_of_pair(evaluation, arm, rival)}."


def _of_pair(evaluation: Evaluation, arm: str, other: str) -> str:
    found = evaluation.difference(arm, other)
    return _against(evaluation, arm, other) if found else _against(evaluation, other, arm)


def _price(evaluation: Evaluation, arm: str, other: str) -> str:
    """What an answer costs where it costs much more than the tuned one's."""
    own, others = evaluation.arms[arm].cost, evaluation.arms[other].cost
    if not own or not others or own <= DEARER * others:
        return ""
    return f" An answer of it costs {own / others:.1f} times as many tokens."


def _scores_best(evaluation: Evaluation, arm: str, other: str) -> bool:
    if arm not in evaluation.arms:
        return False
    ahead = evaluation.arms[arm].score - evaluation.arms[other].score
    return ahead > 0 if evaluation.metric.higher_is_better else ahead < 0


def _digits(evaluation: Evaluation) -> int:
    return digits_of(evaluation.metric.name)


def _p(p_value: float) -> str:
    return "p < 0.001" if p_value < 0.001 else f"p = {p_value:.3f}"
