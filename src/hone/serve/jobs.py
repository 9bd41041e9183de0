"""``/v1/fine_tuning/jobs``: submit, look at, pause, resume and cancel jobs; their events and checkpoints."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, BackgroundTasks, Header, Request

from hone.errors import BadInputError, ConfigError
from hone.evaluation.grading import GraderError, check_grader, check_places, parts_of
from hone.registry.job_rows import Job, JobCheckpoint, JobEvent
from hone.registry.jobs import (
    cancel_job,
    find_job,
    list_checkpoints,
    list_events,
    list_jobs,
    pause_job,
    resume_job,
    submit_job,
)
from hone.serve.files import require_upload
from hone.serve.hyperparameters import JobRequest, job_spec, with_resolved
from hone.serve.models import resolve_served_model
from hone.serve.settings import ORGANIZATION, ServerSettings
from hone.serve.validation import validate_job
from hone.serve.wire import ERROR_RESPONSES, After, ApiError, Limit, list_page, page_after, query_metadata
from hone.types import JsonDict

__all__ = ["job_object", "jobs_router"]

_KEY_LENGTH = 256

IdempotencyKey = Annotated[
    str | None, Header(max_length=_KEY_LENGTH, description="One for a request and its retries: they make one job.")
]


def jobs_router(settings: ServerSettings) -> APIRouter:
    """The routes of fine-tuning jobs."""
    router = APIRouter(prefix="/v1/fine_tuning/jobs", tags=["fine-tuning"], responses=ERROR_RESPONSES)
    home, cursors = settings.home, settings.cursors

    @router.post("")
    def create_job(asked: JobRequest, background: BackgroundTasks, idempotency_key: IdempotencyKey = None) -> JsonDict:
        """Submit a job: its files are validated, then it waits for a worker."""
        job = _submit(settings, asked, idempotency_key)
        if job.status == "validating_files":
            background.add_task(validate_job, home, job.id)
        return job_object(job)

    @router.get("")
    def list_all(request: Request, after: After = None, limit: Limit = 20) -> JsonDict:
        """List jobs, newest first; `metadata[key]=value` keeps those with that metadata."""
        rows = [job for job in list_jobs(home)[::-1] if job.id == after or _has_metadata(job, request)]
        page, has_more = page_after(rows, after=after, limit=limit, cursors=cursors)
        return list_page([job_object(job) for job in page], has_more=has_more)

    @router.get("/{fine_tuning_job_id}")
    def retrieve_job(fine_tuning_job_id: str) -> JsonDict:
        """Show a job."""
        return job_object(_require_job(home, fine_tuning_job_id))

    @router.get("/{fine_tuning_job_id}/events")
    def list_job_events(fine_tuning_job_id: str, after: After = None, limit: Limit = 20) -> JsonDict:
        """List a job's events, newest first."""
        _require_job(home, fine_tuning_job_id)
        rows = list_events(home, fine_tuning_job_id)[::-1]
        page, has_more = page_after(rows, after=after, limit=limit, cursors=cursors)
        return list_page([_event_object(event) for event in page], has_more=has_more)

    @router.get("/{fine_tuning_job_id}/checkpoints")
    def list_job_checkpoints(fine_tuning_job_id: str, after: After = None, limit: Limit = 10) -> JsonDict:
        """List a job's checkpoints, newest first."""
        _require_job(home, fine_tuning_job_id)
        rows = list_checkpoints(home, fine_tuning_job_id)[::-1]
        page, has_more = page_after(rows, after=after, limit=limit, cursors=cursors)
        return list_page([_checkpoint_object(checkpoint) for checkpoint in page], has_more=has_more)

    @router.post("/{fine_tuning_job_id}/cancel")
    def cancel(fine_tuning_job_id: str) -> JsonDict:
        """End a job for good."""
        return _changed(home, fine_tuning_job_id, cancel_job)

    @router.post("/{fine_tuning_job_id}/pause")
    def pause(fine_tuning_job_id: str) -> JsonDict:
        """Stop a job so that it can be resumed; it answers with the state before."""
        return _changed(home, fine_tuning_job_id, pause_job)

    @router.post("/{fine_tuning_job_id}/resume")
    def resume(fine_tuning_job_id: str) -> JsonDict:
        """Let a paused job go on."""
        return _changed(home, fine_tuning_job_id, resume_job)

    return router


