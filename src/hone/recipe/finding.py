"""What a reference names: a run's folder with its version, or a base, also by an alias that was reverted to it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from hone.errors import ModelError, StorageError, VersionError
from hone.model.catalog import resolve_model
from hone.registry.aliases import AliasTarget, find_alias
from hone.registry.versions import Version, resolve_version
from hone.types import JsonDict

if TYPE_CHECKING:  # importing the model imports torch, which finding a name does not need
    from hone.model.load import LoadedModel

__all__ = ["base_named", "find_run", "load_named_base", "notes_of_run"]

Note = Callable[[str], None]


def base_named(home: Path, reference: str) -> str:
    """The name of the base behind an alias that stands on one; every other reference as it is."""
    alias = _alias_on_base(home, reference)
    return reference if alias is None else alias.reference


def load_named_base(reference: str, *, home: Path, device: str | None, dtype: str | None, note: Note) -> LoadedModel:
    """Load a base by its name, or by an alias that stands on it.

    Args:
        reference: of the base.
        home: hone's home folder.
        device: chosen where None.
        dtype: chosen where None.
        note: receives sentences for the user.

    Raises:
        ModelError: there is no such base, or it is not the one any more that the alias was reverted to.
    """
    from hone.model.load import load_base

    alias = _alias_on_base(home, reference)
    base = load_base(base_named(home, reference), home=home, device=device, dtype=dtype, note=note)
    if alias is not None and base.base_hash != alias.base_hash:
        raise ModelError(
            f"{alias.base_name} is not the base that {reference} was reverted to: its files changed",
            details=[f"hash then {str(alias.base_hash)[:16]}, now {base.base_hash[:16]}"],
            why="it gives answers that nobody has measured",
            remedy="put the old files back, or promote a version",
        )
    return base


def _alias_on_base(home: Path, reference: str) -> AliasTarget | None:
    alias = find_alias(home, reference) if "@" in reference else None
    return alias if alias is not None and alias.number is None else None


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
    if _alias_on_base(home, reference) is not None:
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


def notes_of_run(folder: Path) -> JsonDict:
    """What training wrote beside the adapter of a run's folder.

    Raises:
        StorageError: it is missing or damaged.
    """
    from hone.model.adapter_files import read_adapter_notes

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
