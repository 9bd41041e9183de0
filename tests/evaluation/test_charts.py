"""Charts place what they show, keep inside their frame, carry their figures as text, and take the page's colours."""

from __future__ import annotations

import itertools
import math
import os
import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from hone.evaluation.charts import Interval, curve_chart, interval_chart
from hone.evaluation.frontier_chart import FrontierPoint, frontier_chart
from hone.evaluation.paper import NARROW, WIDE, folded, ticks_around, width_of

BOTH = pytest.mark.parametrize("which", [0, 1], ids=["wide", "narrow"])
ROWS = [Interval("Base", 20.0, 10.0, 30.0, "20.0", "base"), Interval("Tuned", 40.0, 35.0, 50.0, "40.0", "tuned")]
STRENGTHS = [(0.0, 3.0, True), (0.02, 2.1, True), (0.09, 1.5, True), (0.31, 1.2, True), (1.4, 1.1, False)]
POINTS = [FrontierPoint(kl, loss, f"{n / 4:g}", n == 3, kept) for n, (kl, loss, kept) in enumerate(STRENGTHS)]


def parsed(drawing: object, which: int = 0) -> ElementTree.Element:
    """The wide or the narrow drawing of a chart."""
    return list(ElementTree.fromstring(str(drawing)))[which]


def of_class(drawing: ElementTree.Element, name: str) -> list[ElementTree.Element]:
    return [element for element in drawing.iter() if name in (element.get("class") or "").split(" ")]


def numbers(element: ElementTree.Element, name: str) -> list[float]:
    return [float(number) for number in re.findall(r"-?[\d.]+", element.get(name) or "")]


def ends(line: ElementTree.Element) -> tuple[float, float]:
    x1, _, x2, _ = numbers(line, "d")[:4]
    return x1, x2


def size(drawing: ElementTree.Element) -> tuple[float, float]:
    left, top, width, height = numbers(drawing, "viewBox")
    assert (left, top) == (0, 0)
    return width, height


@BOTH
def test_dots_and_whiskers_stand_where_the_figures_say(which: int) -> None:
    drawing = parsed(interval_chart(ROWS, "chrF"), which)
    dots = [float(dot.get("cx") or 0) for dot in drawing.iter("circle")]
    whiskers = [ends(line) for line in of_class(drawing, "whisker")]
    # The axis is linear: 10, 20 and 30 lie at equal distances, as do 30, 40 and 50.
    assert dots[0] - whiskers[0][0] == pytest.approx(whiskers[0][1] - dots[0], abs=0.2)
    assert dots[1] - dots[0] == pytest.approx(whiskers[0][1] - whiskers[0][0], abs=0.2)
    assert whiskers[1][1] > dots[1] > whiskers[1][0] > whiskers[0][1]
    assert all(0 <= place <= size(drawing)[0] for pair in whiskers for place in pair)
    assert [dot.get("style") for dot in drawing.iter("circle")] == ["fill: var(--base)", "fill: var(--tuned)"]


def test_both_widths_are_drawn() -> None:
    drawing = interval_chart(ROWS, "chrF")
    assert [size(parsed(drawing, which))[0] for which in (0, 1)] == [WIDE, NARROW]
    assert [parsed(drawing, which).get("class") for which in (0, 1)] == ["chart-wide", "chart-narrow"]


@pytest.mark.parametrize(
    ("low", "value", "high"),
    [(0, 0, 0), (100, 100, 100), (-3e-5, 1e-5, 4e-5), (-80, -50.5, 3), (1.2, 1.3, 1.31), (3, 2, 1), (-1e30, 0, 1e30)],
)
@pytest.mark.parametrize("zero_line", [True, False])
def test_every_range_fits_the_frame(low: float, value: float, high: float, zero_line: bool) -> None:
    drawing = parsed(interval_chart([Interval("x", value, low, high, "", "open")], "t", zero_line=zero_line))
    width, _ = size(drawing)
    places = [place for name in ("whisker", "grid", "zero") for line in of_class(drawing, name) for place in ends(line)]
    assert all(0 <= place <= width for place in places)
    assert len(of_class(drawing, "zero")) == int(zero_line)
    ticks = [text.text for text in drawing.iter("text") if not text.get("class")]
    assert 2 <= len(ticks) <= 8
    assert len(set(ticks)) == len(ticks)


