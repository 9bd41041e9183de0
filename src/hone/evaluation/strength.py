"""The strength of an adapter: the frontier of gain against forgetting, and the place on it that keeps retention.

An update is scaled by a number from 0 (the base) to 1 (what was trained). The model need not be trained again: along
this line the domain's loss falls and the distance from the base grows, commonly not at the same places (Wortsman et
al. 2022, "Robust fine-tuning of zero-shot models", arXiv:2109.01903, who scale whole weights).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from hone.evaluation.keep import KEEP_BOUNDS
from hone.types import JsonDict, Keep

__all__ = ["STRENGTHS", "StrengthChoice", "StrengthPoint", "is_kept", "pick_strength"]

# 0 is the base; the last one shows what lies beyond, and is never chosen: a few validation rows do not bear it out.
STRENGTHS = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25)
_MOST = 1.0


@dataclass(frozen=True, slots=True)
class StrengthPoint:
    """What was measured at one strength.

    Args:
        strength: factor on the update.
        validation_loss: nats a supervised token of the validation rows; None without such rows.
        kl_nats: KL from the base on its own answers to general prompts, nats a token.
        text_bits: bits per byte of general text.
        kept: whether both are within the bounds.
    """

    strength: float
    validation_loss: float | None
    kl_nats: float
    text_bits: float
    kept: bool


@dataclass(frozen=True, slots=True)
class StrengthChoice:
    """The strength that is saved.

    Args:
        value: the strength.
        reason: why, in a sentence.
        points: the frontier; empty where nothing was swept.
    """

    value: float
    reason: str
    points: tuple[StrengthPoint, ...] = ()

    def to_json(self) -> JsonDict:
        """All fields."""
        return {"value": self.value, "reason": self.reason, "points": [asdict(point) for point in self.points]}


def is_kept(keep: Keep, *, kl_nats: float, text_bits: float, base_text_bits: float) -> bool:
    """Whether a strength stays within the bounds of ``keep`` that likelihoods can tell."""
    bounds = KEEP_BOUNDS[keep]
    return bounds is None or (kl_nats <= bounds.kl_nats and text_bits <= (1 + bounds.text_rise) * base_text_bits)


def pick_strength(points: Sequence[StrengthPoint], keep: Keep) -> StrengthChoice:
    """The best strength that keeps retention.

    Among those above 0 and up to 1 that stay within the bounds: the one with the least validation loss, of equals the
    smaller; without validation rows the largest. Where none does, the smallest that was measured.

    Args:
        points: the frontier; at least one above 0 and up to 1.
        keep: how much loss is acceptable.
    """
    usable = [point for point in points if 0 < point.strength <= _MOST]
    kept = [point for point in usable if point.kept]
    if not kept:
        least = min(usable, key=lambda point: point.strength)
        reason = f"no strength stays within the bounds of --keep {keep}; this is the least that was measured"
        return StrengthChoice(least.strength, reason, tuple(points))
    if any(point.validation_loss is None for point in kept):
        best = max(kept, key=lambda point: point.strength)
        what = "the largest"
    else:
        best = min(kept, key=lambda point: (point.validation_loss, point.strength))
        what = "the least validation loss"
    limited = " of those" if len(kept) < len(usable) else "; all are"
    reason = f"{what}{limited} within the bounds of --keep {keep}"
    return StrengthChoice(best.strength, reason, tuple(points))
