"""Inline SVG of the frontier: forgetting to the right, the domain's loss upwards, one dot for each strength."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

__all__ = ["FrontierPoint", "frontier_chart"]

_HEIGHT = 220
_LEFT, _RIGHT = 9.0, 97.0
_TOP, _BOTTOM = 18, 190


@dataclass(frozen=True, slots=True)
class FrontierPoint:
    """One strength.

    Args:
        forgetting: distance from the base, to the right.
        loss: of the domain, upwards.
        label: the strength, as printed.
        is_chosen: whether it is the one that was saved.
    """

    forgetting: float
    loss: float
    label: str
    is_chosen: bool


def frontier_chart(points: Sequence[FrontierPoint], title: str) -> Markup:
    """Draw the points in their order; the chosen one is larger and coloured. The page repeats them in a table.

    Args:
        points: at least two.
        title: read by screen readers.
    """
    furthest = max(point.forgetting for point in points) or 1.0
    low, high = min(point.loss for point in points), max(point.loss for point in points)
    span = (high - low) or 1.0

    def across(point: FrontierPoint) -> str:
        return f"{_LEFT + (_RIGHT - _LEFT) * point.forgetting / furthest:.2f}%"

    def height(point: FrontierPoint) -> float:
        return round(_BOTTOM - (_BOTTOM - _TOP) * (point.loss - low) / span, 1)

    told = "; ".join(f"strength {p.label}: loss {p.loss:.3f}, distance {p.forgetting:.3f}" for p in points)
    opening = '<svg class="chart" role="img" width="100%" height="{}" aria-label="{}"><title>{}</title>'
    parts = [Markup(opening).format(_HEIGHT, f"{title}: {told}", title)]
    for value, y in ((high, _TOP), (low, _BOTTOM)):
        parts.append(Markup('<line class="grid" x1="7%" x2="100%" y1="{y}" y2="{y}"/>').format(y=y))
        parts.append(
            Markup('<text class="tick" x="6%" y="{}" text-anchor="end">{}</text>').format(y + 4, f"{value:.2f}")
        )
    line = Markup('<line class="grid" x1="{}" y1="{}" x2="{}" y2="{}"/>')
    for before, after in itertools.pairwise(points):
        parts.append(line.format(across(before), height(before), across(after), height(after)))
    for point in points:
        mark = Markup('<g class="{}"><circle class="dot" cx="{}" cy="{}" r="{}"/>')
        parts.append(
            mark.format(
                "tuned" if point.is_chosen else "base", across(point), height(point), 7 if point.is_chosen else 4
            )
        )
        text = Markup('<text class="tick" x="{}" y="{}" text-anchor="middle">{}</text></g>')
        parts.append(text.format(across(point), height(point) - 10, point.label))
    axis = Markup('<text class="tick" x="{}%" y="{}" text-anchor="{}">{}</text>')
    parts.append(axis.format(_LEFT, _HEIGHT - 8, "start", "0: the base"))
    parts.append(axis.format(_RIGHT, _HEIGHT - 8, "end", f"{furthest:.2f} nats a token from the base"))
    return Markup("").join([*parts, Markup("</svg>")])
