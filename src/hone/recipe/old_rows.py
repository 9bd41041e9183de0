"""The rows that a version was trained on and judged on, read again; what changed since is found by hash."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from hone.config.load import load_config
from hone.config.schema import RunConfig
from hone.data.loader import load_examples
from hone.data.manifest import example_hash
from hone.errors import ConfigError, DataError, VersionError
from hone.recipe.head_to_head import held_out_rows
from hone.registry.versions import Version, resolve_version
from hone.types import Example

__all__ = ["forgotten_hashes", "options_of_version", "rows_judged_on", "rows_trained_on", "unique"]

Note = Callable[[str], None]


def options_of_version(version: Version) -> RunConfig:
    """The options that a version was made with.

    Raises:
        ConfigError: its config is not there, or cannot be read.
    """
    return load_config(RunConfig, {}, file=version.run_folder / "config.yaml")


def rows_trained_on(version: Version, *, home: Path, note: Note) -> list[Example]:
    """Every row that a version and those before it were trained on or chose their best step by, each once.

    Each is read from the file that the run was begun with, and is a row of it by its hash, so that a file that has
    changed since is found.

    Args:
        version: the version.
        home: hone's home folder.
        note: told where a version before it is not there any more, so that rows of its alone are not known.

    Raises:
        DataError: the file has not all of these rows any more; how many are missing is said.
        ConfigError: the run's config is not there.
    """
    config = options_of_version(version)
    wanted = {row["sha256"] for part in ("train", "validation") for row in version.data_manifest[part]}
    found = [one for one in load_examples(config.data, mapping=config.mapping).examples if example_hash(one) in wanted]
    missing = wanted - {example_hash(one) for one in found}
    if missing:
        raise DataError(
            f"{len(missing)} of the {len(wanted)} rows that {version.reference} was trained on are not in it any more",
            where=config.data,
            why="old rows can only be replayed or left out as they were",
            remedy="put the old file back",
        )
    # what was trained anew has all rows in its own file; what was continued has a sample of its parent's
    if version.lineage and version.lineage["relation"] == "continued":
        try:
            found += rows_trained_on(resolve_version(home, str(version.parent)), home=home, note=note)
        except (VersionError, ConfigError) as error:
            note(f"rows that only {version.parent} was trained on are not known any more: {error.what}")
    gone = forgotten_hashes(version)
    return [one for one in unique(found) if example_hash(one) not in gone]


def rows_judged_on(version: Version) -> list[Example]:
    """The held-out rows of a version.

    Raises:
        DataError: the file is not there.
    """
    return load_examples(str(held_out_rows(version))).examples


def forgotten_hashes(version: Version) -> set[str]:
    """Hashes of the rows that a version and those before it had to forget."""
    return set((version.lineage or {}).get("forgotten", ()))


def unique(examples: Sequence[Example]) -> list[Example]:
    """The examples without those whose content stood before."""
    return list({example_hash(one): one for one in reversed(examples)}.values())[::-1]
