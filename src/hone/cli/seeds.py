"""Trainings with several seeds for people: each seed's score, their mean and spread, and the interval over both."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from hone.cli.output import labelled
from hone.cli.tables import duration, figure, signed, text_table

__all__ = ["seeds_lines", "seeds_trained"]

_Json = Mapping[str, Any]


def seeds_trained(evaluation: _Json) -> str | None:
    """A sentence on the further trainings; None where there were none.

    Args:
        evaluation: the ``evaluation`` object of a result.
    """
    if "seeds" not in evaluation:
        return None
    further = evaluation["seeds"]["trainings"][1:]
    seeds = ", ".join(str(one["seed"]) for one in further)
    took = duration(sum(one["seconds"] for one in further))
    return f"and {len(further)} more on the same rows in {took}: seed{'' if len(further) == 1 else 's'} {seeds}"


def seeds_lines(evaluation: _Json, *, columns: int) -> Iterator[Any]:
    """The table of seeds; nothing where one seed was trained.

    Args:
        evaluation: the ``evaluation`` object of a result.
        columns: of a line.
    """
    if "seeds" not in evaluation:
        return
    seeds, name = evaluation["seeds"], evaluation["metric"]
    title, confidence = evaluation["metrics"][name]["title"], f"{seeds['confidence']:.0%} interval"
    rows = [["Seeds of training", title, "tuned - base", confidence, "over"]]
    for one in seeds["trainings"]:
        label = f"{one['seed']}{', registered' if one['registered'] else ''}"
        rows.append([label, figure(one["score"], name), *_difference(one, name), "rows"])
    rows.append(["mean", figure(seeds["mean"], name), *_difference(seeds, name), "rows and seeds"])
    rows.append(["standard deviation", figure(seeds["standard_deviation"], name)])
    yield ""
    yield from text_table(rows, indent=2)
    unproven = [str(one["seed"]) for one in seeds["trainings"][1:] if not one["proven"]]
    if unproven:
        text = f"Not all invariants hold for the adapter of seed {', '.join(unproven)} (its proof.json says which)."
        yield labelled("", text, columns=columns)


def _difference(one: _Json, metric: str) -> list[str]:
    if one["interval"] is None:
        return [signed(one["difference"], metric), "none"]
    low, high = one["interval"]
    return [signed(one["difference"], metric), f"{signed(low, metric)} to {signed(high, metric)}"]
