"""The report's part on seeds: each training's score and difference, their mean, and where the doubt comes from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hone.evaluation.charts import Interval, interval_chart
from hone.types import JsonDict

__all__ = ["seeds_context"]


def seeds_context(evaluation: Mapping[str, Any], digits: int) -> JsonDict | None:
    """What the templates show; None where one seed was trained.

    Args:
        evaluation: the ``evaluation`` object of a result.
        digits: decimals of the metric that decides.
    """
    seeds = evaluation.get("seeds")
    if seeds is None:
        return None
    trainings = [_row(f"Seed {one['seed']}", one, digits, "base") for one in seeds["trainings"]]
    mean = _row("Mean over seeds", seeds, digits, "tuned" if seeds["different"] else "open")
    return {
        **seeds,
        "rows_shown": trainings,
        "mean_shown": {**mean, "score": f"{seeds['mean']:.{digits}f}"},
        "deviation_shown": f"{seeds['standard_deviation']:.{digits}f}",
        "chart": interval_chart(
            [one["interval_row"] for one in (*trainings, mean)],
            f"Tuned − base, {evaluation['metrics'][seeds['metric']]['title']}, by seed of training",
            zero_line=True,
        ),
        "errors_shown": [
            ("rows", None if seeds["rows_error"] is None else f"{seeds['rows_error']:.{digits + 1}f}"),
            ("seeds", f"{seeds['seeds_error']:.{digits + 1}f}"),
        ],
    }


def _row(title: str, one: Mapping[str, Any], digits: int, style: str) -> JsonDict:
    low, high = one["interval"] or (None, None)
    interval = None if low is None else f"{low:+.{digits}f} to {high:+.{digits}f}"
    difference = f"{one['difference']:+.{digits}f}"
    text = difference if interval is None else f"{difference}  [{interval}]"
    return {
        "title": title,
        "score": f"{one['score']:.{digits}f}" if "score" in one else None,
        "difference": difference,
        "interval": interval,
        "registered": one.get("registered"),
        "folder": one.get("folder"),
        "validation_loss": one.get("validation_loss"),
        "strength": one.get("strength"),
        "proven": one.get("proven"),
        "interval_row": Interval(title, one["difference"], low, high, text, style),
    }
