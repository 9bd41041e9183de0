"""The strength of an adapter: the frontier of gain against forgetting, and the place on it that keeps retention.

An update is scaled by a number from 0 (the base) to 1 (what was trained). The model need not be trained again: along
this line the domain's loss falls and the distance from the base grows, commonly not at the same places (Wortsman et
al. 2022, "Robust fine-tuning of zero-shot models", arXiv:2109.01903, who scale whole weights).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

from hone.evaluation.retention import QuestionResult, Retention, judge_retention
from hone.types import JsonDict, Keep

__all__ = ["STRENGTHS", "StrengthChoice", "StrengthPoint", "between", "judged_point", "pick_strength", "with_questions"]

# 0 is the base; the last one shows what lies beyond, and is never chosen: a few validation rows do not bear it out.
STRENGTHS = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25)
_MOST = 1.0
# Between neighbours that are nearer than this nothing more is measured.
_FINEST_STEP = 0.1
_DECIMALS = 6


@dataclass(frozen=True, slots=True)
class StrengthPoint:
    """What was measured at one strength.

    Args:
        strength: factor on the update.
        validation_loss: nats a supervised token of the validation rows; None without such rows.
        kl_nats: KL from the base on its own answers to general prompts, nats a token.
        text_bits: bits per byte of general text.
        kept: whether no loss is beyond the bounds with its whole interval.
        kl_nats_interval: 95% interval of ``kl_nats``; None where there can be none.
        text_bits_rise: 95% interval of the change of ``text_bits``; None where there can be none.
        question_points: change of the share of general questions answered rightly, in points, of the worst set; None
            where they were not asked, as they are where a strength would be chosen.
    """

    strength: float
    validation_loss: float | None
    kl_nats: float
    text_bits: float
    kept: bool
    kl_nats_interval: tuple[float, float] | None = None
    text_bits_rise: tuple[float, float] | None = None
    question_points: float | None = None


@dataclass(frozen=True, slots=True)
class StrengthChoice:
    """The strength that is saved.

    Args:
        value: the strength.
        reason: why, in a sentence.
        points: the frontier; empty where nothing was swept.
        gain_share: share of the gain of full strength on the validation rows that is left, 0 to 1; None where it is
            not known.
    """

    value: float
    reason: str
    points: tuple[StrengthPoint, ...] = ()
    gain_share: float | None = None

    def to_json(self) -> JsonDict:
        """All fields."""
        points = [asdict(point) for point in self.points]
        return {"value": self.value, "reason": self.reason, "gain_share": self.gain_share, "points": points}


def judged_point(strength: float, validation_loss: float | None, found: Retention) -> StrengthPoint:
    """A point from what was measured, judged as :func:`hone.evaluation.retention.judge_retention` judges a version.

    Args:
        strength: factor on the update.
        validation_loss: nats a token.
        found: with own answers and general text.
    """
    own, text = found.measures["own_answers"], found.measures["general_text"]
    return StrengthPoint(
        strength,
        None if validation_loss is None else round(validation_loss, _DECIMALS),
        own["kl_nats"],
        text["tuned"],
        not found.forgot,
        None if own["kl_nats_interval"] is None else tuple(own["kl_nats_interval"]),
        None if text["interval"] is None else tuple(text["interval"]),
    )


def with_questions(point: StrengthPoint, keep: Keep, asked: Sequence[QuestionResult]) -> StrengthPoint:
    """The point after general questions were asked at its strength; a loss on them takes it out of the bounds too.

    Args:
        point: as judged on likelihoods.
        keep: how much loss is acceptable.
        asked: at least one set of questions.
    """
    found = judge_retention(keep, questions=asked, own_answers=None, general_text=None, brittleness=None)
    changes = [one.comparison.difference for one in asked if one.comparison is not None]
    points = round(min(changes), _DECIMALS) if changes else None
    return replace(point, kept=point.kept and not found.forgot, question_points=points)


def pick_strength(points: Sequence[StrengthPoint], keep: Keep, *, tolerated_rise: float) -> StrengthChoice:
    """The largest strength that keeps retention and still fits the validation rows.

    Among those above 0 and up to 1 that stay within the bounds: the largest whose validation loss has not risen above
    the lowest of them by more than is tolerated of a step of training; without validation rows the largest. Where
    none is within the bounds, the smallest that was measured.

    Args:
        points: the frontier; at least one above 0 and up to 1.
        keep: how much loss is acceptable.
        tolerated_rise: of the validation loss, as a share of the lowest.
    """
    usable = [point for point in points if 0 < point.strength <= _MOST]
    kept = [point for point in usable if point.kept]
    if not kept:
        best = min(usable, key=lambda point: point.strength)
        reason = f"no strength stays within the bounds of --keep {keep}; this is the least that was measured"
    else:
        best = _largest_that_fits(kept, tolerated_rise)
        reason = "the largest" if len(kept) == len(usable) else f"the largest within the bounds of --keep {keep}"
        if best != max(kept, key=lambda point: point.strength):
            reason += f" whose validation loss is within {tolerated_rise:.0%} of the lowest"
    if len(kept) == len(usable):
        reason += f"; all are within the bounds of --keep {keep}"
    share = _gain_share(points, best)
    if share is not None and share < 1 and len(kept) < len(usable):
        reason += f"; {share:.0%} of the gain on the validation rows is left, --keep off saves all of it"
    return StrengthChoice(best.strength, reason, tuple(points), share)


def between(points: Sequence[StrengthPoint], keep: Keep, *, tolerated_rise: float) -> float | None:
    """One more strength worth measuring: half way from the choice to the next larger one, which keeps less.

    Args:
        points: measured so far.
        keep: how much loss is acceptable.
        tolerated_rise: as for :func:`pick_strength`.

    Returns:
        None where the choice is not limited by the bounds, or the gap is small.
    """
    chosen = pick_strength(points, keep, tolerated_rise=tolerated_rise).value
    by_strength = sorted((one for one in points if one.strength <= _MOST), key=lambda one: one.strength)
    place = next(number for number, one in enumerate(by_strength) if one.strength == chosen)
    if not by_strength[place].kept:
        below = by_strength[place - 1].strength if place else 0.0
        return (below + chosen) / 2 if chosen - below > _FINEST_STEP else None
    if place + 1 == len(by_strength) or by_strength[place + 1].kept:
        return None
    following = by_strength[place + 1]
    kept = [point for point in by_strength if point.kept and point.strength > 0]
    wanted = _largest_that_fits([*kept, following], tolerated_rise) == following
    return (chosen + following.strength) / 2 if wanted and following.strength - chosen > _FINEST_STEP else None


def _largest_that_fits(points: Sequence[StrengthPoint], tolerated_rise: float) -> StrengthPoint:
    losses = [point.validation_loss for point in points if point.validation_loss is not None]
    most = (1 + tolerated_rise) * min(losses) if len(losses) == len(points) else None
    fitting = [point for point in points if most is None or (point.validation_loss or 0.0) <= most]
    return max(fitting, key=lambda point: point.strength)


def _gain_share(points: Sequence[StrengthPoint], best: StrengthPoint) -> float | None:
    """How much of the fall of the validation loss from the base to full strength is left."""
    losses = {point.strength: point.validation_loss for point in points}
    base, full, own = losses.get(0.0), losses.get(_MOST), best.validation_loss
    if base is None or full is None or own is None or full >= base:
        return None
    return round(min(1.0, max(0.0, (base - own) / (base - full))), _DECIMALS)
