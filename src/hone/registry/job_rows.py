"""A fine-tuning job, its events and its checkpoints, as the registry's rows hold them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from hone.types import JsonDict

__all__ = ["FINISHED", "Job", "JobCheckpoint", "JobEvent", "JobStatus"]

JobStatus = Literal["validating_files", "queued", "running", "paused", "succeeded", "failed", "cancelled"]
FINISHED: tuple[JobStatus, ...] = ("succeeded", "failed", "cancelled")


@dataclass(frozen=True, slots=True)
class Job:
    """A job's row.

    Args:
        sequence: its place in the order of submission.
        id: as ``ftjob-...``.
        status: where it stands.
        request: ``pause`` while its worker is asked to pause; else None.
        spec: what was asked for: model, training_file, validation_file, suffix, method, seed, metadata, integrations.
        idempotency_key: of the request that made it.
        spec_sha256: of that request's body.
        hyperparameters: resolved numbers; None before it runs.
        created_at: seconds since 1970.
        finished_at: likewise; None while it is not over.
        estimated_finish: likewise.
        error: {code, message, param} of a failed one.
        trained_tokens: real tokens seen in training, over all passes.
        fine_tuned_model: its model's name on the wire, as ``ft:base:hone::abcd1234``.
        version: the version that it made, as ``support@3``.
        model_deleted_at: when its model was deleted over the API.
        result_file: the upload with the metrics.
        lease_owner: the worker that works on it.
        lease_until: until when, in seconds since 1970, nobody else may.
        lost_workers: workers that died over it.
    """

    sequence: int
    id: str
    status: JobStatus
    request: str | None
    spec: JsonDict
    idempotency_key: str | None
    spec_sha256: str
    hyperparameters: JsonDict | None
    created_at: int
    finished_at: int | None
    estimated_finish: int | None
    error: JsonDict | None
    trained_tokens: int | None
    fine_tuned_model: str | None
    version: str | None
    model_deleted_at: int | None
    result_file: str | None
    lease_owner: str | None
    lease_until: float | None
    lost_workers: int


@dataclass(frozen=True, slots=True)
class JobEvent:
    """One thing that happened to a job; fields as in the API's object."""

    sequence: int
    id: str
    job_id: str
    created_at: int
    level: str
    message: str
    type: str
    data: JsonDict | None


@dataclass(frozen=True, slots=True)
class JobCheckpoint:
    """A state of the training that stays servable; fields as in the API's object."""

    sequence: int
    id: str
    job_id: str
    created_at: int
    step_number: int
    metrics: JsonDict
    model: str
