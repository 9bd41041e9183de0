"""``/v1/models``: what can be asked, by every name that it has on the wire."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Literal

from fastapi import APIRouter
from sqlalchemy import update

from hone.errors import HoneError, VersionError
from hone.recipe.inference import is_reward_model
from hone.registry.aliases import find_alias, list_aliases
from hone.registry.jobs import list_checkpoints, list_jobs
from hone.registry.store import jobs, open_store
from hone.registry.versions import list_versions, resolve_version
from hone.serve.settings import ORGANIZATION, ServerSettings
from hone.serve.wire import ERROR_RESPONSES, ApiError
from hone.types import JsonDict

__all__ = ["ServedModel", "checkpoint_folder", "list_models", "models_router", "resolve_served_model"]


@dataclass(frozen=True, slots=True)
class ServedModel:
    """Something that can be asked.

    Args:
        id: its name on the wire.
        kind: what it is.
        reference: its name inside hone, as ``load_answerer`` takes it: a base, ``support@3``, or a run's folder.
        created_at: seconds since 1970; 0 for a base.
    """

    id: str
    kind: Literal["base", "version", "name", "alias", "fine-tuned", "checkpoint"]
    reference: str
    created_at: int


def models_router(settings: ServerSettings) -> APIRouter:
    """The routes of models."""
    router = APIRouter(prefix="/v1/models", tags=["models"], responses=ERROR_RESPONSES)

    @router.get("")
    def list_all() -> JsonDict:
        """List what can be asked."""
        return {"object": "list", "data": [_model_object(model) for model in list_models(settings)]}

    @router.get("/{model:path}")
    def retrieve_model(model: str) -> JsonDict:
        """Show a model."""
        return _model_object(resolve_served_model(settings, model))

    @router.delete("/{model:path}")
    def delete_model(model: str) -> JsonDict:
        """Delete a fine-tuned model: it is no longer served. Its version stays, and `hone models` shows it."""
        found = resolve_served_model(settings, model)
        if found.kind != "fine-tuned":
            raise ApiError(
                f"{model} is a {found.kind}; the API deletes fine-tuned models alone, by their ft: name.", param="model"
            )
        _delete(settings.home, model)
        return {"id": model, "object": "model", "deleted": True}

    return router


def list_models(settings: ServerSettings) -> list[ServedModel]:
    """Everything that can be asked: bases, versions and their names and aliases, fine-tuned models, checkpoints.

    Reward models are not among them: they score answers, and write none.

    Raises:
        StorageError: the registry cannot be read.
    """
    return list(_all_models(settings))


def resolve_served_model(settings: ServerSettings, name: str) -> ServedModel:
    """What a name on the wire means. No name reaches the file system: a path or a hub id is not one.

    Raises:
        ApiError: nothing of that name is served, or it is a reward model.
        StorageError: the registry cannot be read.
    """
    if name in settings.bases:
        return ServedModel(name, "base", settings.bases[name], 0)
    tuned = next((model for model in _fine_tuned(settings.home) if model.id == name), None)
    found = tuned or _version(settings.home, name)
    if found is None:
        raise ApiError(
            f"The model `{name}` does not exist or you do not have access to it.",
            status=404,
            param="model",
            code="model_not_found",
        )
    return found


def checkpoint_folder(home: Path, job_id: str, step: int) -> Path:
    """Where a checkpoint that stays servable lies, in the form of a run's folder with an adapter."""
    return home.absolute() / "runs" / job_id / "epochs" / f"step-{step:06d}"


def _all_models(settings: ServerSettings) -> Iterator[ServedModel]:
    for name, base in settings.bases.items():
        yield ServedModel(name, "base", base, 0)
    home = settings.home
    newest: dict[str, ServedModel] = {}
    scoring = set()
    for version in list_versions(home):
        if is_reward_model(version.run_folder):
            scoring.add(version.reference)
            newest.pop(version.name, None)  # the name alone means the newest
            continue
        made = int(datetime.fromisoformat(version.created_at).timestamp())
        yield ServedModel(version.reference, "version", version.reference, made)
        newest[version.name] = ServedModel(version.name, "name", version.reference, made)
    yield from newest.values()
    for alias in list_aliases(home):
        if alias.reference in scoring:
            continue
        moved = int(datetime.fromisoformat(alias.changed_at).timestamp())
        yield ServedModel(f"{alias.name}@{alias.alias}", "alias", alias.reference, moved)
    yield from _fine_tuned(home)


def _fine_tuned(home: Path) -> Iterator[ServedModel]:
    served = {}
    for job in list_jobs(home):
        if job.fine_tuned_model and job.version and job.model_deleted_at is None:
            served[job.id] = job
            yield ServedModel(job.fine_tuned_model, "fine-tuned", job.version, job.finished_at or job.created_at)
    for checkpoint in list_checkpoints(home):
        if checkpoint.job_id in served:
            folder = checkpoint_folder(home, checkpoint.job_id, checkpoint.step_number)
            yield ServedModel(checkpoint.model, "checkpoint", str(folder), checkpoint.created_at)


def _version(home: Path, name: str) -> ServedModel | None:
    if "/" in name or "\\" in name or name in ("", ".", ".."):
        return None  # the registry would take it for the folder of a run
    alias = find_alias(home, name)
    if alias is not None and alias.number is None:
        return ServedModel(name, "alias", alias.reference, int(datetime.fromisoformat(alias.changed_at).timestamp()))
    if not any(version.name == name.partition("@")[0] for version in list_versions(home)):
        return None
    try:
        version = resolve_version(home, name)
    except VersionError:
        return None
    if is_reward_model(version.run_folder):
        raise ApiError(
            f"`{name}` is a reward model: it scores answers, and writes none. On the server's machine, "
            f"`hone reward score {version.reference} FILE` asks it.",
            status=404,
            param="model",
            code="model_not_supported",
        )
    kind: Literal["version", "name", "alias"] = "version"
    if "@" not in name:
        kind = "name"
    elif not name.partition("@")[2].isdigit():
        kind = "alias"
    return ServedModel(name, kind, version.reference, int(datetime.fromisoformat(version.created_at).timestamp()))


def _model_object(model: ServedModel) -> JsonDict:
    owner = "system" if model.kind == "base" else ORGANIZATION
    return {"id": model.id, "object": "model", "created": model.created_at, "owned_by": owner}


def _delete(home: Path, model: str) -> None:
    with open_store(home).write() as connection:
        gone = update(jobs).where(jobs.c.fine_tuned_model == model)
        if connection.execute(gone.values(model_deleted_at=int(time.time()))).rowcount == 0:
            raise HoneError(f"{model} left the registry while it was being deleted")
