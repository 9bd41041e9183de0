"""Run folders: what one execution leaves behind, its state, and the lock that keeps a second process out.

``run.json`` in the folder is the run's own record, readable without the registry; the registry's row mirrors it, so
that runs can be listed. Where a crash fell between the two writes, the folder is right.
"""

from __future__ import annotations

import json
import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from sqlalchemy import delete, insert, update

from hone.errors import ConfigError, HoneError, StorageError, VersionError
from hone.files import exclusive_lock, remove_abandoned, write_json
from hone.registry.names import check_name, slug
from hone.registry.store import open_store, runs, timestamp
from hone.types import JsonDict

__all__ = ["SEED_RUN", "RunFolder", "RunStatus", "create_run", "run_row"]

RunStatus = Literal["created", "running", "done", "failed", "interrupted"]

SEED_RUN = "seed"  # the kind of a further training of `hone run --seeds`, whose folder stands in that run's
_RECORD = "run.json"
_LOCK = ".lock"
_RECORD_SCHEMA = 1


class _Entry:
    """A name in the run's folder; read on a run, it is the path."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __get__(self, run: RunFolder, _owner: type[RunFolder]) -> Path:
        return run.path / self.name


@dataclass(frozen=True)
class RunFolder:
    """One run's folder.

    Args:
        path: the folder, absolute.
        id: sortable and readable, as ``20261122-044414-support-3f2a`` (UTC).
        kind: the job: ``run``, ``train`` or ``seed``.
        name: the version's name that it works towards.
        created_at: UTC time, as in ``run.json``.
        home: the home whose registry lists this run; None for a folder of the user's own.
    """

    path: Path
    id: str
    kind: str
    name: str
    created_at: str
    home: Path | None = None

    config = _Entry("config.yaml")  # every option with the value that was used
    manifest = _Entry("manifest.json")  # the data: hashes, rows, splits
    ledger = _Entry("ledger.jsonl")  # one line a row that was not used whole
    metrics = _Entry("metrics.jsonl")  # what depends on data, model and seed alone
    timings = _Entry("timings.jsonl")  # what the clock decides
    log = _Entry("log.txt")
    checkpoints = _Entry("checkpoints")
    adapter = _Entry("adapter")
    seeds = _Entry("seeds")  # further trainings of --seeds
    plan = _Entry("plan.json")  # what was predicted, and what it took
    proof = _Entry("proof.json")
    evaluation = _Entry("evaluation.json")
    answers = _Entry("answers.jsonl")
    result = _Entry("result.json")
    report_html = _Entry("report.html")
    report_markdown = _Entry("report.md")

    def __fspath__(self) -> str:
        return str(self.path)

    @classmethod
    def at(cls, path: str | Path, *, kind: str = "train", name: str | None = None) -> RunFolder:
        """Make a run in a folder of the user's choice; it is not listed in the registry until it is registered.

        A run that ended before its first checkpoint has nothing to lose: it is begun anew in the same folder.

        Args:
            path: the folder; made where it is missing.
            kind: the job.
            name: the version's name; the folder's where it is None.

        Raises:
            ConfigError: ``path`` is a file, holds other things than a run, or holds a run that is finished or can be
                resumed.
            StorageError: another process uses the folder, or it cannot be written.
        """
        folder = Path(path).absolute()
        if folder.exists() and not folder.is_dir():
            raise ConfigError("is a file", where=str(path), remedy="name a folder with --output")
        if _is_in_use(folder):
            _make_room(folder, path)
        name = name or slug(folder.name) or kind
        run = cls(folder, _new_id(name), kind, name, timestamp())
        run._write_record("created")
        return run

    @classmethod
    def open(cls, path: str | Path, *, home: Path | None = None) -> RunFolder:
        """The run that an existing folder holds, as for ``--resume``.

        Args:
            path: the folder.
            home: the home whose registry is to follow the run's state.

        Raises:
            VersionError: there is no run in ``path``.
            StorageError: its ``run.json`` is damaged.
        """
        folder = Path(path).absolute()
        record = _read_record(folder)
        if record is None:
            raise VersionError(
                "holds no run of hone (it has no run.json)",
                where=str(path),
                remedy="name a folder made by `hone run` or `hone train --output`",
            )
        return cls(folder, record["id"], record["kind"], record["name"], record["created_at"], home)

    @property
    def status(self) -> RunStatus:
        """The state; a run that its process left behind by dying counts as interrupted."""
        record = self.record()
        status: RunStatus = record["status"]
        if status == "running":
            try:
                with exclusive_lock(self.path / _LOCK, what="the run"):
                    return "interrupted"
            except StorageError:
                return "running"
        return status

    def record(self) -> JsonDict:
        """What ``run.json`` says.

        Raises:
            StorageError: it is missing or damaged.
        """
        record = _read_record(self.path)
        if record is None:
            raise StorageError("run.json is missing", where=str(self.path))
        return record

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Keep every other process out of this folder; what a killed one left half-written is removed.

        Raises:
            StorageError: another process, whose id is named, has worked here for a second.
        """
        # The short wait outlasts another process that only asks for the status.
        with exclusive_lock(self.path / _LOCK, what="the run's folder", wait_seconds=1.0):
            remove_abandoned(self.path)
            remove_abandoned(self.checkpoints)
            yield

    def start(self, config: Mapping[str, Any]) -> None:
        """The work begins, or goes on after an interruption.

        Args:
            config: the options as JSON values, for the registry; ``config.yaml`` is the recipe's to write.
        """
        self._write_record("running")
        self._update_row(status="running", finished_at=None, config=dict(config))

    def finish(self, result: Mapping[str, Any]) -> None:
        """The work is done: writes ``result.json``, then the state.

        Args:
            result: the machine-readable result, JSON values only.
        """
        write_json(self.result, dict(result))
        finished_at = timestamp()
        self._write_record("done", finished_at=finished_at)
        self._update_row(status="done", finished_at=finished_at, result=dict(result))

    def fail(self, error: HoneError) -> None:
        """The work ended by an error, which the record keeps as the user saw it."""
        self._stop("failed", error=error.render())

    def interrupt(self) -> None:
        """The work was stopped from outside and may be resumed."""
        self._stop("interrupted")

    def remove(self) -> None:
        """Take the run out of the registry, and its files away; the folder goes where nothing else is in it.

        Raises:
            StorageError: the registry cannot be written, or a file cannot be removed.
        """
        if self.home is not None:
            with open_store(self.home).write() as connection:
                connection.execute(delete(runs).where(runs.c.id == self.id))
        _clear(self)
        for name in ("audit.json", _RECORD, _LOCK):
            (self.path / name).unlink(missing_ok=True)
        with suppress(OSError):  # a folder of the user's own may hold hidden files
            self.path.rmdir()

    def _stop(self, status: RunStatus, *, error: str | None = None) -> None:
        finished_at = timestamp()
        self._write_record(status, finished_at=finished_at, error=error)
        self._update_row(status=status, finished_at=finished_at)

    def _write_record(self, status: RunStatus, *, finished_at: str | None = None, error: str | None = None) -> None:
        record = {
            "schema": _RECORD_SCHEMA,
            "id": self.id,
            "kind": self.kind,
            "name": self.name,
            "status": status,
            "created_at": self.created_at,
            "finished_at": finished_at,
            "error": error,
        }
        write_json(self.path / _RECORD, record)

    def _update_row(self, **values: Any) -> None:
        if self.home is None:
            return
        with open_store(self.home).write() as connection:
            connection.execute(update(runs).where(runs.c.id == self.id).values(**values))


