"""Runs, versions and aliases: SQLite for what is asked about, plain folders for what is kept."""

from __future__ import annotations

from hone.registry.names import check_name, version_name_for
from hone.registry.proven import require_proven
from hone.registry.provenance import describe_code
from hone.registry.recorder import RunRecorder
from hone.registry.runs import RunFolder, RunStatus, create_run
from hone.registry.versions import (
    Version,
    VersionStatus,
    list_versions,
    register_version,
    resolve_version,
    set_alias,
    verify_version,
)

__all__ = [
    "RunFolder",
    "RunRecorder",
    "RunStatus",
    "Version",
    "VersionStatus",
    "check_name",
    "create_run",
    "describe_code",
    "list_versions",
    "register_version",
    "require_proven",
    "resolve_version",
    "set_alias",
    "verify_version",
    "version_name_for",
]
