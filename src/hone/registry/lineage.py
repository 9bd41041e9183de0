"""Where versions come from: base -> version -> version, with what answers under which alias."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from hone.registry.aliases import list_aliases
from hone.registry.versions import Version, list_versions

__all__ = ["Family", "LineageNode", "family_of"]


@dataclass(frozen=True, slots=True)
class LineageNode:
    """A version among its relatives.

    Args:
        version: the version; a removed one has a date in ``removed_at``.
        aliases: that stand on it, as ``production``.
        children: versions that were made from it.
    """

    version: Version
    aliases: tuple[str, ...]
    children: tuple[LineageNode, ...]

    def walk(self) -> Iterator[LineageNode]:
        """This node and all below it."""
        yield self
        for child in self.children:
            yield from child.walk()


@dataclass(frozen=True, slots=True)
class Family:
    """Versions of one base, as a tree.

    Args:
        base_name: the base as the first of them named it.
        base_hash: SHA-256 over its config and weights.
        aliases: that stand on this base, as ``support@production``.
        roots: versions that were trained on the base itself.
    """

    base_name: str
    base_hash: str
    aliases: tuple[str, ...]
    roots: tuple[LineageNode, ...]


def family_of(home: Path, version: Version) -> Family:
    """The versions of the same name and base as ``version``, and all their ancestors and descendants.

    Removed versions stay in the tree. A version whose parent is of another base begins a tree of its own.

    Raises:
        StorageError: the registry cannot be read.
    """
    # in the order of names and numbers, which all that follows keeps
    known = {one.reference: one for one in list_versions(home, removed=True) if one.base_hash == version.base_hash}
    members = {reference for reference, one in known.items() if one.name == version.name}
    while True:
        related = {str(known[one].parent) for one in members if known[one].parent in known}
        related |= {reference for reference, one in known.items() if one.parent in members}
        if related <= members:
            break
        members |= related
    targets = [target for name in sorted({known[one].name for one in members}) for target in list_aliases(home, name)]

    def node(one: Version) -> LineageNode:
        below = [other for name, other in known.items() if name in members and other.parent == one.reference]
        standing = tuple(target.alias for target in targets if target.reference == one.reference)
        return LineageNode(one, standing, tuple(map(node, below)))

    roots = [one for name, one in known.items() if name in members and one.parent not in members]
    on_base = tuple(f"{one.name}@{one.alias}" for one in targets if one.base_hash == version.base_hash)
    return Family(roots[0].base_name, version.base_hash, on_base, tuple(map(node, roots)))
