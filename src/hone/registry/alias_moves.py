"""The moves of an alias as rows, and what follows from them: where a revert leads, and which versions may not go."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from sqlalchemy import Connection, select

from hone.registry.store import alias_history, aliases, versions
from hone.types import JsonDict

__all__ = ["AliasAction", "AliasMove", "moves_of", "places_back", "places_in_use"]

AliasAction = Literal["promote", "revert"]


@dataclass(frozen=True, slots=True)
class AliasMove:
    """One line of an alias's history.

    Args:
        generation: its number.
        action: how it came there.
        number: of the version that it stood on from then; None for the base.
        base_name: the base, where it was that.
        changed_at: UTC time.
        forced: whether a figure failed and the move was made all the same.
        reason: what the user gave as the reason.
        gate: what was measured before the move; None where nothing was.
    """

    generation: int
    action: AliasAction
    number: int | None
    base_name: str | None
    changed_at: str
    forced: bool
    reason: str | None
    gate: JsonDict | None


def places_in_use(connection: Connection, name: str, number: int) -> list[str]:
    """Why a version may not go: each alias that stands on it, or would after one revert."""
    found = []
    for row in connection.execute(select(aliases).where(aliases.c.name == name)):
        if row.number == number:
            found.append(f"{name}@{row.alias} stands on it")
        elif places_back(connection, name, row.alias)[:1] == [number]:
            found.append(f"reverting {name}@{row.alias} leads to it")
    return found


def places_back(connection: Connection, name: str, alias: str) -> list[int | None]:
    """Where reverting an alias leads, the nearest place first and the base (None) last; empty on the base."""
    there = set(
        connection.execute(select(versions.c.number).where(versions.c.name == name, versions.c.removed_at.is_(None)))
        .scalars()
        .all()
    )
    stack = _stack([(move.action, move.number) for move in moves_of(connection, name, alias)])
    if not stack:
        return []
    below = [number for number in reversed(stack[:-1]) if number in there and number != stack[-1]]
    return [*dict.fromkeys(below), None]


def _stack(moves: Sequence[tuple[AliasAction, int | None]]) -> list[int]:
    """The places that an alias has stood in and was not taken back from, the present one last; empty on the base."""
    stack: list[int] = []
    for action, number in moves:
        if action == "revert":
            stack.pop()
            while stack and stack[-1] != number:
                stack.pop()
        elif number is not None and stack[-1:] != [number]:
            stack.append(number)
    return stack


def moves_of(connection: Connection, name: str, alias: str) -> list[AliasMove]:
    """Every move of an alias, the first one first."""
    of_alias = (alias_history.c.name == name, alias_history.c.alias == alias)
    query = select(alias_history).where(*of_alias).order_by(alias_history.c.id)
    return [
        AliasMove(row.id, row.action, row.number, row.base_name, row.changed_at, bool(row.forced), row.reason, row.gate)
        for row in connection.execute(query)
    ]
