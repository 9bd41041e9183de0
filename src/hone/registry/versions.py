"""Versions: registered results as ``support@3``; ``aliases.py`` has the movable names for them.

A version is written in one transaction, after its adapter's files were hashed; a number, once given, is not given to
another run. The adapter stays in its run's folder.
"""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from sqlalchemy import Connection, Row, Select, func, insert, select
from sqlalchemy.dialects.sqlite import insert as insert_or

from hone.errors import StorageError, VersionError
from hone.files import sha256_file
from hone.registry.names import check_name
from hone.registry.runs import RunFolder, run_row
from hone.registry.store import aliases, open_store, runs, timestamp, versions
from hone.types import JsonDict

__all__ = [
    "MODEL_CARD",
    "Version",
    "VersionStatus",
    "list_versions",
    "no_such_name",
    "no_such_selector",
    "register_version",
    "resolve_version",
    "verify_version",
]

MODEL_CARD = "README.md"
"""The model card's name in the adapter's folder; it is not one of the version's registered files."""

VersionStatus = Literal["proven", "unproven"]


@dataclass(frozen=True, slots=True)
class Version:
    """A registered result.

    Args:
        name: the name that it shares with its predecessors and successors.
        number: 1 for the first of that name.
        run_id: the run that made it.
        run_folder: that run's folder, absolute.
        base_name: the base as the user named it.
        base_hash: SHA-256 over the base's config and weights.
        adapter_sha256: SHA-256 over the names and hashes of the adapter's files.
        adapter_files: SHA-256 of each of those files, by its name in the adapter's folder.
        template_hash: hash of the chat template and how it is used.
        data_manifest: the data: hashes, rows, splits.
        evaluation: the comparison with the base, where there was one.
        proof: the invariants with their figures, where they were checked.
        status: ``proven`` where every invariant holds.
        created_at: UTC time.
        lineage: its parent and what was done to it; None where it was trained on a base (docs/models.md).
        code: versions of hone, Python and libraries that made it.
        removed_at: UTC time; None while it is there.
    """

    name: str
    number: int
    run_id: str
    run_folder: Path
    base_name: str
    base_hash: str
    adapter_sha256: str
    adapter_files: Mapping[str, str]
    template_hash: str
    data_manifest: JsonDict
    evaluation: JsonDict | None
    proof: list[JsonDict] | None
    status: VersionStatus
    created_at: str
    lineage: JsonDict | None = None
    code: JsonDict | None = None
    removed_at: str | None = None

    @property
    def parent(self) -> str | None:
        """The version that it was continued or trained anew from, as ``support@2``; None straight from a base."""
        return (self.lineage or {}).get("parent")

    @property
    def reference(self) -> str:
        """How it is named: ``support@3``."""
        return f"{self.name}@{self.number}"

    @property
    def adapter(self) -> Path:
        """The folder of its adapter, in PEFT's format."""
        return self.run_folder / "adapter"


def register_version(
    home: Path,
    *,
    name: str,
    run: RunFolder,
    base_name: str,
    base_hash: str,
    template_hash: str,
    data_manifest: Mapping[str, Any],
    evaluation: Mapping[str, Any] | None = None,
    proof: Sequence[Mapping[str, Any]] | None = None,
    status: VersionStatus = "unproven",
    lineage: Mapping[str, Any] | None = None,
    code: Mapping[str, Any] | None = None,
) -> Version:
    """Register a run's adapter as the next version of a name; safe while other processes do the same.

    A run that registers the same adapter again, because it was killed before it could say that it was done, gets the
    version that it already has.

    Args:
        home: the home folder.
        name: the version's name.
        run: the run; one in a folder of the user's own is listed in the registry from now on.
        base_name: the base as the user named it.
        base_hash: SHA-256 over the base's config and weights.
        template_hash: hash of the chat template and how it is used.
        data_manifest: the data, as JSON values.
        evaluation: the comparison, as JSON values.
        proof: the invariants, as JSON values.
        status: ``proven`` where every invariant holds.
        lineage: its parent and what was done to it, as JSON values.
        code: the code that made it, as :func:`hone.registry.describe_code` gives it.

    Raises:
        ConfigError: ``name`` breaks the rule for names.
        StorageError: the run has no adapter, or the registry cannot be written.
    """
    check_name(name)
    adapter_files = _hash_adapter(run.adapter)
    values = {
        "name": name,
        "run_id": run.id,
        "base_name": base_name,
        "base_hash": base_hash,
        "adapter_sha256": _combined_hash(adapter_files),
        "adapter_files": adapter_files,
        "template_hash": template_hash,
        "data_manifest": dict(data_manifest),
        "evaluation": None if evaluation is None else dict(evaluation),
        "proof": None if proof is None else [dict(invariant) for invariant in proof],
        "status": status,
        "created_at": timestamp(),
        "lineage": None if lineage is None else dict(lineage),
        "code": None if code is None else dict(code),
    }
    with open_store(home).write() as connection:
        connection.execute(insert_or(runs).values(run_row(run, home)).on_conflict_do_nothing())
        return _version(home, _insert_once(connection, values))


