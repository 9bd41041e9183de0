"""Charts place what they show, keep inside their frame, and carry their figures as text."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree

import pytest

from hone.evaluation.charts import Interval, curve_chart, interval_chart


def parsed(drawing: object) -> ElementTree.Element:
    return ElementTree.fromstring(str(drawing))


def percent(value: str | None) -> float:
    assert value is not None
    return float(value.removesuffix("%"))


def test_dots_and_whiskers_stand_where_the_figures_say() -> None:
    rows = [Interval("Base", 20.0, 10.0, 30.0, "20.0", "base"), Interval("Tuned", 40.0, 35.0, 50.0, "40.0", "tuned")]
    drawing = parsed(interval_chart(rows, "chrF"))
    dots = [percent(dot.get("cx")) for dot in drawing.iter("circle")]
    whiskers = [line for line in drawing.iter("line") if line.get("class") == "whisker"]
    ends = [(percent(line.get("x1")), percent(line.get("x2"))) for line in whiskers]
    # The axis is linear: 10, 20 and 30 lie at equal distances, as do 30, 40 and 50.
    assert dots[0] - ends[0][0] == pytest.approx(ends[0][1] - dots[0], abs=0.02)
    assert dots[1] - dots[0] == pytest.approx(ends[0][1] - ends[0][0], abs=0.02)
    assert ends[1][1] > dots[1] > ends[1][0] > ends[0][1]
    assert all(0 <= place <= 100 for pair in ends for place in pair)


@pytest.mark.parametrize(
    ("low", "value", "high"), [(0, 0, 0), (100, 100, 100), (-3e-5, 1e-5, 4e-5), (-80, -50.5, 3), (1.2, 1.3, 1.31)]
)
@pytest.mark.parametrize("zero_line", [True, False])
def test_every_range_fits_the_frame(low: float, value: float, high: float, zero_line: bool) -> None:
    drawing = parsed(interval_chart([Interval("x", value, low, high, "", "open")], "t", zero_line=zero_line))
    places = [percent(line.get(end)) for line in drawing.iter("line") for end in ("x1", "x2")]
    assert all(0 <= place <= 100 for place in places)
    assert sum(line.get("class") == "zero" for line in drawing.iter("line")) == int(zero_line)
    ticks = [text for text in drawing.iter("text") if text.get("class") == "tick"]
    assert 2 <= len(ticks) <= 8
    assert len({tick.text for tick in ticks}) == len(ticks)


def test_the_zero_line_does_not_run_through_labels() -> None:
    rows = [Interval(f"row {number}", 1.0, -1.0, 2.0, "+1.0", "open") for number in range(3)]
    drawing = parsed(interval_chart(rows, "t", zero_line=True))
    zeros = [
        (float(z.get("y1") or 0), float(z.get("y2") or 0)) for z in drawing.iter("line") if z.get("class") == "zero"
    ]
    labels = [float(text.get("y") or 0) for text in drawing.iter("text") if text.get("class") == "row"]
    dots = [float(dot.get("cy") or 0) for dot in drawing.iter("circle")]
    assert len(zeros) == len(labels) == 3
    # letters reach about 11 above their baseline and 4 below it
    assert all(low >= y + 4 or high <= y - 11 for low, high in zeros for y in labels)
    assert all(low < dot < high for (low, high), dot in zip(zeros, dots, strict=True))


def test_an_arm_without_an_interval_has_a_dot_alone() -> None:
    drawing = parsed(interval_chart([Interval("Base", 20.0, None, None, "20.0", "base")], "chrF"))
    assert len(list(drawing.iter("circle"))) == 1
    assert not [line for line in drawing.iter("line") if line.get("class") == "whisker"]


def test_labels_are_escaped() -> None:
    drawing = interval_chart([Interval('<b>"&', 1.0, 0.0, 2.0, "</svg>", "base")], "a<b>")
    assert '<b>"&' in "".join(parsed(drawing).itertext())


def test_curves_leave_out_what_is_not_finite() -> None:
    points = [(1.0, 3.0), (2.0, float("nan")), (3.0, float("inf")), (4.0, 1.0)]
    drawing = curve_chart([("Training loss", "base", points)], "Loss")
    line = parsed(drawing).find(".//polyline")
    assert line is not None
    assert re.findall(r"[\d.]+,[\d.]+", line.get("points") or "") == ["0.0,0.0", "1000.0,120.0"]
    assert "from 3 to 1" in str(drawing)


def test_a_curve_of_one_point_is_no_curve() -> None:
    assert curve_chart([("Training loss", "base", [(1.0, 3.0)]), ("Validation loss", "tuned", [])], "Loss") is None
