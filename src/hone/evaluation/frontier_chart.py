"""The frontier as a chart: forgetting to the right, the domain's loss upwards, one dot for each strength."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from hone.evaluation.paper import NARROW, Paper, can_be_drawn, chart, ticks_around, width_of
from hone.evaluation.svg import COLOURS

__all__ = ["FrontierPoint", "frontier_chart"]

# Pixels.
_HEIGHT = 300
_LEFT, _RIGHT, _BOTTOM = 44, 20, 46
_TOP = 58

# Of a dot, by its style: the saved one is larger, and what is beyond the bounds hollow, so that no colour is needed.
_LOOKS: dict[str, dict[str, Any]] = {
    style: {
        "marker": "o",
        "linestyle": "none",
        "markersize": 13 if style == "tuned" else 8,
        "markerfacecolor": COLOURS["card" if style == "bad" else style],
        "markeredgecolor": COLOURS[style],
        "markeredgewidth": 2,
    }
    for style in ("base", "tuned", "bad")
}

_Box = tuple[float, float, float, float]  # left, top, right, bottom


@dataclass(frozen=True, slots=True)
class FrontierPoint:
    """One strength.

    Args:
        forgetting: distance from the base, to the right.
        loss: of the domain, upwards.
        label: the strength, as printed.
        is_chosen: whether it is the one that was saved.
        is_within: whether it keeps the bounds; None where nothing was judged.
    """

    forgetting: float
    loss: float
    label: str
    is_chosen: bool
    is_within: bool | None = None

    @property
    def style(self) -> str:
        """How the dot is coloured."""
        return "tuned" if self.is_chosen else "bad" if self.is_within is False else "base"


def frontier_chart(points: Sequence[FrontierPoint], title: str, *, bound: float | None = None) -> Markup:
    """Draw the points in their order; the chosen one is larger and coloured. The page repeats them in a table.

    Args:
        points: at least two; those that are not finite are told and not drawn.
        title: read by screen readers.
        bound: the largest distance from the base that is accepted; drawn where it lies among the points.
    """
    told = "; ".join(f"strength {p.label}: loss {p.loss:.3f}, distance {p.forgetting:.3f}" for p in points)
    finite = [point for point in points if can_be_drawn(point.forgetting) and can_be_drawn(point.loss)]
    return chart(title, told, lambda width: _frontier(finite, width, bound))


def _frontier(points: Sequence[FrontierPoint], width: int, bound: float | None) -> Paper:
    paper = Paper(width, _HEIGHT, left=_LEFT, right=_RIGHT, top=_TOP, bottom=_BOTTOM)
    distances, losses = [point.forgetting for point in points] or [0.0], [point.loss for point in points] or [0.0]
    across = ticks_around(min(0.0, *distances), max(distances), most=4 if width == NARROW else 6)
    paper.grid("x", across)
    paper.axes.set_xlim(across[0] - 12 * (across[-1] - across[0]) / width, across[-1])  # room for the dot of the base
    paper.grid("y", ticks_around(min(losses), max(losses), most=4))
    _legend(paper, points)
    loss, distance = "loss on the validation rows", "distance from the base, nats a token"
    paper.write(0, 44, [("", loss)])
    paper.write(width - _RIGHT, _HEIGHT - 6, [("", distance)], anchor="right")
    taken: list[_Box] = [(0, 30, width_of(loss), 48)]
    if bound is not None and across[0] < bound <= across[-1]:
        taken.append(_bound(paper, bound))
    paper.axes.plot(distances, losses, color=COLOURS["base"], linewidth=1, gid="path")
    for point in points:
        _dot(paper, point)
    _labels(paper, points, taken)
    return paper


def _bound(paper: Paper, bound: float) -> _Box:
    """A line at the bound and what it is; the place of its words."""
    paper.axes.axvline(bound, color=COLOURS["bad"], linewidth=1, dashes=(4, 3), gid="bound")
    x, _ = _in_pixels(paper, bound, 0.0)
    words = "bound"
    length = 8 + width_of(words)
    if x > paper.width / 2:
        paper.write(x - 6, _TOP + 13, [("", words)], css_class="bad", anchor="right")
        return x - length, _TOP, x, _TOP + 17
    paper.write(x + 6, _TOP + 13, [("", words)], css_class="bad")
    return x, _TOP, x + length, _TOP + 17


def _dot(paper: Paper, point: FrontierPoint) -> None:
    paper.axes.plot([point.forgetting], [point.loss], gid=f"dot {point.style}", **_LOOKS[point.style])


def _legend(paper: Paper, points: Sequence[FrontierPoint]) -> None:
    """What the dots mean, as far as the chart has them."""
    x = 0.0
    shown = {point.style for point in points}
    for style, words in (("tuned", "saved"), ("base", "other"), ("bad", "beyond the bounds")):
        if style in shown:
            paper.mark(x + 8, 14, gid="dot legend", **_LOOKS[style])
            paper.write(x + 20, 19, [("", words)])
            x += 30 + 0.9 * width_of(words)


def _labels(paper: Paper, points: Sequence[FrontierPoint], taken: list[_Box]) -> None:
    """The strength beside each dot where there is room, that of the chosen one first; the table has them all."""
    places = [_in_pixels(paper, point.forgetting, point.loss) for point in points]
    dots = [(x - 7, y - 7, x + 7, y + 7) for x, y in places]
    for number in sorted(range(len(points)), key=lambda number: not points[number].is_chosen):
        (x, y), point = places[number], points[number]
        wide = width_of(point.label)
        for middle, baseline in ((x, y - 11), (x + 12 + wide / 2, y + 4), (x - 12 - wide / 2, y + 4), (x, y + 21)):
            box = (middle - wide / 2, baseline - 11, middle + wide / 2, baseline + 2)
            others = [*taken, *(dot for at, dot in enumerate(dots) if at != number)]
            if box[0] >= _LEFT and box[2] <= paper.width and not any(_overlap(box, other) for other in others):
                css_class = "name" if point.is_chosen else ""
                paper.write(middle, baseline, [("", point.label)], css_class=css_class, anchor="center")
                taken.append(box)
                break


def _in_pixels(paper: Paper, forgetting: float, loss: float) -> tuple[float, float]:
    x, y = paper.axes.transData.transform((forgetting, loss))
    return float(x), paper.height - float(y)


def _overlap(one: _Box, other: _Box) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]
