"""A version as the base of further training: its adapter merged into its base, once, as a model folder below the home.

So a preference or reinforcement run can begin where supervised fine-tuning ended: its reference, "the base", is the
version, and the new adapter lies on top of it.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from hone.config.schema import TrainConfig
from hone.engine.events import Event, Recorder
from hone.errors import ModelError, ProofError, VersionError
from hone.files import exclusive_lock, remove_folder
from hone.model.catalog import resolve_model
from hone.proof.invariant import described
from hone.registry.leftovers import MERGED_FOLDER
from hone.registry.versions import Version, resolve_version

if TYPE_CHECKING:
    from hone.recipe.export import ExportResult

__all__ = ["base_of_version", "on_version"]

_Config = TypeVar("_Config", bound=TrainConfig)
_LONGEST_WAIT_SECONDS = 600.0


def on_version(config: _Config, *, home: Path, recorder: Recorder) -> _Config:
    """The options with a model folder where ``model`` names a version; as they are where it names a base.

    The folder is an export (``--to merged``) that was compared with the version's own answers, and is kept below
    ``models/versions`` in the home folder. An unproven version is merged all the same, and said to be unproven.

    Args:
        config: the options.
        home: hone's home folder.
        recorder: hears what is done.

    Raises:
        ModelError: ``model`` names nothing, or the version cannot be merged, as a reward model cannot.
        ProofError: the merged folder gives other answers than the version.
        StorageError: the version's files are damaged, or no space.
    """
    version = _named(config.model, home)
    if version is None:
        return config
    from hone.recipe.export import export_version  # exports import torch, which a wrong name need not wait for

    folder = home.absolute() / MERGED_FOLDER / f"{version.reference}-{version.adapter_sha256[:12]}"
    with exclusive_lock(f"{folder}.lock", what=f"the merged {version.reference}", wait_seconds=_LONGEST_WAIT_SECONDS):
        if not folder.exists():
            text = f"{version.reference} becomes the base: its adapter is merged, once, into {folder}"
            recorder.record(Event("note", {"text": text}))
            made = export_version(
                version.reference, target="merged", out=folder, accept_unproven=version.status != "proven", home=home,
                recorder=recorder,
            )  # fmt: skip
            _refuse_other_answers(made)
    return config.model_copy(update={"model": str(folder)})


def _refuse_other_answers(made: ExportResult) -> None:
    """Of an unproven version an export is written whatever its check says; a base has to be that version."""
    failed = [described(check.invariant) for check in made.checks if not check.invariant.holds]
    if failed:
        remove_folder(made.folder)
        raise ProofError(
            f"merged, {made.version} does not give its own answers, so it cannot be a base",
            where="--model",
            why="what is trained on it would begin at a model that nobody has measured",
            details=failed,
            remedy="train the version anew, or name its base",
        )


def base_of_version(config: _Config, *, home: Path) -> _Config:
    """The options with the version's own base, which is of the same shape, where ``model`` names a version.

    Raises:
        ModelError: ``model`` names nothing.
    """
    version = _named(config.model, home)
    return config if version is None else config.model_copy(update={"model": version.base_name})


def _named(name: str, home: Path) -> Version | None:
    """The version of that name; None where it is a base's."""
    try:
        resolve_model(name, home=home)
    except ModelError as no_model:
        try:
            return resolve_version(home, name)
        except VersionError:
            raise no_model from None
    return None
