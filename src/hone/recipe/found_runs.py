"""From a name to a version and a run's folder, and what training wrote there."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from hone.errors import ModelError, StorageError, VersionError
from hone.model.adapter_files import read_adapter_notes
from hone.model.catalog import resolve_model
from hone.registry.versions import Version, resolve_version
from hone.types import JsonDict

__all__ = ["find_run", "notes_of_run"]

Note = Callable[[str], None]


def notes_of_run(folder: Path) -> JsonDict:
    """What training wrote beside the adapter of a run's folder.

    Raises:
        StorageError: it is missing or damaged.
    """
    notes = read_adapter_notes(folder / "adapter")
    template = notes.get("template")
    known = {"template", *notes, *(f"template.{key}" for key in template)} if isinstance(template, dict) else {*notes}
    needed = ("base_name", "base_hash", "template", "template.template_hash", "template.thinking")
    missing = [name for name in needed if name not in known]
    if missing:
        path = folder / "adapter" / "hone.json"
        raise StorageError(
            f"is damaged: it does not say {', '.join(missing)}" if path.exists() else "is missing",
            where=str(path),
            why="without it nobody can tell on which base, and with which template, the adapter was trained",
            remedy="restore the file from a copy, or train again",
        )
    return notes


def find_run(reference: str, home: Path, note: Note) -> tuple[Version | None, Path | None]:
    """The version and the run's folder that ``reference`` names; None and None for a base.

    Args:
        reference: see :func:`hone.recipe.inference.load_answerer`.
        home: hone's home folder.
        note: receives sentences for the user.

    Raises:
        VersionError: there is no such thing.
    """
    folder = Path(reference)
    is_run = (folder / "adapter").is_dir() and (folder / "run.json").is_file()
    if is_run or (folder / "config.json").is_file():
        _tell_of_version(reference, home, note)
        return None, folder.absolute() if is_run else None
    if "/" in reference or reference.lower().endswith(".gguf"):
        return None, None
    try:
        version = resolve_version(home, reference)
    except VersionError as error:
        if "@" in reference:
            raise
        if folder.exists():
            return None, None
        try:
            resolve_model(reference, home=home)
        except ModelError as no_base:
            raise VersionError(f"{error.what}; nor is it a base", remedy=error.remedy) from no_base
        return None, None
    return version, version.run_folder


def _tell_of_version(reference: str, home: Path, note: Note) -> None:
    """A folder goes before a version of the same name; whoever meant the version is told how to name it."""
    if "/" in reference or "@" in reference:
        return
    with suppress(VersionError):
        version = resolve_version(home, reference)
        note(f"the folder {reference} is meant; the version of that name is {version.reference}")
