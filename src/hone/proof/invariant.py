"""One invariant of the proof: what was measured, against which bound, and what to do where it does not hold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from hone.errors import ProofError
from hone.types import JsonDict

__all__ = ["Invariant", "described", "listed", "require_all"]

_MOST_LISTED = 5


@dataclass(frozen=True, slots=True)
class Invariant:
    """One measured invariant.

    Args:
        number: its place in the proof, 1 to 12 (docs/proof.md).
        name: what holds, in words.
        holds: whether the figure is within its bound.
        measured: the figure.
        bound: the rule it was held against, as text with the number.
        checked: on what it was measured, as ``8 of 120 rows``.
        remedy: what to do where it does not hold.
        found: the rows or tensors that break it, or the reason in words; empty where it holds.
    """

    number: int
    name: str
    holds: bool
    measured: float
    bound: str
    checked: str
    remedy: str
    found: str = ""

    def to_json(self) -> JsonDict:
        """As it stands in ``proof.json``."""
        return asdict(self)


def described(invariant: Invariant) -> str:
    """One that does not hold in a sentence: figure, bound, on what, and what was found."""
    found = f"; {invariant.found}" if invariant.found else ""
    figures = f"measured {invariant.measured:g}, bound {invariant.bound} ({invariant.checked}){found}"
    return f"{invariant.number}. {invariant.name}: {figures}"


def listed(items: Sequence[str]) -> str:
    """The first few of many, and how many more there are."""
    more = len(items) - _MOST_LISTED
    return "; ".join(items[:_MOST_LISTED]) + (f"; and {more} more" if more > 0 else "")


def require_all(invariants: Sequence[Invariant]) -> None:
    """Stop where an invariant does not hold.

    Raises:
        ProofError: names every failed invariant with its figure, bound, what was found, and remedy.
    """
    failed = [invariant for invariant in invariants if not invariant.holds]
    if failed:
        raise ProofError(
            f"{len(failed)} of {len(invariants)} invariants do not hold on this model and data; nothing was trained",
            details=[described(invariant) for invariant in failed],
            remedy="; ".join(dict.fromkeys(i.remedy for i in failed)),
        )
