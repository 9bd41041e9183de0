"""The law through losses: what was put in comes out, least squares worked by hand, and what follows from it."""

from __future__ import annotations

import math

import pytest

from hone.evaluation.learning_curve import fit_learning_curve, nested_sizes


def test_a_law_is_found_again() -> None:
    rows = [10, 20, 40, 80]
    curve = fit_learning_curve(rows, [3.0 * n**-0.25 for n in rows])
    assert (curve.scale, curve.exponent) == (pytest.approx(3.0), pytest.approx(0.25))
    assert curve.error == pytest.approx(0.0, abs=1e-12)
    assert curve.at(160) == pytest.approx(3.0 * 160**-0.25)
    assert curve.doubling_gain == pytest.approx(1 - 2**-0.25)
    assert curve.says == "more"


def test_least_squares_by_hand() -> None:
    # logarithms to base 2: rows 3, 4, 5; losses 1, 0, 0. The slope is the mean of the ends' difference: -1/2.
    # The means are 4 and 1/3, so that the law is log2 loss = 1/3 - (log2 rows - 4) / 2: at 64 rows -2/3.
    curve = fit_learning_curve([8, 16, 32], [2.0, 1.0, 1.0])
    assert curve.exponent == pytest.approx(0.5)
    assert math.log2(curve.at(64)) == pytest.approx(-2 / 3)
    # through the first two alone the slope is -1, which gives 1/2 at 32 rows, where 1 was measured
    assert curve.error == pytest.approx(0.5)
    assert curve.says == "unclear"


@pytest.mark.parametrize(
    ("losses", "says"),
    [
        ([1.00, 0.995, 0.99], "enough"),  # doubling takes 0.5%
        ([1.00, 0.95, 0.90], "more"),
        ([1.00, 1.001, 1.002], "enough"),  # rising, and by nothing that matters
        ([1.00, 0.80, 0.95], "unclear"),
    ],
)
def test_what_follows(losses: list[float], says: str) -> None:
    curve = fit_learning_curve([20, 40, 80], losses)
    assert curve.says == says
    told = curve.to_json()
    assert [point["rows"] for point in told["predicted"]] == [160, 320]
    assert told["says"] == says


def test_sizes_are_halves() -> None:
    assert nested_sizes(100) == [12, 25, 50, 100]
    assert nested_sizes(32) == [8, 16, 32]
    assert nested_sizes(800) == [100, 200, 400, 800]
