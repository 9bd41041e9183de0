"""Retention for people: what is left of the base's general ability, and how strong the adapter was made for it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.text import Text

from hone.cli.output import labelled
from hone.cli.tables import text_table

__all__ = ["retention_lines"]

_Json = Mapping[str, Any]
_NOTHING = "nothing to lose"
_GUESSES = "At general questions the base itself is not better than guessing."
_KEPT = {True: "kept", False: "lost beyond the bounds", None: "not judged"}


def retention_lines(retention: _Json | None, *, columns: int) -> Iterator[str | Text]:
    """The measures in a table, the skills that lost, the strength.

    Args:
        retention: the ``retention`` object of a result; None prints nothing.
        columns: of a line.
    """
    if retention is None:
        return
    yield ""
    # older results do not say it
    is_guessing = retention["kept"] and retention.get("nothing_to_lose")
    found = _NOTHING if is_guessing else _KEPT[retention["kept"]]
    title = f"Retention outside of the domain: {found} (--keep {retention['keep']})"
    yield Text(title, style="bold")
    if is_guessing:
        yield _GUESSES
    yield ""
    yield from text_table([["", "base", "tuned", "difference", "95% interval"], *_rows(retention)], indent=2)
    for one in _question_sets(retention):
        yield from _skill_lines(one, columns)
    brittle = retention["brittleness"]
    if brittle is not None:
        text = (
            f"{brittle['turned']} of {brittle['prompts']} answers to general prompts turned into answers of the domain"
        )
        yield labelled("", text, columns=columns, hang=2)
    strength = retention["strength"]
    if strength is not None:
        yield labelled("Strength", f"{strength['value']:g}: {strength['reason']}", columns=columns)


def _question_sets(retention: _Json) -> list[_Json]:
    sets = (retention["probes"], *retention["files"], *retention.get("tasks", ()))  # older results have no tasks
    return [one for one in sets if one is not None]


def _rows(retention: _Json) -> Iterator[Sequence[str]]:
    for one in _question_sets(retention):
        name = _name(one)
        if one["base"] is None:
            yield f"{name}, right %", "at floor", "", "", ""
            continue
        yield _row(f"{name}, right %", one, digits=1)
    if (text := retention["general_text"]) is not None:
        yield _row("general text, bits a byte", text, digits=3)
    if (own := retention["own_answers"]) is not None:
        interval = own["kl_nats_interval"]
        shown = "none" if interval is None else f"{interval[0]:.3f} to {interval[1]:.3f}"
        yield "distance, nats a token", "0", f"{own['kl_nats']:.3f}", "", shown


def _name(one: _Json) -> str:
    return "general questions" if one["name"] == "probes" else str(one["name"])


def _row(name: str, one: _Json, *, digits: int) -> Sequence[str]:
    interval = one["interval"]
    shown = "none" if interval is None else f"{interval[0]:+.{digits}f} to {interval[1]:+.{digits}f}"
    return name, f"{one['base']:.{digits}f}", f"{one['tuned']:.{digits}f}", f"{one['difference']:+.{digits}f}", shown


def _skill_lines(one: _Json, columns: int) -> Iterator[Text]:
    """What could be lost, what was, and where."""
    if not one["counted"]:
        yield labelled("", f"{_name(one)}: the base is not better than guessing", columns=columns, hang=2)
        return
    text = f"{one['lost']} lost and {one['gained']} gained of {one['counted']}; {one['could_be_lost']} could be lost"
    fallen = sorted((skill for skill in one["skills"] if skill["lost"] > skill["gained"] and not skill["at_floor"]),
                    key=lambda skill: skill["gained"] - skill["lost"])  # fmt: skip
    if fallen:
        listed = ", ".join(f"{skill['skill'].replace('_', ' ')} {skill['base']} to {skill['tuned']}"
                           for skill in fallen[:4])  # fmt: skip
        text += f". Most lost: {listed}"
    floors = [skill["skill"].replace("_", " ") for skill in one["skills"] if skill["at_floor"]]
    if floors:
        text += f". At the base's floor, not counted: {', '.join(floors)}"
    yield labelled("", text, columns=columns, hang=2)
