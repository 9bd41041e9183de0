"""The whole job: read, train, reload in a fresh process, compare, register, report."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

from hone.config.load import load_config
from hone.config.schema import RunConfig, TrainConfig
from hone.data.audit.report import AuditReport
from hone.data.loader import LoadedData
from hone.engine.checkpoint import load_newest_checkpoint
from hone.engine.events import Event, Recorder, Tee
from hone.engine.parallel import ALONE, Parallel
from hone.errors import ConfigError, HoneError, InterruptedRunError, StorageError, TrainingError
from hone.evaluation.scorers import metric_named
from hone.files import write_json
from hone.model.catalog import resolve_model
from hone.proof.invariant import Invariant
from hone.recipe.audit import audited_rows, describe_warnings
from hone.recipe.contest import open_documents
from hone.recipe.endings import interrupted, removed_if_refused, resumable
from hone.recipe.method import choose_method, load_rows
from hone.recipe.model_card import write_model_card
from hone.recipe.question_sets import QuestionSet, question_sets
from hone.recipe.reporting import write_run_report
from hone.recipe.rewards import require_rewards
from hone.recipe.run_files import describe_documents, held_out_file, say_what_was_used, store_proof
from hone.recipe.seeds import Repeated, Training, Workplace, require_repeatable
from hone.recipe.sft import SftResult, train_sft
from hone.recipe.starting import lineage_of
from hone.recipe.version_base import base_of_version, on_version
from hone.registry.names import check_name, version_name_for
from hone.registry.provenance import describe_code
from hone.registry.recorder import RunRecorder
from hone.registry.runs import SEED_RUN, RunFolder, create_run
from hone.registry.versions import Version, register_version
from hone.types import JsonDict

__all__ = ["RESULT_SCHEMA", "open_interrupted_run", "run", "train"]

RESULT_SCHEMA = 1
_EVALUATION_OPTIONS = (
    "metric", "max_new_tokens", "device", "dtype", "arms", "instruction", "documents", "keep", "probes", "retention",
    "lm_eval", "lm_eval_limit",
)  # fmt: skip


def run(
    config: RunConfig,
    *,
    home: Path,
    recorder: Recorder,
    should_stop: Callable[[], bool] = lambda: False,
    resume: RunFolder | None = None,
    parallel: Parallel = ALONE,
) -> JsonDict:
    """Do the whole job and give the machine-readable result (docs/result.md).

    Args:
        config: the options.
        home: hone's home folder.
        recorder: receives events.
        should_stop: asked after each training step.
        resume: the interrupted run to go on with; None begins a new one.
        parallel: the processes that train together; the first one alone does the rest, and has the result.

    Raises:
        HoneError: as its parts do; the run's folder keeps its state and, where there is one, its checkpoint.
    """
    name = check_name(config.name) if config.name else version_name_for(config.data)
    if config.metric:
        metric_named(config.metric)  # a misspelt one is to be found now, not after the training
    base_of_version(config, home=home)  # a wrong name is to be found before the rows are read
    documents = describe_documents(config.documents)
    loaded = load_rows(config, config.data)
    config = _with_method(config, loaded, home)
    require_repeatable(config)
    held_out_data = _held_out_data(config, loaded)
    audit = audited_rows(config, evaluation_data=config.evaluation_data)
    config = on_version(config, home=home, recorder=recorder)
    source = resolve_model(config.model, home=home)
    training = _training(home, question_sets(config, recorder), should_stop, parallel)
    with _working(config, home, recorder, kind="run", name=name, resume=resume, parallel=parallel) as work:
        _store_audit(work, audit)
        seeds = Repeated(
            config, work, recorder, training=training, described=_result, parallel=parallel,
            evaluation=lambda options, folder: _evaluate_in_fresh_process(options, folder, home),
        )  # fmt: skip
        trained = seeds.trained(lambda: training(config, loaded, held_out_data, work))
        answered = seeds.answered(trained, lambda: _rows_of(config))
        if not parallel.is_first:
            return {}
        proof = [*trained.proof, *(Invariant(**invariant) for invariant in answered["proof"])]
        store_proof(work.folder, proof)
        version = _register(config, home, name, work.folder, trained, answered["evaluation"], proof)
        result = _result(work.folder, trained, proof) | {
            "version": version.reference,
            "status": version.status,
            **{part: answered[part] for part in ("evaluation", "verdict", "retention")},
            "generation": answered["generation"] | {"model": version.reference},
            "documents": say_what_was_used(documents, answered["evaluation"], trained.training),
            "report": str(work.folder.report_html),
        }
        write_run_report(work.folder, trained.config, result, answers=answered["answers"])
        write_model_card(work.folder.adapter, version.reference, result, source=source)
        work.folder.finish(result)
    return result


def train(
    config: TrainConfig,
    *,
    home: Path,
    recorder: Recorder,
    should_stop: Callable[[], bool] = lambda: False,
    resume: RunFolder | None = None,
    parallel: Parallel = ALONE,
) -> JsonDict:
    """Train alone: no held-out rows, no comparison, no version; the adapter stands in the run's folder.

    Args and errors as for :func:`run`.
    """
    base_of_version(config, home=home)
    loaded = load_rows(config, config.data)
    config = _with_method(config, loaded, home)
    audit = audited_rows(config)
    config = on_version(config, home=home, recorder=recorder)
    source = resolve_model(config.model, home=home)
    name = version_name_for(config.data)
    with _working(config, home, recorder, kind="train", name=name, resume=resume, parallel=parallel) as work:
        _store_audit(work, audit)
        trained = train_sft(
            config, loaded, folder=work.folder, home=home, recorder=work.recorder,
            resume_from=work.checkpoint, should_stop=should_stop, parallel=parallel,
        )  # fmt: skip
        if not parallel.is_first:
            return {}
        result = _result(work.folder, trained, trained.proof)
        write_model_card(work.folder.adapter, work.folder.name, result, source=source)
        work.folder.finish(result)
    return result


_Config = TypeVar("_Config", bound=TrainConfig)


def _with_method(config: _Config, loaded: LoadedData, home: Path) -> _Config:
    """The options with the method that goes with the rows, its rewards at hand."""
    chosen = config.model_copy(update={"method": choose_method(config, loaded)})
    require_rewards(chosen, home=home)
    return chosen


def _training(
    home: Path, questions: Sequence[QuestionSet], should_stop: Callable[[], bool], parallel: Parallel
) -> Training:
    """Trains for a run, with one seed."""

    def training(config: RunConfig, loaded: LoadedData, held_out_data: LoadedData | None, at: Workplace) -> SftResult:
        return train_sft(
            config, loaded, folder=at.folder, home=home, recorder=at.recorder, held_out_data=held_out_data,
            held_out=config.held_out, keep=config.keep if config.probes else "off", resume_from=at.checkpoint,
            questions=questions, should_stop=should_stop, parallel=parallel,
            documents=lambda: open_documents(config.documents, home=home),
        )  # fmt: skip

    return training


def _rows_of(config: RunConfig) -> tuple[LoadedData, LoadedData | None]:
    """The rows as they were read first: a ledger counts what becomes of them in one training."""
    loaded = load_rows(config, config.data)
    return loaded, _held_out_data(config, loaded)


def _held_out_data(config: RunConfig, loaded: LoadedData) -> LoadedData | None:
    if config.evaluation_data is None:
        return None
    preferences = loaded.are_preferences
    held_out = load_rows(config, config.evaluation_data, preferences=preferences)
    if held_out.are_preferences != preferences:
        raise ConfigError(
            f"{held_out.source} has one answer a row ({held_out.format}), and {loaded.source} compares answers",
            where="--eval",
            why="preferences are judged by preferences",
            remedy="give held-out rows of the same kind, or leave --eval out so that rows are set aside",
        )
    return held_out


def _store_audit(work: Workplace, report: AuditReport) -> None:
    write_json(work.folder.path / "audit.json", report.to_json())
    warnings = describe_warnings(report)
    if warnings:
        work.recorder.record(Event("note", {"text": warnings}))


def open_interrupted_run(
    path: str | Path, *, home: Path, given: Mapping[str, object] | None = None
) -> tuple[RunFolder, TrainConfig]:
    """The run in ``path`` and the options it was begun with, as ``--resume`` needs them.

    Args:
        path: the run's folder.
        home: hone's home folder.
        given: options that go before those it was begun with.

    Raises:
        VersionError: there is no run.
        ConfigError: it is finished, ended before anything could be resumed, or is a part of another run.
    """
    folder = RunFolder.open(path, home=home if Path(path).absolute().is_relative_to(home.absolute()) else None)
    if folder.status == "done":
        raise ConfigError("this run is finished", where=str(path), remedy="begin a new one, or evaluate this one")
    if not folder.config.exists():
        raise ConfigError(
            "this run ended before it had begun to train", where=str(path), remedy="begin it anew with the same command"
        )
    if folder.kind == SEED_RUN:
        run_folder = folder.path.parent.parent
        remedy = f"go on with the run: hone run --resume {run_folder}"
        raise ConfigError("this is one of the trainings of a run with --seeds", where=str(path), remedy=remedy)
    config_class = RunConfig if folder.kind == "run" else TrainConfig
    return folder, load_config(config_class, given or {}, file=folder.config)


@contextmanager
def _working(
    config: TrainConfig,
    home: Path,
    recorder: Recorder,
    *,
    kind: str,
    name: str,
    resume: RunFolder | None,
    parallel: Parallel,
) -> Iterator[Workplace]:
    """A locked run folder in the right state whatever happens inside: done, failed, or interrupted and resumable.

    Of several processes the first one makes and keeps it; the others learn its name.
    """
    if not parallel.is_first:
        path, *told_of = parallel.from_first(None)
        yield Workplace(RunFolder(Path(path), *told_of), recorder, None)
        return
    if resume is not None:
        folder = resume
    elif config.output is not None:
        folder = RunFolder.at(config.output, kind=kind, name=name)
    else:
        folder = create_run(home, kind=kind, name=name)
    with removed_if_refused(folder, is_new=resume is None), folder.lock():
        checkpoint, damaged = load_newest_checkpoint(folder.checkpoints) if resume else (None, [])
        folder.start(config.model_dump(mode="json", by_alias=True))
        step = checkpoint.progress.step if checkpoint else 0
        with RunRecorder.resume(folder, step) as written:
            told = Tee(written, recorder)
            told.record(Event("stage", {"name": "run", "detail": str(folder.path)}))
            for path in damaged:
                then = f"training goes on after step {step}" if checkpoint else "training begins anew"
                text = f"{path.name.removeprefix('damaged-')} is damaged and was set aside as {path.name}; {then}"
                told.record(Event("note", {"text": f"checkpoint {text}"}))
            parallel.from_first([str(folder.path), folder.id, folder.kind, folder.name, folder.created_at])
            try:
                yield Workplace(folder, told, checkpoint)
            except (InterruptedRunError, KeyboardInterrupt) as error:
                folder.interrupt()
                raise interrupted(folder, error) from error
            except HoneError as error:
                with suppress(StorageError):  # a full disk takes no state either; the run then counts as interrupted
                    folder.fail(error)
                if isinstance(error, StorageError) and folder.config.exists():
                    raise resumable(folder, error) from error
                raise


def _evaluate_in_fresh_process(config: RunConfig, folder: RunFolder, home: Path) -> JsonDict:
    """The adapter as a user would load it: another process that has only the files."""
    command = [sys.executable, "-m", "hone", "evaluate", str(folder.path), str(held_out_file(folder)), "--json"]
    command += ["--seed", str(config.seed)]
    config = config.model_copy(update={"dtype": load_config(RunConfig, {}, file=folder.config).dtype})  # not timed anew
    for option in _EVALUATION_OPTIONS:
        value = getattr(config, option)
        value = ",".join(value) if isinstance(value, tuple) else value
        if value is not None:
            command += [f"--{option.replace('_', '-')}", str(value)]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=False, env={**os.environ, "HONE_HOME": str(home)})
    if done.returncode in (0, 3):
        answered: JsonDict = json.loads(done.stdout)
        return answered
    if done.returncode == InterruptedRunError.exit_code:
        raise InterruptedRunError("stopped during the evaluation; the adapter is saved")
    raise TrainingError(
        f"the adapter was saved, but evaluating it in a fresh process ended with code {done.returncode}",
        where=str(folder.adapter),
        remedy=f"see the message above; `hone run --resume {folder.path}` goes on from here",
    )


def _register(
    config: RunConfig, home: Path, name: str, folder: RunFolder, trained: SftResult, evaluation: JsonDict,
    proof: list[Invariant],
) -> Version:  # fmt: skip
    return register_version(
        home,
        name=name,
        run=folder,
        base_name=config.model,
        base_hash=trained.base["hash"],
        template_hash=trained.template_hash,
        data_manifest=trained.manifest,
        evaluation=evaluation,
        proof=[invariant.to_json() for invariant in proof],
        status="proven" if all(invariant.holds for invariant in proof) else "unproven",
        lineage=lineage_of(trained.config, home=home, num_rows=len(trained.manifest["train"])),
        code=describe_code(),
    )


def _result(folder: RunFolder, trained: SftResult, proof: list[Invariant]) -> JsonDict:
    return {
        "schema": RESULT_SCHEMA,
        "run_dir": str(folder.path),
        "base": trained.base,
        "data": trained.data,
        "training": trained.training,
        "proof": [invariant.to_json() for invariant in proof],
        "code": describe_code(),
    }