@pytest.mark.parametrize("odd", [math.nan, math.inf, -math.inf, 1e308])
def test_what_is_no_number_to_draw_is_told_and_not_drawn(odd: float) -> None:
    rows = [Interval("a", odd, 0.0, odd, "?", "open"), Interval("b", 1.0, 0.5, 2.0, "1.0", "good")]
    drawing = parsed(interval_chart(rows, "t", zero_line=True))
    assert len(list(drawing.iter("circle"))) == len(of_class(drawing, "whisker")) == 1
    assert "a ?" in (drawing.get("aria-label") or "")
    alone = parsed(interval_chart(rows[:1], "t"))
    assert "nan" not in ElementTree.tostring(alone, encoding="unicode")
    frontier = parsed(frontier_chart([FrontierPoint(odd, 1.0, "0", False), FrontierPoint(0.1, odd, "1", True)], "t"))
    assert "strength 1" in (frontier.get("aria-label") or "")


@BOTH
def test_the_zero_line_does_not_run_through_labels(which: int) -> None:
    rows = [Interval(f"row {number}", 1.0, -1.0, 2.0, "+1.0", "open") for number in range(3)]
    drawing = parsed(interval_chart(rows, "t", zero_line=True), which)
    zeros = [sorted(numbers(line, "d")[1::2]) for line in of_class(drawing, "zero")]
    labels = [float(text.get("y") or 0) for text in of_class(drawing, "row")]
    dots = [float(dot.get("cy") or 0) for dot in drawing.iter("circle")]
    assert len(zeros) == len(labels) == 3
    # letters reach about 11 above their baseline and 4 below it
    assert all(low >= y + 4 or high <= y - 11 for low, high in zeros for y in labels)
    assert all(low < dot < high for (low, high), dot in zip(zeros, dots, strict=True))


def test_an_arm_without_an_interval_has_a_dot_alone() -> None:
    drawing = parsed(interval_chart([Interval("Base", 20.0, None, None, "20.0", "base")], "chrF"))
    assert len(list(drawing.iter("circle"))) == 1
    assert not of_class(drawing, "whisker")


@BOTH
@pytest.mark.parametrize("label", ['<b>"&', "</svg><script>", "$x^2$", "k1", "日本語", "\x00\u202e", "{0} %s"])
def test_labels_are_text_and_nothing_else(label: str, which: int) -> None:
    shown = label.replace("\x00", "\ufffd").replace("\u202e", "\ufffd")
    drawing = parsed(interval_chart([Interval(label, 1.0, 0.0, 2.0, label, "base")], label), which)
    assert [name.text for name in of_class(drawing, "name")] == [shown]
    assert drawing.find("title") is not None
    assert drawing.findtext("title") == shown
    assert drawing.get("aria-label") == f"{shown}: {shown} {shown}"
    assert {element.tag for element in drawing.iter()} <= {"svg", "title", "text", "tspan", "path", "circle"}


@BOTH
def test_long_labels_are_folded_and_told_in_full(which: int) -> None:
    label = "a file of questions " * 20 + "W" * 300
    drawing = parsed(interval_chart([Interval(label, 1.0, 0.0, 2.0, "1.0", "base"), ROWS[1]], "t"), which)
    lines = [line.text or "" for line in of_class(drawing, "name")]
    assert len(lines) == 3
    assert lines[1].endswith("…")
    assert all(width_of(line) <= size(drawing)[0] for line in lines)
    assert label in (drawing.get("aria-label") or "")
    baselines = [float(text.get("y") or 0) for text in of_class(drawing, "row")]
    assert all(later - earlier >= 18 for earlier, later in itertools.pairwise(baselines))


def test_folding_keeps_every_word_where_there_is_room() -> None:
    assert folded("one two three", 1000) == ["one two three"]
    assert " ".join(folded("one two three", width_of("one two") + 1)) == "one two three"
    assert folded("", 100) == [""]
    assert folded("x" * 100, 50, most=1)[0].endswith("…")


