"""``hone models remove`` and ``gc``: taking away what is not wanted, and what nothing refers to."""

from __future__ import annotations

from typing import Annotated

import typer

from hone.cli.options import JsonOption
from hone.cli.output import harmless, print_json, show
from hone.cli.tables import byte_size, text_table
from hone.home import hone_home

__all__ = ["collect_models", "remove_model"]


def remove_model(
    version: Annotated[str, typer.Argument(metavar="VERSION", help="The version, as support@3.")],
    *,
    as_json: JsonOption = False,
) -> None:
    """Remove a version and its files.

    Its number is never given again, and lineage and histories keep its place. Refused while an alias stands on it, or
    would after one revert.
    """
    from hone.registry import remove_version, resolve_version

    found = resolve_version(hone_home(), version)
    gone = remove_version(hone_home(), found)
    if as_json:
        print_json(
            {
                "schema": 1,
                "version": found.reference,
                "folder": str(found.run_folder),
                "files_removed": gone is not None,
                "size_bytes": gone.size_bytes if gone else 0,
            }
        )
    elif gone:
        show(f"{found.reference} is removed; {byte_size(gone.size_bytes)} are free again")
    else:
        show(f"{found.reference} is removed; its files stay in {harmless(str(found.run_folder))}")


def collect_models(
    *,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Take away what nothing refers to.

    Files of removed versions, runs that ended before anything of them could go on, what killed processes left. What a
    version, an alias, a run that can go on or any row of the registry refers to stays; so does what is younger than an
    hour.
    """
    from hone.registry import collect_garbage

    gone = collect_garbage(hone_home(), dry_run=dry_run)
    if as_json:
        items = [
            {"kind": one.kind, "path": str(one.path), "reason": one.reason, "size_bytes": one.size_bytes}
            for one in gone
        ]
        print_json({"schema": 1, "dry_run": dry_run, "items": items})
        return
    if not gone:
        show("Nothing to take away.")
        return
    rows = [["WHAT", "SIZE", "WHY", "WHERE"]]
    rows += [[one.kind, byte_size(one.size_bytes), one.reason, str(one.path)] for one in gone]
    for line in text_table(rows, right=(1,)):
        show(harmless(line))
    total = byte_size(sum(one.size_bytes for one in gone))
    show(f"{total} would be free again" if dry_run else f"{total} are free again")
