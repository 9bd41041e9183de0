"""The files of a job, looked at before it waits for a worker."""

from __future__ import annotations

from pathlib import Path

from hone.data.detection import LABEL
from hone.data.ledger import Ledger
from hone.data.loader import load_examples
from hone.errors import DataError
from hone.registry.jobs import fail_validation, find_job, list_jobs, pass_validation
from hone.registry.uploads import find_upload, upload_path
from hone.types import JsonDict

__all__ = ["validate_job", "validate_waiting"]

_FEWEST_EXAMPLES = 10
_MOST_NAMED_ROWS = 1000


def validate_job(home: Path, job_id: str) -> None:
    """Look at a job's files and let it wait for a worker, or fail it with every row that is wrong.

    Nothing happens where it has been validated or cancelled since.

    Args:
        home: the home folder.
        job_id: the job.

    Raises:
        StorageError: the registry or a file cannot be read.
    """
    job = find_job(home, job_id)
    if job is None or job.status != "validating_files":
        return
    spec = job.spec
    kind = spec["method"]["type"]
    named = [("training_file", _FEWEST_EXAMPLES)] + [("validation_file", 1)] * (spec["validation_file"] is not None)
    problems = (_problem_of(home, spec[param], param=param, fewest=fewest, kind=kind) for param, fewest in named)
    error = next((problem for problem in problems if problem is not None), None)
    if error is None:
        pass_validation(home, job_id)
    else:
        fail_validation(home, job_id, error)


def validate_waiting(home: Path) -> None:
    """Validate the jobs that a server left unvalidated when it died.

    Raises:
        StorageError: the registry or a file cannot be read.
    """
    for job in list_jobs(home):
        if job.status == "validating_files":
            validate_job(home, job.id)


def _problem_of(home: Path, upload_id: str, *, param: str, fewest: int, kind: str) -> JsonDict | None:
    """{code, message, param} of what is wrong with a file; None where nothing is."""
    title = param.replace("_", " ").capitalize()
    if find_upload(home, upload_id) is None:
        return {"code": "file_not_found", "message": f"No such File object: {upload_id}", "param": param}
    path = upload_path(home, upload_id)
    wrong = f"The job failed due to an invalid {param.replace('_', ' ')}."
    try:
        loaded = load_examples(str(path), preferences=kind == "dpo", tasks=kind == "reinforcement")
    except DataError as error:
        details = "; ".join([error.what, *error.details[:_MOST_NAMED_ROWS]]).replace(str(path), "line")
        return {"code": f"invalid_{param}", "message": f"{wrong} {details}", "param": param}
    if rejected := _rejected(loaded.ledger):
        return {"code": f"invalid_{param}", "message": f"{wrong} {rejected}", "param": param}
    if kind == "dpo" and (not loaded.are_preferences or loaded.format == LABEL):
        needed = "the method dpo needs two answers a row: input, preferred_output and non_preferred_output"
        return {
            "code": f"invalid_{param}",
            "message": f"{wrong} Its rows are {loaded.format}, and {needed}",
            "param": param,
        }
    if len(loaded.examples) < fewest:
        message = f"{title} has {len(loaded.examples)} example(s), but must have at least {fewest} examples"
        return {"code": "invalid_n_examples", "message": message, "param": param}
    return None


def _rejected(ledger: Ledger) -> str:
    entries = list(ledger.dropped_entries())
    named = [f"Line {entry.line}: {entry.reason}" for entry in entries[:_MOST_NAMED_ROWS]]
    more = [f"and {len(entries) - len(named)} more"] if len(entries) > len(named) else []
    return "; ".join([*named, *more])