def test_curves_leave_out_what_is_not_finite() -> None:
    points = [(1.0, 3.0), (2.0, float("nan")), (3.0, float("inf")), (4.0, 1.0)]
    chart = curve_chart([("Training loss", "base", points)], "Loss")
    drawing = parsed(chart)
    (line,) = of_class(drawing, "curve")
    x1, y1, x2, y2 = numbers(line, "d")
    assert (x1, x2) == (44, WIDE - 48)
    zero, three = (numbers(one, "d")[1] for one in (of_class(drawing, "grid")[0], of_class(drawing, "grid")[-1]))
    assert y1 == pytest.approx(three, abs=0.1), "3 is the highest tick"
    assert y2 == pytest.approx(zero + (three - zero) / 3, abs=0.2)
    assert "from 3 to 1" in str(chart)


def test_a_curve_of_one_point_is_no_curve() -> None:
    assert curve_chart([("Training loss", "base", [(1.0, 3.0)]), ("Validation loss", "tuned", [])], "Loss") is None


def test_a_curve_of_many_steps_keeps_its_spikes_and_stays_small() -> None:
    points = [(float(step), 2.0 + math.sin(step)) for step in range(20_000)]
    points[7_777] = (7_777.0, 9.0)
    chart = curve_chart([("Training loss", "base", points), ("Validation loss", "tuned", points[::50])], "Loss")
    drawing = parsed(chart)
    highest = min(numbers(of_class(drawing, "curve")[0], "d")[1::2])
    ticks = of_class(drawing, "grid")
    assert highest < numbers(ticks[-2], "d")[1], "the spike of 9 reaches above 8"
    assert len(str(chart)) < 25_000


def test_names_of_curves_do_not_cover_each_other() -> None:
    same = [(1.0, 3.0), (4.0, 1.0)]
    drawing = parsed(curve_chart([("Training loss", "base", same), ("Validation loss", "tuned", same)], "Loss"))
    ends_at = [float(text.get("y") or 0) for text in drawing.iter("text") if text.get("class") in ("base", "tuned")]
    assert abs(ends_at[0] - ends_at[1]) >= 13


@BOTH
def test_the_frontier_shows_the_saved_strength_and_the_bound(which: int) -> None:
    drawing = parsed(frontier_chart(POINTS, "Gain against forgetting", bound=1.0), which)
    dots = [dot for dot in drawing.iter("circle") if "legend" not in (dot.get("class") or "")]
    assert [(dot.get("class") or "").split()[1] for dot in dots] == ["base", "base", "base", "tuned", "bad"]
    assert float(dots[3].get("r") or 0) > float(dots[0].get("r") or 0)
    (bound,) = of_class(drawing, "bound")
    places = [float(dot.get("cx") or 0) for dot in dots]
    assert places == sorted(places)
    assert places[3] < numbers(bound, "d")[0] < places[4]
    assert [name.text or name.findtext("tspan") for name in of_class(drawing, "name")] == ["0.75"]
    far = parsed(frontier_chart(POINTS, "Gain against forgetting", bound=9.0), which)
    assert not of_class(far, "bound"), "a bound far beyond the points would push them together"


def test_equal_points_of_a_frontier_are_drawn() -> None:
    drawing = parsed(frontier_chart([FrontierPoint(0.0, 1.0, "0", False), FrontierPoint(0.0, 1.0, "1", True)], "t"))
    width, height = size(drawing)
    assert all(0 <= float(dot.get("cx") or 0) <= width for dot in drawing.iter("circle"))
    assert all(0 <= float(dot.get("cy") or 0) <= height for dot in drawing.iter("circle"))


def every_chart() -> str:
    curves = [("Training loss", "base", [(1.0, 3.0), (4.0, 1.0)]), ("Validation loss", "tuned", [(1.0, 3.0), (4.0, 2)])]
    coloured = [Interval(style, 1.0, -1.0, 2.0, "1", style) for style in ("base", "tuned", "good", "bad", "open")]
    return "".join(
        map(str, (interval_chart(coloured, "a", zero_line=True), interval_chart(ROWS, "b"), curve_chart(curves, "c"),
                  frontier_chart(POINTS, "d", bound=1.0)))
    )  # fmt: skip


