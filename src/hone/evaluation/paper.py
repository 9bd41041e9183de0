"""What the report's charts are drawn on: a figure of matplotlib, in pixels, once wide and once narrow.

A drawing that shrinks with its page cannot be read on a telephone, so that each chart is drawn for both widths, and
the page's style sheet shows the one that fits. matplotlib is imported when the first chart is drawn: that takes half
a second of computing, and no other command shall wait for it.
"""

from __future__ import annotations

import io
import math
import threading
import unicodedata
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from hone.evaluation.svg import COLOURS, TextRuns, as_inline_svg

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["NARROW", "WIDE", "Paper", "can_be_drawn", "chart", "folded", "ticks_around", "width_of"]

WIDE, NARROW = 720, 300  # pixels; a card of the report is 288 wide on a telephone of 360
TEXT_SIZE = 14.0  # pixels, of .row in the page's style sheet; ticks are a pixel smaller
_LARGEST = 1e100
_ONE_AT_A_TIME = threading.Lock()  # matplotlib's settings belong to the whole process
_SETTINGS: Any = {
    "svg.fonttype": "none",  # text stays text: it can be found, copied and read aloud
    "svg.hashsalt": "hone",  # the same figures give the same bytes
    "text.parse_math": False,
    "path.simplify": False,
    "font.size": 13.0,
}


class Paper:
    """A figure of one width and the axes on it.

    Args:
        width: of the figure, pixels.
        height: of the figure, pixels.
        left: pixels left of the axes.
        right: pixels right of the axes.
        top: pixels above the axes.
        bottom: pixels below the axes.
    """

    def __init__(self, width: int, height: float, *, left: float, right: float, top: float, bottom: float) -> None:
        from matplotlib.figure import Figure

        self.width = width
        self.height = height
        self.texts: list[TextRuns] = []
        # At 72 dots an inch, matplotlib's points are pixels.
        self.figure: Figure = Figure((width / 72, height / 72), dpi=72)
        self.figure.patch.set_visible(False)
        self.axes: Axes = self.figure.add_axes(
            (left / width, bottom / height, (width - left - right) / width, (height - top - bottom) / height)
        )
        self.axes.patch.set_visible(False)
        self.axes.spines[:].set_visible(False)
        self.axes.tick_params(length=0, pad=5)

    def write(self, x: float, y: float, runs: TextRuns, *, css_class: str = "", anchor: str = "left") -> None:
        """Put a line of text on the figure.

        Args:
            x: pixels from the left edge.
            y: of the baseline, pixels from the upper edge.
            runs: the words with their CSS classes. They reach the page escaped and are never shown to matplotlib,
                which would look for each character in its own fonts, and for formulas between dollar signs.
            css_class: of the line.
            anchor: "left", "center" or "right": which point of the text lies at ``x``.
        """
        self.figure.text(
            x / self.width, 1 - y / self.height, f"k{len(self.texts)}", ha=anchor, va="baseline", gid=css_class or None
        )
        self.texts.append(runs)

    def mark(self, *ends: float, **look: Any) -> None:
        """Put a marker, or a level line, on the figure, as a legend has it.

        Args:
            ends: x of the marker, or both of the line, and then y: pixels from the left and the upper edge.
            look: properties of a ``matplotlib.lines.Line2D``.
        """
        *across, y = ends
        places = [x / self.width for x in across]
        self.axes.plot(places, [1 - y / self.height] * len(places), transform=self.figure.transFigure, **look)

    def grid(self, axis: str, ticks: list[float], *, but_not: float | None = None) -> None:
        """Light lines and figures at ``ticks``, which also bound the axis.

        Args:
            axis: "x" or "y".
            ticks: rising, at least two.
            but_not: the tick that gets a figure and no line.
        """
        one = self.axes.xaxis if axis == "x" else self.axes.yaxis
        (self.axes.set_xlim if axis == "x" else self.axes.set_ylim)(ticks[0], ticks[-1])
        one.set_ticks(ticks, labels=[f"{tick:.10g}" for tick in ticks])
        one.grid(True, color=COLOURS["line"], linewidth=1, gid="grid")
        for tick, line in zip(ticks, one.get_gridlines(), strict=True):
            line.set_visible(tick != but_not)

    def svg(self, title: str, description: str) -> Markup:
        """The figure as an element of the page."""
        from matplotlib.backends.backend_svg import FigureCanvasSVG

        document = io.StringIO()
        FigureCanvasSVG(self.figure).print_svg(document, metadata={"Date": None})
        name = "chart-wide" if self.width > NARROW else "chart-narrow"
        return as_inline_svg(document.getvalue(), self.texts, title=title, description=description, css_class=name)