def create_run(home: Path, *, kind: str, name: str) -> RunFolder:
    """Make a run's folder under ``<home>/runs/`` and list it in the registry.

    Args:
        home: the home folder.
        kind: the job, as ``run`` or ``train``.
        name: the version's name that it works towards.

    Raises:
        ConfigError: ``name`` breaks the rule for names.
        StorageError: the folder or the registry cannot be written.
    """
    check_name(name)
    run_id = _new_id(name)
    run = RunFolder(home.absolute() / "runs" / run_id, run_id, kind, name, timestamp(), home)
    # The row goes first: a kill between the two leaves a listed run without a folder, which `hone models gc` takes
    # away, and never a folder that nobody knows of.
    with open_store(home).write() as connection:
        connection.execute(insert(runs).values(_row(run, home, status="created", finished_at=None)))
    run._write_record("created")
    return run


def run_row(run: RunFolder, home: Path) -> JsonDict:
    """The run as a row of the registry's table ``runs``, from what its folder says."""
    record = run.record()
    return _row(run, home, status=record["status"], finished_at=record["finished_at"])


def _row(run: RunFolder, home: Path, *, status: RunStatus, finished_at: str | None) -> JsonDict:
    folder, home = run.path, home.absolute()
    stored = folder.relative_to(home).as_posix() if folder.is_relative_to(home) else str(folder)
    return {
        "id": run.id,
        "kind": run.kind,
        "name": run.name,
        "folder": stored,
        "status": status,
        "created_at": run.created_at,
        "finished_at": finished_at,
    }


def _new_id(name: str) -> str:
    return f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{slug(name)}-{secrets.token_hex(2)}"


def _is_in_use(folder: Path) -> bool:
    """Whether a folder holds anything that a person would see; a killed run leaves hidden names."""
    try:
        return folder.is_dir() and any(not entry.name.startswith(".") for entry in folder.iterdir())
    except OSError as error:
        raise StorageError(f"cannot be read: {error.strerror or error}", where=str(folder)) from error


def _make_room(folder: Path, given: str | Path) -> None:
    """Empty a run's folder for a new run, or refuse because something in it may still be wanted."""
    record = _read_record(folder)
    if record is None:
        raise ConfigError(
            "the folder is not empty, and what it holds is no run of hone",
            where=str(given),
            why="a run writes files with fixed names and must not replace yours",
            remedy="name an empty or a new folder with --output",
        )
    run = RunFolder.open(folder)
    with run.lock():
        if record["status"] == "done":
            raise ConfigError(
                f"the folder holds a finished run ({run.id})",
                where=str(given),
                remedy="name another folder with --output, or remove this one first",
            )
        if run.checkpoints.is_dir() and any(run.checkpoints.iterdir()):
            raise ConfigError(
                f"the folder holds an unfinished run ({run.id}) with checkpoints",
                where=str(given),
                remedy=f"go on with it: hone train --resume {given}; or name another folder with --output",
            )
        _clear(run)


def _clear(run: RunFolder) -> None:
    try:
        for entry in vars(RunFolder).values():
            if not isinstance(entry, _Entry):
                continue
            path = run.path / entry.name
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
    except OSError as error:
        raise StorageError(f"cannot be removed: {error}", where=str(run.path)) from error


def _read_record(folder: Path) -> JsonDict | None:
    path = folder / _RECORD
    try:
        record = json.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        raise StorageError(
            f"cannot be read: {error}", where=str(path), remedy="restore it, or remove the folder"
        ) from error
    if not isinstance(record, dict) or not {"id", "kind", "name", "status", "created_at"} <= record.keys():
        raise StorageError("is no record of a run", where=str(path), remedy="restore it, or remove the folder")
    return record
