"""Runs, versions and aliases: SQLite for what is asked about, plain folders for what is kept."""

from __future__ import annotations

from hone.registry.alias_moves import AliasMove
from hone.registry.aliases import (
    AliasTarget,
    alias_generation,
    find_alias,
    history_of_alias,
    list_aliases,
    move_alias,
    resolve_alias,
    revert_alias,
    revert_places,
    set_alias,
)
from hone.registry.leftovers import Leftover
from hone.registry.lineage import Family, LineageNode, family_of
from hone.registry.names import check_name, version_name_for
from hone.registry.proven import require_proven
from hone.registry.provenance import describe_code
from hone.registry.recorder import RunRecorder
from hone.registry.removal import collect_garbage, remove_version
from hone.registry.runs import RunFolder, RunStatus, create_run
from hone.registry.versions import (
    Version,
    VersionStatus,
    list_versions,
    register_version,
    resolve_version,
    verify_version,
)

__all__ = [
    "AliasMove",
    "AliasTarget",
    "Family",
    "Leftover",
    "LineageNode",
    "RunFolder",
    "RunRecorder",
    "RunStatus",
    "Version",
    "VersionStatus",
    "alias_generation",
    "check_name",
    "collect_garbage",
    "create_run",
    "describe_code",
    "family_of",
    "find_alias",
    "history_of_alias",
    "list_aliases",
    "list_versions",
    "move_alias",
    "register_version",
    "remove_version",
    "require_proven",
    "resolve_alias",
    "resolve_version",
    "revert_alias",
    "revert_places",
    "set_alias",
    "verify_version",
    "version_name_for",
]
