"""Aliases: movable names for versions, as ``support@production``, with the whole history of where each has stood.

An alias stands on a version or on the base. A promotion puts a place on top of those before it, a revert takes the
top away, so that reverting again goes further back, and at the end to the base. Every move is one transaction that
writes the place and its line of history. A server asks :func:`alias_generation`, which reads a few numbers, and
resolves its names again when that has changed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Row, func, insert, select
from sqlalchemy.dialects.sqlite import insert as insert_or

from hone.errors import StorageError, VersionError
from hone.registry.alias_moves import AliasMove, moves_of, places_back
from hone.registry.names import check_alias
from hone.registry.store import alias_history, aliases, open_store, timestamp, versions
from hone.registry.versions import no_such_name, no_such_selector
from hone.types import JsonDict

__all__ = [
    "AliasTarget",
    "alias_generation",
    "find_alias",
    "history_of_alias",
    "list_aliases",
    "move_alias",
    "resolve_alias",
    "revert_alias",
    "revert_places",
    "set_alias",
]


@dataclass(frozen=True, slots=True)
class AliasTarget:
    """Where an alias stands.

    Args:
        name: the versions' name.
        alias: as ``production``.
        number: of the version; None where it stands on the base.
        base_name: the base, where it stands on it.
        base_hash: SHA-256 over that base's config and weights.
        changed_at: UTC time of the last move.
        generation: number of the last move; each move has a greater one.
    """

    name: str
    alias: str
    number: int | None
    base_name: str | None
    base_hash: str | None
    changed_at: str
    generation: int

    @property
    def reference(self) -> str:
        """What answers under the alias: ``support@3``, or the base's name."""
        return f"{self.name}@{self.number}" if self.number is not None else str(self.base_name)


def resolve_alias(home: Path, name: str, alias: str) -> AliasTarget:
    """Where an alias stands now.

    Raises:
        VersionError: there is no such alias; the message lists what there is.
        StorageError: the registry cannot be read.
    """
    with open_store(home).read() as connection:
        row = _alias_row(connection, name, alias) if name.isascii() and alias.isascii() else None
        if row is None:
            raise _no_such_alias(connection, name, alias)
        return _target(connection, row)


def find_alias(home: Path, reference: str) -> AliasTarget | None:
    """The alias that a reference as ``support@production`` names; None where it names none."""
    name, _, alias = reference.partition("@")
    if not alias or not reference.isascii():
        return None
    with open_store(home).read() as connection:
        row = _alias_row(connection, name, alias)
        return None if row is None else _target(connection, row)


def list_aliases(home: Path, name: str | None = None) -> list[AliasTarget]:
    """All aliases, or those of one name, ordered by name and alias.

    Raises:
        StorageError: the registry cannot be read.
    """
    query = select(aliases).order_by(aliases.c.name, aliases.c.alias)
    if name is not None:
        query = query.where(aliases.c.name == name)
    with open_store(home).read() as connection:
        return [_target(connection, row) for row in connection.execute(query)]


def alias_generation(home: Path) -> int:
    """A number that grows whenever a name may have come to mean something else.

    It counts moves of aliases, registrations and removals, none of which is ever undone. Reading it takes about a
    millisecond; two equal numbers mean that every alias and every newest version is the same.

    Raises:
        StorageError: the registry cannot be read.
    """
    with open_store(home).read() as connection:
        moves = connection.execute(select(func.coalesce(func.max(alias_history.c.id), 0))).scalar_one()
        counts = select(func.count(), func.count(versions.c.removed_at)).select_from(versions)
        registered, removed = connection.execute(counts).one()
    return int(moves + registered + removed)


def history_of_alias(home: Path, name: str, alias: str) -> list[AliasMove]:
    """Every move of an alias, the first one first; empty where there is no such alias.

    Raises:
        StorageError: the registry cannot be read.
    """
    with open_store(home).read() as connection:
        return moves_of(connection, name, alias)


def set_alias(home: Path, name: str, alias: str, number: int) -> None:
    """Point an alias at a version, with no gate; ``hone models promote`` asks one before.

    Args:
        home: the home folder.
        name: the version's name.
        alias: the alias, as ``production``.
        number: the version's number.

    Raises:
        ConfigError: ``alias`` breaks the rule for aliases.
        VersionError: there is no such version.
    """
    move_alias(home, name, alias, number)


def move_alias(
    home: Path,
    name: str,
    alias: str,
    number: int,
    *,
    seen: int | None = None,
    forced: bool = False,
    reason: str | None = None,
    gate: Mapping[str, Any] | None = None,
) -> AliasTarget:
    """Promote: put an alias on a version, on top of the places that it stood in before.

    Args:
        home: the home folder.
        name: the version's name.
        alias: the alias.
        number: the version's number.
        seen: the alias's generation that the gate was measured against, 0 where it did not exist; None for any.
        forced: whether a figure of the gate failed.
        reason: the user's reason.
        gate: what was measured, as JSON values.

    Raises:
        ConfigError: ``alias`` breaks the rule for aliases.
        VersionError: there is no such version.
        StorageError: the alias was moved by somebody else since ``seen``, or the registry cannot be written.
    """
    check_alias(alias)
    with open_store(home).write() as connection:
        _require_version(connection, name, number)
        _require_unmoved(connection, name, alias, seen)
        further = {"forced": int(forced), "reason": reason, "gate": None if gate is None else dict(gate)}
        return _move(connection, name, alias, {"number": number, "base_name": None, "base_hash": None}, further)


