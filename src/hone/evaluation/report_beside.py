"""The report's parts beside the comparison: answers against other rows' references, and base and tuned on parts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hone.evaluation.charts import Interval, interval_chart
from hone.types import JsonDict

__all__ = ["fit_context", "slices_context"]


def fit_context(evaluation: Mapping[str, Any], titles: Mapping[str, str], digits: int) -> JsonDict | None:
    """What the templates show; None where it could not be measured.

    Args:
        evaluation: the ``evaluation`` object of a result.
        titles: of arms by name.
        digits: decimals of the metric that decides.
    """
    fit = evaluation.get("fit")
    if fit is None:
        return None
    rows = [
        _row(titles.get(name, name), name, one, fit["against_base"].get(name), digits)
        for name, one in fit["arms"].items()
    ]
    return {
        "rows": rows,
        "of_references": f"{fit['of_references']:.{digits}f}",
        "chart": interval_chart(
            [one["interval_row"] for one in rows],
            f"{evaluation['metrics'][evaluation['metric']]['title']} with the own reference, less that with others",
            zero_line=True,
        ),
    }


def _row(title: str, name: str, one: Mapping[str, Any], compared: Mapping[str, Any] | None, digits: int) -> JsonDict:
    distance = one["own"] - one["others"]
    low, high = one["interval"] or (None, None)
    interval = None if low is None else f"{low:+.{digits}f} to {high:+.{digits}f}"
    text = f"{distance:+.{digits}f}" if interval is None else f"{distance:+.{digits}f}  [{interval}]"
    return {
        "title": title,
        "own": f"{one['own']:.{digits}f}",
        "others": f"{one['others']:.{digits}f}",
        "distance": f"{distance:+.{digits}f}",
        "interval": interval,
        "against_base": None if compared is None else _against(compared, digits),
        "interval_row": Interval(title, distance, low, high, text, "tuned" if name.startswith("tuned") else "base"),
    }


def _against(compared: Mapping[str, Any], digits: int) -> str:
    size = f"{compared['difference']:+.{digits}f}"
    if compared["interval"] is None:
        return size
    low, high = compared["interval"]
    return f"{size} [{low:+.{digits}f} to {high:+.{digits}f}]"


def slices_context(evaluation: Mapping[str, Any], digits: int) -> list[JsonDict]:
    """A line for each part of the rows and tuned arm.

    Args:
        evaluation: the ``evaluation`` object of a result.
        digits: decimals of the metric that decides.
    """
    higher = evaluation["metrics"][evaluation["metric"]]["higher_is_better"]
    return [
        {
            "name": one["name"],
            "rows": one["rows"],
            "decides": one["decides"],
            "arm": arm,
            "base": f"{one['scores']['base']:.{digits}f}",
            "tuned": f"{one['scores'][arm]:.{digits}f}",
            "against_base": _against(compared, digits),
            "finding": _finding(compared, higher_is_better=higher),
        }
        for one in evaluation.get("slices") or []
        for arm, compared in one["against_base"].items()
    ]


def _finding(compared: Mapping[str, Any], *, higher_is_better: bool) -> str:
    if not compared["different"]:
        return "undecided"
    return "better" if (compared["difference"] > 0) == higher_is_better else "worse"
