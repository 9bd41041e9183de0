"""Taking an alias back; no model is loaded for it."""

from __future__ import annotations

from pathlib import Path

from hone.errors import ConfigError, StorageError
from hone.registry.aliases import resolve_alias, revert_alias, revert_places
from hone.registry.versions import resolve_version, verify_version
from hone.types import JsonDict

__all__ = ["revert"]


def revert(reference: str, *, home: Path, to: str | None = None, reason: str | None = None) -> JsonDict:
    """Take an alias back to where it stood before.

    Args:
        reference: the alias, as ``support@production``.
        home: hone's home folder.
        to: a version's number, or ``base``; the place before this one where None.
        reason: why, for the history.

    Returns:
        ``alias``, ``was``, ``now``, ``reason`` and ``generation``.

    Raises:
        VersionError: there is no such alias, or no such place to go back to.
        StorageError: the version that it would stand on is damaged, or somebody else moved the alias meanwhile.
    """
    name, _, alias = reference.partition("@")
    standing = resolve_alias(home, name, alias)
    if to is not None and to != "base" and not to.isdigit():
        raise ConfigError(f"{to!r} is no place", where="--to", remedy="give a version's number, as 3, or base")
    places = revert_places(home, name, alias)
    # on the base already, the registry says so
    place = (places[0] if places else None) if to is None else None if to == "base" else int(to)
    if place is not None and place in places:
        try:
            verify_version(resolve_version(home, f"{name}@{place}"))
        except StorageError as error:
            others = ", ".join("base" if one is None else str(one) for one in places if one != place)
            raise StorageError(
                error.what, where=error.where, why=error.why, details=error.details,
                remedy=f"{error.remedy}; or revert with --to to another place: {others}",
            ) from error  # fmt: skip
    now = revert_alias(home, name, alias, to=place, seen=standing.generation, reason=reason)
    return {
        "schema": 1,
        "alias": f"{name}@{alias}",
        "was": standing.reference,
        "now": now.reference,
        "reason": reason,
        "generation": now.generation,
    }