def revert_places(home: Path, name: str, alias: str) -> list[int | None]:
    """Where reverting an alias leads, the nearest place first; the last one is None, the base.

    Versions that were removed are left out. Empty where the alias stands on the base already.

    Raises:
        VersionError: there is no such alias.
        StorageError: the registry cannot be read.
    """
    with open_store(home).read() as connection:
        if _alias_row(connection, name, alias) is None:
            raise _no_such_alias(connection, name, alias)
        return places_back(connection, name, alias)


def revert_alias(
    home: Path, name: str, alias: str, *, to: int | None, seen: int | None = None, reason: str | None = None
) -> AliasTarget:
    """Take an alias back to a place that it stood in before, or to the base.

    Args:
        home: the home folder.
        name: the versions' name.
        alias: the alias.
        to: one of :func:`revert_places`; None for the base of the version that it stands on.
        seen: the alias's generation that this was decided on; None for any.
        reason: the user's reason.

    Raises:
        VersionError: there is no such alias, or it cannot be reverted to there.
        StorageError: the alias was moved by somebody else since ``seen``, or the registry cannot be written.
    """
    with open_store(home).write() as connection:
        row = _alias_row(connection, name, alias)
        if row is None:
            raise _no_such_alias(connection, name, alias)
        _require_unmoved(connection, name, alias, seen)
        places = places_back(connection, name, alias)
        if to not in places:
            shown = ", ".join("base" if place is None else str(place) for place in places)
            raise VersionError(
                f"{name}@{alias} cannot be reverted to {'the base' if to is None else f'{name}@{to}'}",
                why="it stands there already, or never stood there",
                remedy=f"it can be reverted to: {shown}" if places else "it stands on the base; promote a version",
            )
        place: JsonDict = {"number": to, "base_name": None, "base_hash": None}
        if to is None:
            here = (versions.c.name == name, versions.c.number == row.number)
            base = connection.execute(select(versions.c.base_name, versions.c.base_hash).where(*here)).one()
            place |= {"base_name": base.base_name, "base_hash": base.base_hash}
        return _move(connection, name, alias, place, {"forced": 0, "reason": reason, "gate": None}, action="revert")


def _move(
    connection: Connection, name: str, alias: str, place: JsonDict, further: JsonDict, *, action: str = "promote"
) -> AliasTarget:
    """Write the place and its line of history."""
    values = {"name": name, "alias": alias, **place, "changed_at": timestamp()}
    moved = {**place, "changed_at": values["changed_at"]}
    statement = insert_or(aliases).values(values)
    connection.execute(statement.on_conflict_do_update(index_elements=["name", "alias"], set_=moved))
    connection.execute(insert(alias_history).values(action=action, **values, **further))
    row = _alias_row(connection, name, alias)
    assert row is not None, "it was just written"
    return _target(connection, row)


def _alias_row(connection: Connection, name: str, alias: str) -> Row[Any] | None:
    return connection.execute(select(aliases).where(aliases.c.name == name, aliases.c.alias == alias)).first()


def _generation(connection: Connection, name: str, alias: str) -> int:
    of_alias = (alias_history.c.name == name, alias_history.c.alias == alias)
    return int(connection.execute(select(func.coalesce(func.max(alias_history.c.id), 0)).where(*of_alias)).scalar_one())


def _target(connection: Connection, row: Row[Any]) -> AliasTarget:
    return AliasTarget(**row._mapping, generation=_generation(connection, row.name, row.alias))


def _require_version(connection: Connection, name: str, number: int) -> None:
    query = select(versions.c.number).where(versions.c.name == name, versions.c.removed_at.is_(None))
    numbers = connection.execute(query).scalars().all()
    if not numbers:
        raise no_such_name(connection, name, name)
    if number not in numbers:
        raise no_such_selector(connection, f"{name}@{number}", name, numbers)


def _require_unmoved(connection: Connection, name: str, alias: str, seen: int | None) -> None:
    if seen is not None and _generation(connection, name, alias) != seen:
        raise StorageError(
            f"{name}@{alias} was moved by somebody else in the meantime",
            why="what was measured holds for the place that it stood in before",
            remedy=f"look at it with `hone models show {name} --tree`, and give the command again",
        )


def _no_such_alias(connection: Connection, name: str, alias: str) -> VersionError:
    numbers = connection.execute(select(versions.c.number).where(versions.c.name == name)).scalars().all()
    if not numbers:
        return no_such_name(connection, f"{name}@{alias}", name)
    return no_such_selector(connection, f"{name}@{alias}", name, numbers)
