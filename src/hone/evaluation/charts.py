"""Charts of the report: intervals of scores, and training curves.

Drawn by matplotlib, as SVG inside the page, without scripts and without fixed colours (:mod:`hone.evaluation.svg`).
Every chart has a title and a description for screen readers, and the page repeats its figures in a table.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from hone.evaluation.paper import NARROW, Paper, can_be_drawn, chart, folded, ticks_around, width_of
from hone.evaluation.svg import COLOURS

__all__ = ["Interval", "curve_chart", "interval_chart"]

# Pixels.
_LINE_HEIGHT = 18
_MARK_HEIGHT = 28
_AXIS_HEIGHT = 28
_SIDE = 16
_CURVE_HEIGHT = 190
_LEGEND_WIDTH = 180
_CURVE_LEFT, _CURVE_RIGHT = 44, 48

_BOLD = 1.18  # how much wider a bold name is
_MOST_POINTS = 400  # of a curve; the eye sees no more in 700 pixels


@dataclass(frozen=True, slots=True)
class Interval:
    """One row of an interval chart.

    Args:
        label: what it is, as printed.
        value: the point estimate; one that is not finite is printed and not drawn.
        low: lower end; None where there is no interval.
        high: upper end; None where there is no interval.
        text: the figures, as printed beside the label.
        style: what colours the row: "base", "tuned", "good", "bad" or "open".
    """

    label: str
    value: float
    low: float | None
    high: float | None
    text: str
    style: str

    @property
    def ends(self) -> tuple[float, float] | None:
        """The interval, lower end first; None where there is none that can be drawn."""
        if self.low is None or self.high is None or not (can_be_drawn(self.low) and can_be_drawn(self.high)):
            return None
        return min(self.low, self.high), max(self.low, self.high)


def interval_chart(rows: Sequence[Interval], title: str, *, zero_line: bool = False) -> Markup:
    """Draw a dot with its whiskers for each row over one shared axis.

    Args:
        rows: from top to bottom; at least one.
        title: read by screen readers.
        zero_line: mark 0, and keep it in view.
    """
    description = "; ".join(f"{row.label} {row.text}" for row in rows)
    return chart(title, description, lambda width: _intervals(rows, width, zero_line=zero_line))


def _intervals(rows: Sequence[Interval], width: int, *, zero_line: bool) -> Paper:
    labels = [_label(row, width) for row in rows]
    heights = [_LINE_HEIGHT * len(lines) + _MARK_HEIGHT for lines in labels]
    paper = Paper(width, sum(heights) + _AXIS_HEIGHT, left=_SIDE, right=_SIDE, top=0, bottom=_AXIS_HEIGHT)
    axes = paper.axes
    values = [end for row in rows for end in (row.value, *(row.ends or ())) if can_be_drawn(end)] + [0.0] * zero_line
    ticks = ticks_around(min(values, default=0.0), max(values, default=0.0), most=4 if width == NARROW else 6)
    paper.grid("x", ticks, but_not=0.0 if zero_line else None)
    axes.set_yticks([])
    axes.set_ylim(sum(heights), 0)  # pixels from the upper edge
    top = 0.0
    for row, lines, height in zip(rows, labels, heights, strict=True):
        below_label = top + _LINE_HEIGHT * len(lines) + 4
        if zero_line:  # a piece in each row, under its label: a line through text cannot be read
            zero: dict[str, Any] = {"color": COLOURS["ink"], "linewidth": 1, "dashes": (3, 3), "gid": "zero"}
            axes.plot([0, 0], [below_label, top + height], **zero)
        for number, line in enumerate(lines, start=1):
            paper.write(0, top + _LINE_HEIGHT * number - 3, line, css_class="row")
        _mark(paper, row, below_label + 10)
        top += height
    return paper


def _label(row: Interval, width: int) -> list[list[tuple[str, str]]]:
    """The lines above a row's mark: name and figures, in one line where they fit."""
    if _BOLD * width_of(row.label) + width_of(f" {row.text}") <= width:
        return [[("name", row.label), ("", f" {row.text}")]]
    names = [[("name", line)] for line in folded(row.label, width / _BOLD)]
    return names + [[("", line)] for line in folded(row.text, width) if line]


def _mark(paper: Paper, row: Interval, y: float) -> None:
    colour = COLOURS[row.style]
    if row.ends is not None:
        low, high = row.ends
        gap = math.nan  # lifts the pen: whisker and caps are one path
        whisker: dict[str, Any] = {"color": colour, "linewidth": 2.5, "solid_capstyle": "butt"}
        across, down = [low, high, gap, low, low, gap, high, high], [y, y, gap, y - 5, y + 5, gap, y - 5, y + 5]
        paper.axes.plot(across, down, gid=f"whisker {row.style}", **whisker)
    if can_be_drawn(row.value):
        dot: dict[str, Any] = {
            "marker": "o",
            "linestyle": "none",
            "markersize": 11,
            "markerfacecolor": colour,
            "markeredgewidth": 0,
        }
        paper.axes.plot([row.value], [y], gid=f"dot {row.style}", **dot)


