"""What retention does to a verdict: a model that is better in its domain and has forgotten the rest is not shipped.

Where the tuned model would not be shipped anyway (it is worse; prompting or retrieval is enough), the decision stays
and the loss is a warning. Answers to general prompts that turned into answers of the domain are a warning too.
"""

from __future__ import annotations

from dataclasses import replace

from hone.evaluation.retention import Retention
from hone.evaluation.verdict import Verdict

__all__ = ["with_retention"]

# Decisions under which somebody may yet use the tuned model.
_OPEN = ("ship", "ship_with_retrieval", "not_enough_evidence")
# Of the base's own answers; above it the measure of brittleness tells little.
_UNTOLD_SHARE = 0.25
_WORRYING_SHARE = 0.05


def with_retention(verdict: Verdict, retention: Retention) -> Verdict:
    """The verdict that also knows what was forgotten.

    Args:
        verdict: from the comparison in the domain alone.
        retention: what was measured.
    """
    found = retention.to_json()
    numbers = {**verdict.numbers, "retention": {"keep": retention.keep, "kept": found["kept"]}}
    if retention.forgot and str(numbers.get("arm")).startswith("tuned"):
        numbers["arm"] = None  # no tuned arm is to be taken, whatever the domain says
    missing = [one for one in verdict.not_measured if one["what"] != "retention"]
    changed = replace(
        verdict,
        numbers=numbers,
        warnings=(*verdict.warnings, *_warnings(retention)),
        not_measured=(*missing, *retention.not_measured),
    )
    if not retention.forgot:
        return replace(changed, reason=verdict.reason + _kept(retention)) if verdict.decision in _OPEN else changed
    lost = "; ".join(retention.losses)
    if verdict.decision not in _OPEN:
        return replace(changed, warnings=(*changed.warnings, f"It forgot: {lost}."))
    reason = f"It forgot what the base could do: {lost}. In its domain: {verdict.reason}"
    return replace(changed, decision="do_not_ship", reason=reason, exit_code=3)


def _kept(retention: Retention) -> str:
    """A sentence for the reason; nothing where retention was not judged."""
    questions = retention.questions[0] if retention.questions else None
    if retention.keep == "off" or questions is None or questions.base is None or questions.tuned is None:
        return ""
    return (
        f" What the base could do elsewhere was kept: of general questions it answers {questions.tuned:.0f}% rightly, "
        f"the base {questions.base:.0f}%."
    )


def _warnings(retention: Retention) -> list[str]:
    brittle = retention.brittleness
    if brittle is None or not brittle.prompts:
        return []
    turned, told = len(brittle.turned), brittle.base_like_domain <= _UNTOLD_SHARE * brittle.prompts
    if told and turned > _WORRYING_SHARE * brittle.prompts:
        return [f"{turned} of {brittle.prompts} answers to general prompts turned into answers of the domain."]
    return []
