"""What the registry must be, as plain Python values, and what it is, read through its public functions."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from pathlib import Path

from hone.registry import (
    alias_generation,
    family_of,
    history_of_alias,
    list_aliases,
    list_versions,
    revert_places,
    verify_version,
)


@dataclass
class Model:
    """Versions by number with their parent, the removed ones, and each alias's moves (None is the base)."""

    versions: dict[int, int | None] = field(default_factory=dict)
    removed: set[int] = field(default_factory=set)
    moves: dict[str, list[tuple[str, int | None]]] = field(default_factory=dict)

    def copy(self) -> Model:
        return copy.deepcopy(self)

    @property
    def live(self) -> list[int]:
        return [number for number in self.versions if number not in self.removed]

    def stack(self, alias: str) -> list[int]:
        """Where the alias stands, below it where it stood: a promotion lays a place on top, a revert takes some off."""
        stack: list[int] = []
        for action, number in self.moves.get(alias, []):
            if action == "promote":
                if not stack or stack[-1] != number:
                    stack.append(number or 0)
            elif number is None:
                stack = []
            else:
                stack = stack[:-1]
                while stack[-1] != number:
                    stack = stack[:-1]
        return stack

    def places(self, alias: str) -> list[int | None]:
        stack = self.stack(alias)
        if not stack:
            return []
        places: list[int | None] = []
        for number in reversed(stack[:-1]):
            if number not in self.removed and number != stack[-1] and number not in places:
                places.append(number)
        return [*places, None]

    def is_used(self, number: int) -> bool:
        return any(self.stack(alias)[-1:] == [number] or self.places(alias)[:1] == [number] for alias in self.moves)

    def register(self, parent: int | None) -> None:
        self.versions[len(self.versions) + 1] = parent

    def promote(self, alias: str, number: int) -> None:
        self.moves.setdefault(alias, []).append(("promote", number))

    def revert(self, alias: str, number: int | None) -> None:
        self.moves[alias].append(("revert", number))

    def remove(self, number: int) -> None:
        self.removed.add(number)


def check(home: Path, model: Model) -> None:
    """The registry says what the model says, and every version that is there is whole."""
    every = list_versions(home, "v", removed=True)
    assert [one.number for one in every] == list(model.versions)
    assert {one.number: one.parent for one in every} == {
        number: None if parent is None else f"v@{parent}" for number, parent in model.versions.items()
    }
    assert [one.number for one in list_versions(home, "v")] == model.live
    for version in list_versions(home, "v"):
        verify_version(version)
    aliases = {one.alias: one for one in list_aliases(home)}
    assert aliases.keys() == model.moves.keys()
    for alias, moves in model.moves.items():
        assert aliases[alias].number == moves[-1][1]
        assert [(one.action, one.number) for one in history_of_alias(home, "v", alias)] == moves
        assert revert_places(home, "v", alias) == model.places(alias)
    counted = len(model.versions) + len(model.removed) + sum(map(len, model.moves.values()))
    assert alias_generation(home) == counted
    if every:
        below = [node.version.number for root in family_of(home, every[0]).roots for node in root.walk()]
        assert sorted(below) == list(model.versions)
