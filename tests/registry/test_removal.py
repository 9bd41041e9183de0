"""What goes and what stays: a version on request, and what nothing refers to."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hone.errors import StorageError, VersionError
from hone.files import exclusive_lock
from hone.registry import (
    RunFolder,
    collect_garbage,
    create_run,
    family_of,
    list_versions,
    remove_version,
    resolve_version,
    set_alias,
)
from hone.registry.runs import run_row
from hone.registry.store import open_store, runs
from tests.registry.test_versions import add_adapter, register, trained_run


def kinds(home: Path) -> list[str]:
    return [one.kind for one in collect_garbage(home, dry_run=True, least_age_seconds=-1)]


def test_a_removed_version_keeps_its_number_and_its_place(hone_home: Path) -> None:
    first, second = (register(hone_home, trained_run(hone_home, weights=one)) for one in (b"1", b"2"))
    gone = remove_version(hone_home, second)
    assert gone is not None
    assert gone.size_bytes >= 3
    assert not second.run_folder.exists()
    assert first.run_folder.exists()
    assert [one.reference for one in list_versions(hone_home)] == ["support@1"]
    with pytest.raises(VersionError, match=r"support@2 was removed on \d{4}"):
        resolve_version(hone_home, "support@2")
    with pytest.raises(VersionError, match="is removed already"):
        remove_version(hone_home, second)
    assert resolve_version(hone_home, "support").number == 1
    third = register(hone_home, trained_run(hone_home, weights=b"3"))
    assert third.reference == "support@3"
    assert [node.version.removed_at is None for node in family_of(hone_home, third).roots] == [True, False, True]
    with pytest.raises(VersionError, match="there is no version 'support@2'"):
        set_alias(hone_home, "support", "production", 2)
    assert kinds(hone_home) == []


def test_files_that_another_version_is_made_of_stay(hone_home: Path) -> None:
    run = trained_run(hone_home)
    one, other = register(hone_home, run), register(hone_home, run, "other")
    assert remove_version(hone_home, one) is None
    assert other.adapter.is_dir()
    assert remove_version(hone_home, other) is not None
    assert not other.run_folder.exists()


def test_a_folder_of_the_users_own_stays(hone_home: Path, tmp_path: Path) -> None:
    run = RunFolder.at(tmp_path / "mine")
    add_adapter(run)
    assert remove_version(hone_home, register(hone_home, run)) is None
    assert (tmp_path / "mine" / "adapter").is_dir()
    assert kinds(hone_home) == []


def test_a_version_that_a_training_begins_with_stays(hone_home: Path) -> None:
    version = register(hone_home, trained_run(hone_home))
    create_run(hone_home, kind="run", name="support").start({"start_from": "support@1"})
    with pytest.raises(VersionError, match="is in use") as caught:
        remove_version(hone_home, version)
    assert "begins with it and is not finished" in caught.value.details[0]


def test_what_is_referred_to_or_may_go_on_stays(hone_home: Path) -> None:
    register(hone_home, trained_run(hone_home))
    with_adapter = create_run(hone_home, kind="train", name="alone")
    add_adapter(with_adapter)
    with_adapter.finish({})
    resumable = create_run(hone_home, kind="run", name="support")
    (resumable.checkpoints / "step-2").mkdir(parents=True)
    resumable.interrupt()
    assert collect_garbage(hone_home, least_age_seconds=-1) == []
    running = create_run(hone_home, kind="run", name="support")
    running.start({})
    with running.lock():
        assert collect_garbage(hone_home, least_age_seconds=-1) == []
    assert kinds(hone_home) == ["ended run"]
    assert collect_garbage(hone_home) == [], "it is younger than an hour"
    assert running.path.exists()


def test_a_row_that_something_else_refers_to_stays(hone_home: Path) -> None:
    run = create_run(hone_home, kind="run", name="support")
    with open_store(hone_home).write() as connection:
        connection.exec_driver_sql("CREATE TABLE others (run_id TEXT REFERENCES runs (id))")
        connection.exec_driver_sql("INSERT INTO others VALUES (?)", (run.id,))
    assert collect_garbage(hone_home, least_age_seconds=-1) == []
    assert run.path.exists()


def test_a_run_that_the_registry_has_lost_is_listed_again(hone_home: Path) -> None:
    """As an older hone left it that was killed between making the folder and the row."""
    run = trained_run(hone_home)
    run.finish({})
    with open_store(hone_home).write() as connection:
        connection.execute(runs.delete())
    assert kinds(hone_home) == ["unlisted run"]
    collect_garbage(hone_home, least_age_seconds=-1)
    with open_store(hone_home).read() as connection:
        row = connection.execute(runs.select()).one()._mapping
    assert {key: row[key] for key in run_row(run, hone_home)} == run_row(run, hone_home)
    assert kinds(hone_home) == []
    assert run.adapter.is_dir()


def test_a_run_killed_before_its_folder_is_known(hone_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Killed(BaseException):
        pass

    def dies(_run: RunFolder, _status: str) -> None:
        raise Killed

    monkeypatch.setattr(RunFolder, "_write_record", dies)
    with pytest.raises(Killed):
        create_run(hone_home, kind="run", name="support")
    assert kinds(hone_home) == ["run without a folder"]
    collect_garbage(hone_home, least_age_seconds=-1)
    with open_store(hone_home).read() as connection:
        assert connection.execute(runs.select()).all() == []


def test_composed_rows_stay_while_a_run_that_is_there_was_begun_with_them(hone_home: Path) -> None:
    folder = hone_home.absolute() / "composed" / "0123"
    folder.mkdir(parents=True)
    (folder / "rows.jsonl").write_text("{}\n")
    assert kinds(hone_home) == ["rows"]
    run = trained_run(hone_home)
    run.start({"data": str(folder / "rows.jsonl")})
    run.finish({})
    version = register(hone_home, run)
    assert kinds(hone_home) == []
    remove_version(hone_home, version)
    assert kinds(hone_home) == ["rows"]
    assert [one.path for one in collect_garbage(hone_home, least_age_seconds=-1)] == [folder]
    assert not folder.exists()


def test_a_merged_version_stays_while_a_run_that_is_there_was_begun_on_it(hone_home: Path) -> None:
    folder = hone_home.absolute() / "models" / "versions" / "orders@1-0123"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    folder.with_name("orders@1-0123.lock").write_text("")
    assert kinds(hone_home) == ["merged version"]
    run = trained_run(hone_home)
    run.start({"data": "rows.jsonl", "model": str(folder)})
    run.finish({})
    version = register(hone_home, run)
    assert kinds(hone_home) == []
    remove_version(hone_home, version)
    assert [one.path for one in collect_garbage(hone_home, least_age_seconds=-1)] == [folder]
    assert not folder.exists()


def test_temporaries_of_killed_processes_go(hone_home: Path) -> None:
    register(hone_home, trained_run(hone_home))
    left = hone_home / "runs" / ".gone.0123456789ab.tmp"
    left.mkdir()
    (left / "half").write_text("x")
    foreign = hone_home / "runs" / ".mine.tmp"
    foreign.write_text("a user's")
    collect_garbage(hone_home, least_age_seconds=-1)
    assert not left.exists()
    assert foreign.exists()


def test_one_process_takes_away_at_a_time(hone_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hone.registry.removal._WAIT_SECONDS", 0.0)
    with (
        exclusive_lock(hone_home / "upkeep.lock", what="it"),
        pytest.raises(StorageError, match="upkeep of the registry is in use"),
    ):
        collect_garbage(hone_home)


def test_damaged_runs_are_left_to_a_person(hone_home: Path) -> None:
    run = create_run(hone_home, kind="run", name="support")
    (run.path / "run.json").write_text(json.dumps({"id": 1}))
    assert kinds(hone_home) == []
