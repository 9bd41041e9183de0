"""What the comparison lets one say.

    ship                 the tuned arm is better than the base on the primary metric (see ``statistics.py`` for when
                         two arms count as different), and no cheaper arm is as good
    ship_with_retrieval  the same, with passages from the documents in its prompt
    prompting_is_enough  the base with an instruction or examples is not worse, at no higher price
    retrieval_is_enough  the base with passages is not worse
    do_not_ship          it is worse or no better, or worse on a part of the rows (``slices.py``), or has learnt a form
                         alone (``fit.py``), or does not end its answers: under half of them, where the base ends half
    not_enough_evidence  everything else; with about how many held-out rows would decide it, or, where the arm to ship
                         and the base both end under half of their answers, that the scores are of answers cut off
                         (not where pairs of given answers are judged)

``choice.py`` says when an arm is better, not worse or cheaper. What was not measured is listed, never assumed.
"""

from __future__ import annotations

from dataclasses import dataclass

from hone.evaluation.arms import LIKELIHOOD
from hone.evaluation.choice import ARM_NAMES, LEAST_STOP_SHARE, is_better
from hone.evaluation.decision import ArmsDecision, Decision, decide_between_arms
from hone.evaluation.digits import digits_of
from hone.evaluation.outcome import ArmSummary, Difference, Evaluation
from hone.evaluation.preferences import PREFERENCE_ACCURACY
from hone.types import ArmName, JsonDict

__all__ = ["Decision", "Verdict", "decide"]

WORRYING_STOP_SHARE = 0.9
FEW_ROWS = 20
COLLAPSED_SHARE = 0.5
COLLAPSED_FACTOR = 1.5

_OTHER_ARMS: tuple[tuple[ArmName, str], ...] = (
    ("prompted", "whether an instruction to the base alone would do as well"),
    ("few_shot", "whether examples in the base's prompt would do as well"),
    ("retrieval", "whether passages from documents would do as well"),
)


@dataclass(frozen=True, slots=True)
class Verdict:
    """A decision and what led to it.

    Args:
        decision: one of those above.
        reason: one sentence with the figures.
        numbers: those figures, for programs.
        warnings: what else a reader should know before acting, one sentence each.
        not_measured: {"what", "reason"} for each question that this evaluation leaves open.
        exit_code: the command's exit code: 3 for do_not_ship, and where prompting or retrieval is enough and the
            tuned model is worse than its base; else 0.
    """

    decision: Decision
    reason: str
    numbers: JsonDict
    warnings: tuple[str, ...]
    not_measured: tuple[JsonDict, ...]
    exit_code: int

    def to_json(self) -> JsonDict:
        """The ``verdict`` object of a run's result."""
        return {
            "decision": self.decision,
            "reason": self.reason,
            "numbers": self.numbers,
            "warnings": list(self.warnings),
            "not_measured": list(self.not_measured),
            "exit_code": self.exit_code,
        }


def decide(evaluation: Evaluation) -> Verdict:
    """Say what the intervals allow.

    Args:
        evaluation: the comparison; without a tuned and a base arm there is nothing to decide.
    """
    difference = evaluation.difference("tuned", "base")
    if difference is None:
        reason = "There is nothing to decide: tuned and base were not both evaluated."
        return _verdict("not_enough_evidence", reason, {"rows": evaluation.rows}, [], evaluation)
    base, tuned = evaluation.arms["base"], evaluation.arms["tuned"]
    found = _decision(evaluation, base, tuned, difference)
    numbers = {
        **difference.to_json(),
        "base": round(base.score, 6),
        "tuned": round(tuned.score, 6),
        "rows": evaluation.rows,
        "stop_share": {"base": round(base.stop_share, 6), "tuned": round(tuned.stop_share, 6)},
        "arm": found.arm,
        "scores": {name: round(evaluation.arms[name].score, 6) for name in ARM_NAMES if name in evaluation.arms},
    }
    warnings = [*_warnings(evaluation, base, tuned), *found.warnings]
    return _verdict(found.decision, found.reason, numbers, warnings, evaluation)


def _verdict(
    decision: Decision, reason: str, numbers: JsonDict, warnings: list[str], evaluation: Evaluation
) -> Verdict:
    enough = decision in ("prompting_is_enough", "retrieval_is_enough")
    worse = enough and is_better(evaluation, "base", "tuned")
    exit_code = 3 if decision == "do_not_ship" or worse else 0
    return Verdict(decision, reason, numbers, tuple(warnings), tuple(_not_measured(evaluation)), exit_code)