def chart(title: str, description: str, draw: Callable[[int], Paper]) -> Markup:
    """A chart in both widths, of which the page's style sheet shows one.

    Args:
        title: of the chart.
        description: its figures in words, for screen readers.
        draw: makes the drawing for a width in pixels.
    """
    import matplotlib

    with _ONE_AT_A_TIME, matplotlib.rc_context():
        matplotlib.rcdefaults()  # a reader's own matplotlibrc is not for this page
        matplotlib.rcParams.update(_SETTINGS)
        drawn = [draw(width).svg(title, description) for width in (WIDE, NARROW)]
    return Markup('<div class="chart">{}</div>').format(Markup("").join(drawn))


def can_be_drawn(value: float) -> bool:
    """Whether a figure has a place on an axis: it is finite, and not so large that the axis cannot be divided."""
    return math.isfinite(value) and abs(value) < _LARGEST


def ticks_around(low: float, high: float, *, most: int) -> list[float]:
    """Round numbers whose ends enclose [low, high].

    Args:
        low: the smallest value; finite.
        high: the largest value; finite.
        most: spaces between ticks, at most.
    """
    from matplotlib.ticker import MaxNLocator

    least = max(abs(low), abs(high)) * 1e-3 or 1.0  # equal values get an axis all the same
    high = max(high, low + least)
    ticks = [float(f"{tick:.10g}") for tick in MaxNLocator(nbins=most, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high)]
    while len(ticks) > 2 and ticks[1] <= low:
        ticks.pop(0)
    while len(ticks) > 2 and ticks[-2] >= high:
        ticks.pop()
    return ticks


def width_of(text: str, *, size: float = TEXT_SIZE) -> float:
    """About how wide a text is, in pixels, rather too wide than too narrow: the font is the reader's.

    Args:
        text: one line.
        size: of the font, pixels.
    """
    return size * sum(_share_of_size(character) for character in text)


def _share_of_size(character: str) -> float:
    if unicodedata.east_asian_width(character) in "WF":
        return 1.0
    if character in " .,:;'|!()[]ijltf":
        return 0.36
    return 0.86 if character in "mwMW%@" else 0.7 if character.isupper() else 0.6


def folded(text: str, width: float, *, most: int = 2) -> list[str]:
    """A text in lines that fit, broken between words where that can be; what is left over becomes "…".

    Args:
        text: of any length.
        width: of a line, pixels.
        most: number of lines, at most.
    """
    words = [part for word in text.split() for part in _pieces(word, width)]
    lines: list[str] = []
    for word in words:
        if lines and width_of(f"{lines[-1]} {word}") <= width:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    if len(lines) <= most:
        return lines or [""]
    last = lines[most - 1]
    while last and width_of(f"{last}…") > width:
        last = last[:-1]
    return [*lines[: most - 1], f"{last}…"]


def _pieces(word: str, width: float) -> list[str]:
    """The word, cut where it alone is wider than a line."""
    pieces = [""]
    for character in word:
        if pieces[-1] and width_of(pieces[-1] + character) > width:
            pieces.append("")
        pieces[-1] += character
    return pieces