def resolve_version(home: Path, reference: str | Path) -> Version:
    """The version that a reference names.

    Args:
        home: the home folder.
        reference: ``support`` (the newest), ``support@3``, ``support@production`` (an alias), or the folder of a run.

    Raises:
        VersionError: there is none; the message lists what there is, nearest first.
        StorageError: the registry cannot be read.
    """
    text = str(reference)
    name, _, selector = text.partition("@")
    with open_store(home).read() as connection:
        numbers = _numbers(connection, name)
        _refuse_base(connection, text, name, selector)
        if not numbers:
            row = _of_run_folder(connection, Path(text)) if text and Path(text).is_dir() else None
            if row is None:
                raise no_such_name(connection, text, name)
            return _version(home, row)
        if not selector and "@" not in text:
            number: int | None = max(numbers)
        elif selector.isdigit():
            number = next((known for known in numbers if str(known) == selector), None)
        else:
            where = (aliases.c.name == name, aliases.c.alias == selector)
            number = connection.execute(select(aliases.c.number).where(*where)).scalar()
        if number is None:
            raise no_such_selector(connection, text, name, numbers)
        return _version(home, connection.execute(_select_number(name, number)).one())


def list_versions(home: Path, name: str | None = None, *, removed: bool = False) -> list[Version]:
    """All versions, or those of one name, ordered by name and number.

    Args:
        home: the home folder.
        name: of the versions; None for all.
        removed: give those too that were removed, which have no files any more.

    Raises:
        StorageError: the registry cannot be read.
    """
    query = _select_versions().order_by(versions.c.name, versions.c.number)
    if name is not None:
        query = query.where(versions.c.name == name)
    if not removed:
        query = query.where(versions.c.removed_at.is_(None))
    with open_store(home).read() as connection:
        return [_version(home, row) for row in connection.execute(query)]


def verify_version(version: Version) -> None:
    """Hash the adapter's files again and compare with what was registered.

    Raises:
        StorageError: a file is missing or differs; every such file is named.
    """
    problems = []
    for file_name, registered in version.adapter_files.items():
        path = version.adapter / file_name
        if not path.is_file():
            problems.append(f"{path}: missing")
        elif sha256_file(path) != registered:
            problems.append(f"{path}: differs from what was registered")
    if problems:
        raise StorageError(
            f"the adapter of {version.reference} is damaged",
            why="a changed adapter gives other answers than the ones that were evaluated",
            remedy=f"restore {version.adapter} from a backup, or train again with {version.run_folder / 'config.yaml'}",
            details=problems,
        )


def _insert_once(connection: Connection, values: Mapping[str, Any]) -> Row[Any]:
    """The row of this run's adapter under this name; inserted with the next number where there is none."""
    same = [versions.c[key] == values[key] for key in ("name", "run_id", "adapter_sha256")]
    row = connection.execute(_select_versions().where(*same, versions.c.removed_at.is_(None))).first()
    if row is not None:
        return row
    of_this_name = versions.c.name == values["name"]
    number = (connection.execute(select(func.max(versions.c.number)).where(of_this_name)).scalar() or 0) + 1
    connection.execute(insert(versions).values(number=number, **values))
    return connection.execute(_select_number(values["name"], number)).one()