def curve_chart(curves: Sequence[tuple[str, str, Sequence[tuple[float, float]]]], title: str) -> Markup | None:
    """Draw lines of (step, value) points on shared axes.

    Args:
        curves: (label, style, points) for each line, the style as of :class:`Interval`; points that are not finite are
            left out.
        title: read by screen readers.

    Returns:
        The drawing, or None where no curve has two points.
    """
    finite = [
        (label, style, [(x, y) for x, y in points if can_be_drawn(x) and can_be_drawn(y)])
        for label, style, points in curves
    ]
    drawn = [(label, style, points) for label, style, points in finite if len(points) >= 2]
    if not drawn:
        return None
    ends = [f"{label} from {points[0][1]:.3g} to {points[-1][1]:.3g}" for label, _, points in drawn]
    return chart(title, "; ".join(ends), lambda width: _lines(drawn, width))


def _lines(curves: Sequence[tuple[str, str, Sequence[tuple[float, float]]]], width: int) -> Paper:
    columns = max(1, width // _LEGEND_WIDTH)
    legend = _LINE_HEIGHT * math.ceil(len(curves) / columns) + 12
    height = legend + _CURVE_HEIGHT + _AXIS_HEIGHT + 16
    margins: dict[str, float] = {"left": _CURVE_LEFT, "right": _CURVE_RIGHT, "top": legend, "bottom": _AXIS_HEIGHT + 16}
    paper = Paper(width, height, **margins)
    steps = [x for _, _, points in curves for x, _ in points]
    values = [y for _, _, points in curves for _, y in points]
    ticks = ticks_around(min(0.0, *values), max(values), most=4)
    paper.grid("y", ticks)
    _step_axis(paper, min(steps), max(steps))
    paper.write(_CURVE_LEFT + (width - _CURVE_LEFT - _CURVE_RIGHT) / 2, height - 6, [("", "step")], anchor="center")
    places = _apart([_CURVE_HEIGHT * (ticks[-1] - points[-1][1]) / (ticks[-1] - ticks[0]) for _, _, points in curves])
    for number, ((label, style, points), place) in enumerate(zip(curves, places, strict=True)):
        look: dict[str, Any] = {"color": COLOURS[style], "linewidth": 2, "gid": f"curve {style}"}
        look |= {"dashes": (3.5, 2)} if style == "tuned" else {"solid_capstyle": "round"}
        thinned = _thinned(points)
        paper.axes.plot([x for x, _ in thinned], [y for _, y in thinned], **look)
        paper.write(width - _CURVE_RIGHT + 6, legend + place + 4, [("", f"{points[-1][1]:.3g}")], css_class=style)
        x, y = number % columns * _LEGEND_WIDTH, _LINE_HEIGHT * (number // columns) + 13
        paper.mark(x, x + 26, y - 4, **{**look, "gid": "sample"})
        paper.write(x + 34, y, [("", label)])
    return paper


def _step_axis(paper: Paper, first: float, last: float) -> None:
    """Steps below the curves, without lines; the axis ends where the curves do."""
    last = last if last > first else first + 1.0
    inner = [tick for tick in ticks_around(first, last, most=5) if first <= tick <= last]
    paper.axes.set_xticks(inner, labels=[f"{tick:.10g}" for tick in inner])
    paper.axes.set_xlim(first, last)


def _apart(places: Sequence[float]) -> list[float]:
    """The places, at least a line of text from each other, in their order."""
    moved = list(places)
    order = sorted(range(len(places)), key=lambda number: places[number])
    for before, after in itertools.pairwise(order):
        moved[after] = max(moved[after], moved[before] + _LINE_HEIGHT - 3)
    return moved


def _thinned(points: Sequence[tuple[float, float]]) -> Sequence[tuple[float, float]]:
    """Of many points, the lowest and the highest of each stretch: the line looks the same."""
    if len(points) <= _MOST_POINTS:
        return points
    size = math.ceil(2 * (len(points) - 2) / (_MOST_POINTS - 2))
    kept = [points[0]]
    for start in range(1, len(points) - 1, size):
        stretch = range(start, min(start + size, len(points) - 1))
        ends = {min(stretch, key=lambda at: points[at][1]), max(stretch, key=lambda at: points[at][1])}
        kept += [points[at] for at in sorted(ends)]
    return [*kept, points[-1]]
