"""One fine-tuning job, from its files to a model that can be asked: the same recipe as ``hone run``.

The run's folder bears the job's id, so that whichever worker comes next finds what the last one left: a finished
result, a checkpoint to go on from, or nothing yet.
"""

from __future__ import annotations

import hashlib
import io
import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from hone.config.schema import RunConfig
from hone.engine.events import Recorder, Tee
from hone.errors import DataError, HoneError, InterruptedRunError, StorageError
from hone.recipe.epoch_adapters import EpochKeeper, save_epoch_adapters
from hone.recipe.run import open_interrupted_run, run
from hone.registry.leases import Lease, fail_job, release_job, succeed_job, tell_job
from hone.registry.names import slug
from hone.registry.runs import RunFolder
from hone.registry.uploads import find_upload, store_upload
from hone.serve.job_config import rate_multiplier, run_config, unused_numbers
from hone.serve.models import checkpoint_folder
from hone.serve.progress import Progress, checkpoint_metrics, result_csv
from hone.serve.settings import ORGANIZATION
from hone.serve.worker import Heartbeat
from hone.types import JsonDict

__all__ = ["train_job"]

_SERVABLE_EPOCHS = 3
_BUSY_SECONDS = 5.0


def train_job(
    lease: Lease,
    beat: Heartbeat,
    *,
    bases: Mapping[str, str],
    recorder: Recorder,
    should_stop: Callable[[], bool],
    note: Callable[[str], None],
) -> None:
    """Do a claimed job and finish it in the registry.

    Args:
        lease: the job.
        beat: of the worker; it tells the run's progress.
        bases: bases by their names on the wire.
        recorder: receives the run's events as well.
        should_stop: asked after each training step.
        note: receives sentences for the log.

    Raises:
        InterruptedRunError, KeyboardInterrupt: the run was stopped and can go on.
        StorageError: the registry cannot be written.
    """
    folder = lease.home.absolute() / "runs" / lease.job.id
    if _is_worked_on(folder):  # by a worker that was taken for lost; it will notice that it has lost the job
        time.sleep(_BUSY_SECONDS)
        beat.end()
        release_job(lease, reason="Another process still works on this job's run; it waits for that to end")
        return
    try:
        progress = Progress(lease, folder, multiplier=rate_multiplier(lease.job.spec))
        beat.each_beat = progress.tell
        result = _run(lease, folder, bases, recorder, should_stop)
        progress.tell()
        _succeed(lease, beat, RunFolder.open(folder, home=lease.home), result, note)
    except InterruptedRunError:
        raise
    except StorageError as error:
        beat.end()
        _pause_for(lease, error)
    except HoneError as error:
        beat.end()
        code = "invalid_training_file" if isinstance(error, DataError) else "training_failed"
        fail_job(lease, {"code": code, "message": _message(error), "param": _param(error)})


def _run(
    lease: Lease, folder: Path, bases: Mapping[str, str], recorder: Recorder, should_stop: Callable[[], bool]
) -> JsonDict:
    home, told = lease.home, Tee(recorder, EpochKeeper(folder, most=_SERVABLE_EPOCHS))
    if (folder / "config.yaml").exists():
        before = RunFolder.open(folder, home=home)
        if before.status == "done":
            found: JsonDict = json.loads(before.result.read_text(encoding="utf-8"))
            return found
        resumed, config = open_interrupted_run(folder, home=home)
        assert isinstance(config, RunConfig), "jobs are runs"
        return run(config, home=home, recorder=told, should_stop=should_stop, resume=resumed)
    config = run_config(lease.job, folder, bases=bases, home=home)
    if unused := unused_numbers(lease.job.spec):
        text = f"Not used: {', '.join(unused)}; the model is compared with its base once it is trained"
        tell_job(lease, events=((f"ftevent-unused-{lease.job.id.removeprefix('ftjob-')}", text, None),))
    return run(config, home=home, recorder=told, should_stop=should_stop)


def _succeed(lease: Lease, beat: Heartbeat, folder: RunFolder, result: JsonDict, note: Callable[[str], None]) -> None:
    if result["status"] != "proven":
        broken = [f"{one['number']}. {one['name']}" for one in result["proof"] if not one["holds"]]
        message = f"The model was trained, but is not proven, so it is not served: {', '.join(broken)} does not hold"
        beat.end()
        fail_job(lease, {"code": "unproven", "message": message, "param": None})
        return
    spec, home = lease.job.spec, lease.home
    metrics = checkpoint_metrics(folder.path)
    steps = save_epoch_adapters(
        folder, home=home, steps=sorted(metrics)[-_SERVABLE_EPOCHS:], note=note,
        target=lambda step: checkpoint_folder(home, lease.job.id, step),
    )  # fmt: skip
    verdict = result["verdict"]
    tell_job(lease, events=(("ftevent-verdict-" + lease.job.id.removeprefix("ftjob-"), _sentence(verdict), None),))
    result_file = _store_result(lease, folder)
    beat.end()
    succeed_job(
        lease,
        model=f"ft:{spec['model']}:{ORGANIZATION}:{slug(spec['suffix'])}:{lease.job.id[-8:]}",
        version=result["version"],
        trained_tokens=int(result["training"]["tokens"]),
        result_file=result_file,
        checkpoints=tuple((step, metrics[step]) for step in steps),
    )


def _store_result(lease: Lease, folder: RunFolder) -> str:
    """The result file; one, whichever worker stores it."""
    identity = "file-" + hashlib.sha256(lease.job.id.encode()).hexdigest()[:24]
    if find_upload(lease.home, identity) is None:
        content = io.BytesIO(result_csv(folder.path))
        store_upload(lease.home, content, filename="step_metrics.csv", purpose="fine-tune-results", identity=identity)
    return identity


def _sentence(verdict: JsonDict) -> str:
    return f"Comparison with the base: {verdict['decision'].replace('_', ' ')}. {verdict['reason']}"


def _pause_for(lease: Lease, error: StorageError) -> None:
    """A disk that is full or broken is for a person to mend; the job keeps what it has."""
    tell_job(lease, request="pause", events=((f"ftevent-{time.time_ns()}", f"Pausing: {_message(error)}", None),))
    release_job(lease, reason="")


def _is_worked_on(folder: Path) -> bool:
    return (folder / "run.json").exists() and RunFolder.open(folder).status == "running"


def _message(error: HoneError) -> str:
    return "; ".join([error.what, *error.details[:20]]) + (f". {error.remedy}" if error.remedy else "")


def _param(error: HoneError) -> str | None:
    return "training_file" if isinstance(error, DataError) else None
