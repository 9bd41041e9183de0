"""The objects that the test suite of OpenAI's own client asks for, by the ids that stand in it.

Source: the suite in the source distribution of ``openai`` on PyPI, ``tests/api_resources``. Its tests come in any order
and delete what others read, so the objects are put back before each request that names one.
"""

from __future__ import annotations

import io
import json
import time

from sqlalchemy import delete, insert, update

from hone.registry.jobs import find_job, submit_job
from hone.registry.permissions import grant_permissions
from hone.registry.store import checkpoint_permissions, job_checkpoints, job_events, jobs, open_store, uploads
from hone.registry.store import stored_completions as completions
from hone.registry.uploads import find_upload, store_upload
from hone.serve.settings import ServerSettings
from hone.serve.stored import store_completion
from hone.types import JsonDict

__all__ = ["CURSORS", "MODELS", "restore_fixtures"]

MODELS = ("gpt-4o-mini", "gpt-6-astra", "gpt-3.5-turbo-instruct")
"""Bases that the suite names; each is served by the first base that the server was started with."""

CURSORS = frozenset({"after"})
"""A cursor that the suite sends, which is the id of nothing."""

_JOB = "ft-AF1WoRqd3aJAHsqc9NY7iL8F"
_FILES = ("file-abc123", "file_id")
_PERMISSION = "cp_zc4Q7MP6XxulcVzj4MZdwsAB"
_COMPLETION = "completion_id"
# Fine-tuned models, each the result of a job of its own: the suite also takes a job's id for one.
_TUNED = {
    "ft:gpt-4o-mini:acemeco:suffix:abc123": "ftjob-conformance-1",
    "ft:gpt-4o-mini-2024-07-18:org:weather:B7R9VjQd": "ftjob-conformance-2",
    _JOB: "ftjob-conformance-3",
}
_EXAMPLES = 12


def restore_fixtures(settings: ServerSettings, path: str) -> None:
    """Put back the objects that a request may name.

    Args:
        settings: of the server.
        path: the request's; ``/`` puts back all.

    Raises:
        StorageError: the registry cannot be written.
    """
    every = path == "/"
    if every or any(name in path for name in _FILES):
        _restore_files(settings)
    if every or _JOB in path:
        _restore_job(settings, _JOB, tuned=None)
    if every or "ft:" in path or "/checkpoints/" in path or _JOB in path:
        for model, job_id in _TUNED.items():
            _restore_job(settings, job_id, tuned=model)
        _restore_permission(settings)
    if every or _COMPLETION in path:
        _restore_completion(settings)


def _restore_files(settings: ServerSettings) -> None:
    for identity in _FILES:
        if find_upload(settings.home, identity) is None:
            with open_store(settings.home).write() as connection:
                connection.execute(delete(uploads).where(uploads.c.id == identity))
            content = "".join(f"{json.dumps(_row(place), ensure_ascii=False)}\n" for place in range(_EXAMPLES))
            store_upload(
                settings.home, io.BytesIO(content.encode()), filename="mydata.jsonl", purpose="fine-tune",
                identity=identity,
            )  # fmt: skip


def _row(place: int) -> JsonDict:
    return {
        "messages": [
            {"role": "user", "content": f"What is {place} and {place}?"},
            {"role": "assistant", "content": str(2 * place)},
        ]
    }


def _restore_job(settings: ServerSettings, job_id: str, *, tuned: str | None) -> None:
    home = settings.home
    if find_job(home, job_id) is None:
        numbers = {"batch_size": "auto", "learning_rate_multiplier": "auto", "n_epochs": "auto"}
        spec: JsonDict = {
            "model": MODELS[0], "training_file": _FILES[0], "validation_file": None, "suffix": "", "seed": 0,
            "method": {"type": "supervised", "supervised": {"hyperparameters": numbers}},
            "metadata": {"fixture": job_id}, "integrations": [],
        }  # fmt: skip
        submit_job(home, spec, identity=job_id)
    state: JsonDict = {"status": "running", "request": None, "finished_at": None, "lease_until": time.time() + 3600}
    if tuned is not None:
        version = next(iter(settings.bases.values()))  # it answers as its base does
        state = {"status": "succeeded", "fine_tuned_model": tuned, "version": version, "model_deleted_at": None}
        state["finished_at"] = int(time.time())
    with open_store(home).write() as connection:
        connection.execute(update(jobs).where(jobs.c.id == job_id).values(state))
        connection.execute(delete(job_checkpoints).where(job_checkpoints.c.job_id == job_id))
        kept = (job_events.c.job_id == job_id, job_events.c.message.like("The job%"))
        connection.execute(delete(job_events).where(*kept))
        if tuned is None:
            values = {
                "id": "ftckpt_conformance", "job_id": job_id, "created_at": int(time.time()), "step_number": 88,
                "metrics": {"step": 88, "train_loss": 0.5}, "model": "ft:gpt-4o-mini:hone::conform1:ckpt-step-88",
            }  # fmt: skip
            connection.execute(insert(job_checkpoints).values(values))


def _restore_permission(settings: ServerSettings) -> None:
    model = list(_TUNED)[1]
    with open_store(settings.home).write() as connection:
        connection.execute(delete(checkpoint_permissions).where(checkpoint_permissions.c.model == model))
    grant_permissions(settings.home, model, ["proj_abc123"], identity=_PERMISSION)


def _restore_completion(settings: ServerSettings) -> None:
    with open_store(settings.home).write() as connection:
        connection.execute(delete(completions).where(completions.c.id == _COMPLETION))
    message = {"role": "assistant", "content": "Hello.", "refusal": None}
    completion = {
        "id": _COMPLETION, "object": "chat.completion", "created": int(time.time()), "model": MODELS[0],
        "choices": [{"index": 0, "message": message, "finish_reason": "stop", "logprobs": None}],
        "usage": {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3},
    }  # fmt: skip
    asked = {"messages": [{"role": "user", "content": "Hello?"}], "metadata": {"foo": "string"}}
    store_completion(settings.home, asked, completion)
