"""How much of the base's general ability may be lost: the bounds behind ``--keep``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass

from hone.types import JsonDict, Keep

__all__ = ["KEEP_BOUNDS", "Keep", "KeepBounds"]


@dataclass(frozen=True, slots=True)
class KeepBounds:
    """The most that may be lost.

    Args:
        question_points: points of general questions answered rightly, 0 to 100.
        kl_nats: KL from the base on its own answers to general prompts, nats a token.
        text_rise: rise of the bits per byte of general text, as a share of the base's.
    """

    question_points: float
    kl_nats: float
    text_rise: float

    def to_json(self) -> JsonDict:
        """All fields."""
        return asdict(self)


# Read beside two versions of the embedded base (docs/retention.md); benchmarks/retention.py measures more of them.
KEEP_BOUNDS: Mapping[Keep, KeepBounds | None] = {
    "strict": KeepBounds(question_points=1.0, kl_nats=0.1, text_rise=0.01),
    "balanced": KeepBounds(question_points=4.0, kl_nats=1.0, text_rise=0.05),
    "off": None,
}
