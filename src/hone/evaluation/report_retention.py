"""The report's part on retention: skills, measures, and the frontier of gain against forgetting."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from markupsafe import Markup

from hone.evaluation.charts import Interval, interval_chart
from hone.evaluation.frontier_chart import FrontierPoint, frontier_chart
from hone.types import JsonDict

__all__ = ["retention_context"]

_KEPT = {
    True: ("✓", "General ability was kept", "good"),
    False: ("✕", "General ability was lost beyond the bounds", "bad"),
    None: ("?", "Measured, not judged", "open"),
}


_NOTHING_TO_LOSE = (
    "?", "Nothing to lose: the base is not better than guessing at general questions", "open",
)  # fmt: skip


def retention_context(retention: Mapping[str, Any] | None) -> JsonDict | None:
    """What the templates show; None where nothing was measured.

    Args:
        retention: the ``retention`` object of a result.
    """
    if retention is None:
        return None
    strength = retention.get("strength")
    nothing_to_lose = retention["kept"] and retention.get("nothing_to_lose")  # older results do not say it
    points = [] if strength is None else strength["points"]
    return {
        "finding": _NOTHING_TO_LOSE if nothing_to_lose else _KEPT[retention["kept"]],
        "keep": retention["keep"],
        "losses": retention["losses"],
        "measures": list(_measures(retention)),
        "skills": [skill for one in _question_sets(retention) for skill in _skills(one)],
        "change_chart": _change_chart(retention),
        "examples": [example for one in _question_sets(retention) for example in one["examples"]],
        "brittleness": retention["brittleness"],
        "strength": strength,
        "points": points,
        "frontier": _frontier(points, strength, retention.get("bounds")),
    }


def _question_sets(retention: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    sets = (retention["probes"], *retention["files"], *retention.get("tasks", ()))  # older results have no tasks
    return [one for one in sets if one is not None]


def _title(one: Mapping[str, Any]) -> str:
    return "General questions" if one["name"] == "probes" else str(one["name"])


def _measures(retention: Mapping[str, Any]) -> Iterator[JsonDict]:
    for one in _question_sets(retention):
        yield _measure(f"{_title(one)}, % right", one, digits=1)
    if (text := retention["general_text"]) is not None:
        yield _measure("General text, bits per byte (lower is better)", text, digits=3)
    if (own := retention["own_answers"]) is not None:
        yield _measure("The base's own answers, bits per byte (lower is better)", own, digits=3)
        kl = {"base": 0.0, "tuned": own["kl_nats"], "difference": own["kl_nats"], "interval": own["kl_nats_interval"]}
        yield _measure("Distance from the base, KL in nats a token (lower is better)", kl, digits=3)


def _measure(name: str, one: Mapping[str, Any], *, digits: int) -> JsonDict:
    interval = one["interval"]
    return {
        "name": name,
        "base": None if one["base"] is None else f"{one['base']:.{digits}f}",
        "tuned": None if one["tuned"] is None else f"{one['tuned']:.{digits}f}",
        "difference": None if one["difference"] is None else f"{one['difference']:+.{digits}f}",
        "interval": None if interval is None else f"{interval[0]:+.{digits}f} to {interval[1]:+.{digits}f}",
    }


def _skills(one: Mapping[str, Any]) -> list[JsonDict]:
    prefix = "" if one["name"] == "probes" else f"{one['name']}: "
    return [{**skill, "title": prefix + skill["skill"].replace("_", " ")} for skill in one["skills"]]


def _change_chart(retention: Mapping[str, Any]) -> Markup | None:
    rows = []
    for one in _question_sets(retention):
        if one["difference"] is None:
            continue
        low, high = one["interval"] or (None, None)
        style = "open" if not one["different"] else "good" if one["difference"] > 0 else "bad"
        rows.append(Interval(_title(one), one["difference"], low, high, f"{one['difference']:+.1f}", style))
    return interval_chart(rows, "Change in points", zero_line=True) if rows else None


def _frontier(
    points: Sequence[Mapping[str, Any]], strength: Mapping[str, Any] | None, bounds: Mapping[str, float] | None
) -> Markup | None:
    if strength is None or len(points) < 2 or any(point["validation_loss"] is None for point in points):
        return None
    drawn = [
        FrontierPoint(
            point["kl_nats"],
            point["validation_loss"],
            f"{point['strength']:g}",
            is_chosen=point["strength"] == strength["value"],
            is_within=point["kept"] if bounds else None,
        )
        for point in points
    ]
    return frontier_chart(drawn, "Gain against forgetting, by strength", bound=bounds["kl_nats"] if bounds else None)