def job_object(job: Job) -> JsonDict:
    """A job as the API shows it."""
    spec = job.spec
    method, numbers = with_resolved(spec["method"], job.hyperparameters)
    return {
        "id": job.id,
        "object": "fine_tuning.job",
        "created_at": job.created_at,
        "finished_at": job.finished_at,
        "estimated_finish": job.estimated_finish,
        "error": job.error,
        "fine_tuned_model": job.fine_tuned_model,
        "hyperparameters": numbers,
        "integrations": spec["integrations"],
        "metadata": spec["metadata"],
        "method": method,
        "model": spec["model"],
        "organization_id": f"org-{ORGANIZATION}",
        "result_files": [job.result_file] if job.result_file else [],
        "seed": spec["seed"],
        "status": job.status,
        "trained_tokens": job.trained_tokens,
        "training_file": spec["training_file"],
        "validation_file": spec["validation_file"],
    }


def _event_object(event: JobEvent) -> JsonDict:
    return {
        "id": event.id,
        "object": "fine_tuning.job.event",
        "created_at": event.created_at,
        "level": event.level,
        "message": event.message,
        "type": event.type,
        "data": event.data or {},
    }


def _checkpoint_object(checkpoint: JobCheckpoint) -> JsonDict:
    return {
        "id": checkpoint.id,
        "object": "fine_tuning.job.checkpoint",
        "created_at": checkpoint.created_at,
        "fine_tuned_model_checkpoint": checkpoint.model,
        "fine_tuning_job_id": checkpoint.job_id,
        "metrics": checkpoint.metrics,
        "step_number": checkpoint.step_number,
    }


def _submit(settings: ServerSettings, asked: JobRequest, idempotency_key: str | None) -> Job:
    if asked.model not in settings.bases:
        raise ApiError(
            f"Model {asked.model} is not available for fine-tuning or does not exist.",
            param="model",
            code="model_not_available",
        )
    spec = job_spec(asked)
    if spec["method"]["type"] == "reinforcement":
        spec["grader_models"] = _models_of(settings, spec["method"]["reinforcement"]["grader"])
    for param in ("training_file", "validation_file"):
        if spec[param] is not None:
            upload = require_upload(settings.home, spec[param], param=param, status=400)
            if upload.purpose != "fine-tune":
                raise ApiError(
                    f"File {upload.id} has the purpose {upload.purpose!r}; {param} needs one of 'fine-tune'.",
                    param=param,
                )
    try:
        return submit_job(settings.home, spec, idempotency_key=idempotency_key)
    except ConfigError as error:
        raise ApiError(f"{error.what}.", code="idempotency_key_reused") from error


def _models_of(settings: ServerSettings, grader: JsonDict) -> dict[str, str]:
    """The models that a grader asks, by their names on the wire; the value is what they are called inside hone.

    Raises:
        GraderError: the grader could not run here.
        ApiError: a model is not served.
    """
    check_grader(grader)
    check_places(grader)
    parts = parts_of(grader)
    if not settings.run_python_graders and any(part["type"] == "python" for part in parts):
        raise GraderError("Programs are not run here.", code="python_graders_disabled")
    asked = {part["model"] for part in parts if part["type"] == "score_model"}
    return {name: resolve_served_model(settings, name).reference for name in sorted(asked)}


def _require_job(home: Path, job_id: str) -> Job:
    job = find_job(home, job_id)
    if job is None:
        raise ApiError(
            f"Could not find fine tune: {job_id}", status=404, param="fine_tune_id", code="fine_tune_not_found"
        )
    return job


def _changed(home: Path, job_id: str, change: Callable[[Path, str], Job]) -> JsonDict:
    _require_job(home, job_id)
    try:
        return job_object(change(home, job_id))
    except BadInputError as error:  # over already; never 409, which clients send again
        raise ApiError(f"{error.what}.", param="fine_tuning_job_id", code="invalid_job_state") from error


def _has_metadata(job: Job, request: Request) -> bool:
    return query_metadata(request).items() <= (job.spec["metadata"] or {}).items()