def _decision(evaluation: Evaluation, base: ArmSummary, tuned: ArmSummary, difference: Difference) -> ArmsDecision:
    rows = f"On {evaluation.held_out}"
    if tuned.stop_share < LEAST_STOP_SHARE <= base.stop_share:
        return ArmsDecision("do_not_ship", f"{rows} the tuned model {_cut_off(evaluation, 'tuned')}.", None)
    if difference.comparison.interval is None:
        reason = (
            f"{rows} there can be no interval ({_scores(evaluation, 'tuned')}); more {evaluation.unit}s are needed."
        )
        return ArmsDecision("not_enough_evidence", reason, None)
    found = decide_between_arms(evaluation)
    if found.decision not in ("ship", "ship_with_retrieval") or found.arm is None:
        return found
    neither = base.stop_share < LEAST_STOP_SHARE
    if evaluation.arms[found.arm].stop_share >= LEAST_STOP_SHARE or (
        neither and evaluation.metric.name == PREFERENCE_ACCURACY.name  # it needs no answers; a warning tells of them
    ):
        return found
    reason = f"{rows} {ARM_NAMES[found.arm]} {_cut_off(evaluation, found.arm)}"
    if not neither:
        return ArmsDecision("do_not_ship", f"{reason}.", None, found.warnings)
    reason += (
        ": the scores are of answers cut off at the token limit. Give answers more room with --max-new-tokens, or "
        "train on rows whose answers end."
    )
    return ArmsDecision("not_enough_evidence", reason, None, found.warnings)


def _scores(evaluation: Evaluation, arm: str) -> str:
    digits = digits_of(evaluation.metric.name)
    own, base = (evaluation.arms[name].score for name in (arm, "base"))
    return f"{evaluation.metric.title} {own:.{digits}f} against the base's {base:.{digits}f}"


def _cut_off(evaluation: Evaluation, arm: str) -> str:
    """How many answers of ``arm`` and of the base ended, with the scores."""
    own, base = (evaluation.arms[name].stop_share for name in (arm, "base"))
    return (
        f"ended only {own:.0%} of its answers by itself, where the base ended {base:.0%} ({_scores(evaluation, arm)})"
    )


def _warnings(evaluation: Evaluation, base: ArmSummary, tuned: ArmSummary) -> list[str]:
    warnings = []
    if tuned.stop_share < WORRYING_STOP_SHARE:
        warnings.append(
            f"The tuned model ended {tuned.stop_share:.0%} of its answers by itself (base {base.stop_share:.0%}); "
            "the others ran into the token limit."
        )
    collapsed = max(COLLAPSED_SHARE, COLLAPSED_FACTOR * evaluation.reference_most_common_share)
    if evaluation.rows > 1 and min(1.0, collapsed) <= tuned.most_common_share:
        warnings.append(
            f"The tuned model gave one and the same answer to {tuned.most_common_share:.0%} of the rows; the most "
            f"frequent right answer stands in {evaluation.reference_most_common_share:.0%}."
        )
    for one in evaluation.other_differences:
        if (one.arm, one.against) != ("tuned", "base") or not one.comparison.different:
            continue
        metric = next(metric for metric in evaluation.metrics if metric.name == one.metric)
        if (one.comparison.difference > 0) != metric.higher_is_better:
            digits = digits_of(metric.name)
            warnings.append(f"{metric.title} is worse than the base's ({one.comparison.difference:+.{digits}f}).")
    if evaluation.rows < FEW_ROWS:
        warnings.append(f"{evaluation.held_out} are few; the interval says how much they leave open.")
    return warnings


def _not_measured(evaluation: Evaluation) -> list[JsonDict]:
    told = {one["what"] for one in evaluation.not_measured}
    missing = [{"what": "retention", "reason": "what the model forgot outside this task was not measured"}]
    missing += [
        {"what": arm, "reason": f"this arm was not run: {question} is not known"}
        for arm, question in _OTHER_ARMS
        if arm not in evaluation.arms and arm not in told
    ]
    if evaluation.shape.kind in ("summary", "text"):
        missing.append(
            {
                "what": "faithfulness",
                "reason": "overlap with the reference cannot see whether an answer keeps to the facts of its prompt",
            }
        )
    return missing + [one for one in evaluation.not_measured if not _is_of_an_untuned_arm(one["what"])]


def _is_of_an_untuned_arm(what: str) -> bool:
    """Likelihoods are measured for base and tuned; that the others have none leaves no question open."""
    arms = what.removeprefix(f"{LIKELIHOOD} of ").split(", ") if what.startswith(f"{LIKELIHOOD} of ") else []
    return bool(arms) and not {"base", "tuned"} & set(arms)
