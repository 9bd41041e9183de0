"""Inline SVG for the report: intervals of scores, and training curves.

No scripts, no fonts, no fixed width: positions are percentages, so that text keeps its size on a telephone, and all
colours are CSS classes of the page, so that dark and light both work. Every chart has a title and a description for
screen readers, and the page repeats its figures in a table.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

__all__ = ["Interval", "curve_chart", "interval_chart"]

ROW_HEIGHT = 46
LABEL_HEIGHT = 23
AXIS_HEIGHT = 26
LEFT, RIGHT = 2.0, 98.0
CURVE_HEIGHT = 180


@dataclass(frozen=True, slots=True)
class Interval:
    """One row of an interval chart.

    Args:
        label: what it is, as printed.
        value: the point estimate.
        low: lower end; None where there is no interval.
        high: upper end; None where there is no interval.
        text: the figures, as printed beside the label.
        style: CSS class that colours the row.
    """

    label: str
    value: float
    low: float | None
    high: float | None
    text: str
    style: str


def interval_chart(rows: Sequence[Interval], title: str, *, zero_line: bool = False) -> Markup:
    """Draw a dot with its whiskers for each row over one shared axis.

    Args:
        rows: from top to bottom; at least one.
        title: read by screen readers.
        zero_line: mark 0, and keep it in view.
    """
    values = [end for row in rows for end in (row.value, row.low, row.high) if end is not None]
    ticks = _ticks(min(values + [0.0] * zero_line), max(values + [0.0] * zero_line))
    low, high = ticks[0], ticks[-1]
    bottom = ROW_HEIGHT * len(rows) + 4

    def across(value: float) -> str:
        return f"{LEFT + (RIGHT - LEFT) * (value - low) / (high - low):.2f}%"

    parts = [_opening(bottom + AXIS_HEIGHT, title, "; ".join(f"{row.label} {row.text}" for row in rows))]
    for tick in ticks:
        line = Markup('<line class="{}" x1="{x}" x2="{x}" y1="{}" y2="{}"/>')
        if zero_line and tick == 0:  # a piece in each row, under its label: a line through text cannot be read
            tops = [ROW_HEIGHT * number + LABEL_HEIGHT for number in range(len(rows))]
            parts += [line.format("zero", top, top + ROW_HEIGHT - LABEL_HEIGHT, x=across(tick)) for top in tops]
        else:
            parts.append(line.format("grid", 0, bottom, x=across(tick)))
        anchor = "start" if tick == ticks[0] else "end" if tick == ticks[-1] else "middle"
        label = Markup('<text class="tick" x="{}" y="{}" text-anchor="{}">{}</text>')
        parts.append(label.format(across(tick), bottom + 17, anchor, f"{tick:g}"))
    for number, row in enumerate(rows):
        parts.append(_interval_row(row, ROW_HEIGHT * number, across))
    return Markup("").join([*parts, Markup("</svg>")])


def _interval_row(row: Interval, top: int, across: Callable[[float], str]) -> Markup:
    middle = top + 33
    mark = Markup('<g class="{}">').format(row.style)
    mark += Markup('<text class="row" x="{}%" y="{}"><tspan class="name">{}</tspan> {}</text>').format(
        LEFT, top + 18, row.label, row.text
    )
    if row.low is not None and row.high is not None:
        whisker = Markup('<line class="whisker" x1="{}" x2="{}" y1="{y}" y2="{y}"/>')
        mark += whisker.format(across(row.low), across(row.high), y=middle)
        for end in (row.low, row.high):
            cap = Markup('<line class="cap" x1="{x}" x2="{x}" y1="{}" y2="{}"/>')
            mark += cap.format(middle - 5, middle + 5, x=across(end))
    mark += Markup('<circle class="dot" cx="{}" cy="{}" r="5.5"/></g>').format(across(row.value), middle)
    return mark


def curve_chart(curves: Sequence[tuple[str, str, Sequence[tuple[float, float]]]], title: str) -> Markup | None:
    """Draw lines of (step, value) points on shared axes.

    Args:
        curves: (label, CSS class, points) for each line; points that are not finite are left out.
        title: read by screen readers.

    Returns:
        The drawing, or None where no curve has two points.
    """
    finite = [
        (label, style, [(x, y) for x, y in points if math.isfinite(x) and math.isfinite(y)])
        for label, style, points in curves
    ]
    drawn = [(label, style, points) for label, style, points in finite if len(points) >= 2]
    if not drawn:
        return None
    steps = [x for _, _, points in drawn for x, _ in points]
    first, last = min(steps), max(steps)
    ticks = _ticks(0.0, max(y for _, _, points in drawn for _, y in points))
    top = ticks[-1]

    def height(value: float) -> float:
        return round(CURVE_HEIGHT * (1 - value / top), 2)

    ends = [f"{label} from {points[0][1]:.3g} to {points[-1][1]:.3g}" for label, _, points in drawn]
    parts = [_opening(CURVE_HEIGHT + AXIS_HEIGHT + 10, title, "; ".join(ends))]
    for tick in ticks:
        line = Markup('<line class="grid" x1="7%" x2="100%" y1="{y}" y2="{y}"/>')
        parts.append(line.format(y=height(tick) + 8))
        label = Markup('<text class="tick" x="6%" y="{}" text-anchor="end">{}</text>')
        parts.append(label.format(height(tick) + 12, f"{tick:g}"))
    plot = Markup('<svg x="7%" y="8" width="93%" height="{}" viewBox="0 0 1000 {}" preserveAspectRatio="none">')
    parts.append(plot.format(CURVE_HEIGHT, CURVE_HEIGHT))
    for _, style, points in drawn:
        path = " ".join(f"{1000 * (x - first) / max(last - first, 1e-9):.1f},{height(y)}" for x, y in points)
        parts.append(Markup('<polyline class="curve {}" points="{}"/>').format(style, path))
    parts.append(Markup("</svg>"))
    for x, anchor, step in (("7%", "start", first), ("100%", "end", last)):
        label = Markup('<text class="tick" x="{}" y="{}" text-anchor="{}">step {}</text>')
        parts.append(label.format(x, CURVE_HEIGHT + AXIS_HEIGHT, anchor, f"{step:g}"))
    return Markup("").join([*parts, Markup("</svg>")])


def _opening(height: int, title: str, description: str) -> Markup:
    tag = Markup('<svg class="chart" role="img" width="100%" height="{}" aria-label="{}"><title>{}</title>')
    return tag.format(height, f"{title}: {description}", title)


def _ticks(low: float, high: float) -> list[float]:
    """Four to seven round numbers whose ends enclose [low, high]."""
    span = max(high - low, abs(high) * 1e-3, 1e-3)
    power = 10.0 ** math.floor(math.log10(span / 4))
    step = next(factor * power for factor in (1.0, 2.0, 2.5, 5.0, 10.0) if factor * power * 5 >= span)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(number * step, 10) for number in range(first, max(last, first + 1) + 1)]