def _hash_adapter(folder: Path) -> dict[str, str]:
    # a model card is for people, who may edit it; nothing is computed from it
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != MODEL_CARD)
    if not files:
        raise StorageError("the run has no adapter to register", where=str(folder))
    return {path.relative_to(folder).as_posix(): sha256_file(path) for path in files}


def _combined_hash(adapter_files: Mapping[str, str]) -> str:
    digest = hashlib.sha256()
    for file_name, file_hash in sorted(adapter_files.items()):
        digest.update(f"{file_hash}  {file_name}\n".encode())
    return digest.hexdigest()


def _select_versions() -> Select[Any]:
    return select(versions, runs.c.folder).join(runs)


def _select_number(name: str, number: int) -> Select[Any]:
    return _select_versions().where(versions.c.name == name, versions.c.number == number)


def _numbers(connection: Connection, name: str) -> Sequence[int]:
    if not name.isascii():
        return ()  # no name is; and an argument that is no UTF-8 could not be sent to the database
    there = (versions.c.name == name, versions.c.removed_at.is_(None))
    return connection.execute(select(versions.c.number).where(*there)).scalars().all()


def _refuse_base(connection: Connection, text: str, name: str, selector: str) -> None:
    """Say what is the case with an alias on the base, and with a number whose version was removed."""
    if not text.isascii():
        return
    if selector.isdigit():
        of_number = (versions.c.name == name, versions.c.number == int(selector[:18]))
        removed_at = connection.execute(select(versions.c.removed_at).where(*of_number)).scalar()
        if removed_at is not None:
            raise VersionError(
                f"{text} was removed on {removed_at[:10]}",
                remedy=f"hone models list; or hone models show {name} --tree",
            )
        return
    where = (aliases.c.name == name, aliases.c.alias == selector, aliases.c.number.is_(None))
    base = connection.execute(select(aliases.c.base_name).where(*where)).scalar()
    if base is not None:
        raise VersionError(
            f"{text} stands on the base {base}, which is no version",
            remedy=f"name the base, or promote a version: hone models promote {name}@N {selector}",
        )


def _version(home: Path, row: Row[Any]) -> Version:
    values = dict(row._mapping)
    # An absolute folder, which lies outside of the home, replaces the left side of the join.
    return Version(run_folder=home.absolute() / values.pop("folder"), **values)


def _of_run_folder(connection: Connection, folder: Path) -> Row[Any] | None:
    run = RunFolder.open(folder)
    query = _select_versions().where(versions.c.run_id == run.id).order_by(versions.c.created_at.desc())
    row = connection.execute(query.where(versions.c.removed_at.is_(None))).first()
    if row is None:
        raise VersionError(
            f"the run {run.id} is not registered as a version (it is {run.status})",
            where=str(folder),
            remedy="`hone run` registers what it trains",
        )
    return row


def no_such_name(connection: Connection, reference: str, name: str) -> VersionError:
    """The error for a name that no version has; it lists those there are, nearest first."""
    there = select(versions.c.name).where(versions.c.removed_at.is_(None)).distinct().order_by(versions.c.name)
    known = connection.execute(there).scalars().all()
    nearest = difflib.get_close_matches(name, known, n=5)
    shown = nearest or known[:5]
    return VersionError(
        f"there is no version {reference!r}" + (f"; there is: {', '.join(shown)}" if shown else " (none exists yet)"),
        remedy="hone models list" if known else "make one: hone run DATA",
    )


def no_such_selector(connection: Connection, reference: str, name: str, numbers: Sequence[int]) -> VersionError:
    """The error for a number or alias that a name has not; it lists those it has."""
    known = connection.execute(select(aliases.c.alias).where(aliases.c.name == name)).scalars().all()
    selector = reference.partition("@")[2]
    nearest = difflib.get_close_matches(selector, known, n=5) or sorted(known)[:5]
    newest = [str(number) for number in sorted(numbers, reverse=True)[:5]]
    shown = [f"{name}@{choice}" for choice in (*nearest, *newest)]
    return VersionError(f"there is no version {reference!r}; there is: {', '.join(shown)}", remedy="hone models list")