def test_all_colours_are_the_pages_own() -> None:
    drawn = every_chart()
    assert not re.findall(r"#[0-9a-fA-F]{3,8}|rgb|hsl|white|black", drawn)
    variables = {"ink", "line", "card", "base", "tuned", "good", "bad", "open"}
    assert set(re.findall(r"var\(--(\w+)\)", drawn)) == variables
    assert "font" not in drawn


def test_charts_that_share_a_page_share_no_id() -> None:
    drawn = every_chart()
    assert not re.findall(r"\bid=|href|url\(|clip-path|<use|<defs|<style|<metadata|<\?xml|<!DOCTYPE|xmlns", drawn)
    assert not re.findall(r"<svg[^>]* (?:width|height)=", drawn), "the page's style sheet sizes them"


def test_the_same_figures_give_the_same_bytes() -> None:
    assert every_chart() == every_chart()


def test_a_chart_is_small() -> None:
    many = [
        Interval(f"row {number}", number, number - 1.0, number + 1.0, f"{number}.0", "open") for number in range(20)
    ]
    assert len(str(interval_chart(ROWS, "t"))) < 6_000
    assert len(str(interval_chart(many, "t", zero_line=True))) < 25_000
    assert len(str(frontier_chart(POINTS, "t", bound=1.0))) < 12_000


def test_the_readers_own_settings_stay_and_do_not_show() -> None:
    import matplotlib

    before = every_chart()
    with matplotlib.rc_context({"axes.grid": True, "text.color": "red", "lines.marker": "x", "svg.fonttype": "path"}):
        changed = dict(matplotlib.rcParams)
        assert every_chart() == before
        assert dict(matplotlib.rcParams) == changed


def test_matplotlib_is_imported_when_a_chart_is_drawn() -> None:
    code = (
        "import sys, hone.cli.app, hone.evaluation.report; print('matplotlib' in sys.modules);"
        "from hone.evaluation.charts import Interval, interval_chart;"
        "interval_chart([Interval('a', 1, 0, 2, '1', 'base')], 't');"
        "print('matplotlib.figure' in sys.modules, 'matplotlib.pyplot' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=300)
    assert done.stdout.split() == ["False", "True", "False"]
    assert done.stderr == ""


def test_the_command_writes_the_list_of_fonts_in_its_home_alone(tmp_path: Path) -> None:
    code = (
        "import sys; sys.argv = ['hone', '--version']; from hone.cli.app import main; main();"
        "from hone.evaluation.charts import Interval, interval_chart;"
        "interval_chart([Interval('a', 1, 0, 2, '1', 'base')], 't')"
    )
    chosen = {"HOME": str(tmp_path / "user"), "HONE_HOME": str(tmp_path / "user" / "hone")}
    unset = ("MPLCONFIGDIR", "XDG_CACHE_HOME", "XDG_CONFIG_HOME")
    environment = {name: value for name, value in os.environ.items() if name not in unset} | chosen
    (tmp_path / "user").mkdir()
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=300, env=environment
    )
    assert done.stderr == ""
    written = [path.relative_to(tmp_path).parts[:4] for path in tmp_path.rglob("*") if path.is_file()]
    assert set(written) == {("user", "hone", "cache", "matplotlib")}


@pytest.mark.parametrize(("low", "high"), [(0, 1), (-3.2, 7.9), (1e-7, 3e-7), (5, 5), (-5, -5), (0, 0), (99.9, 100)])
def test_ticks_enclose_what_is_drawn(low: float, high: float) -> None:
    ticks = ticks_around(low, high, most=5)
    assert ticks[0] <= low
    assert ticks[-1] >= high
    assert ticks == sorted(set(ticks))
    assert 2 <= len(ticks) <= 7
    assert ticks[1] > low or len(ticks) == 2, "no empty space before the first"
