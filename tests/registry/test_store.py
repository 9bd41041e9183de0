"""The database: made and migrated on opening, refused when newer or damaged, whole after a kill."""

from __future__ import annotations

import multiprocessing
import os
import sqlite3
from pathlib import Path

import pytest
from sqlalchemy import MetaData, create_engine, inspect, text
from sqlalchemy.exc import IntegrityError

from hone.errors import StorageError
from hone.registry import store as store_module
from hone.registry.migrations import MIGRATIONS
from hone.registry.store import metadata, open_store


def columns(database: MetaData) -> dict[str, dict[str, tuple[str, bool, bool]]]:
    return {
        table.name: {
            column.name: (str(column.type), bool(column.nullable), column.primary_key) for column in table.columns
        }
        for table in database.sorted_tables
    }


def test_the_declared_tables_are_those_that_the_migrations_make(hone_home: Path) -> None:
    open_store(hone_home)
    engine = create_engine(f"sqlite:///{hone_home / 'hone.db'}")
    migrated = MetaData()
    migrated.reflect(engine)
    migrated.remove(migrated.tables["migrations"])
    assert columns(migrated) == columns(metadata)
    for name, declared in metadata.tables.items():
        found = {(key.parent.name, key.target_fullname) for key in migrated.tables[name].foreign_keys}
        assert found == {(key.parent.name, key.target_fullname) for key in declared.foreign_keys}
        assert {index["name"] for index in inspect(engine).get_indexes(name)} == {
            index.name for index in declared.indexes
        }


def test_settings_of_the_connection(hone_home: Path) -> None:
    with open_store(hone_home).read() as connection:
        pragmas = {
            name: connection.exec_driver_sql(f"PRAGMA {name}").scalar()
            for name in ("journal_mode", "foreign_keys", "busy_timeout")
        }
    assert pragmas == {"journal_mode": "wal", "foreign_keys": 1, "busy_timeout": 30_000}


def test_migrations_are_recorded_once_and_in_order(hone_home: Path) -> None:
    open_store(hone_home)
    with open_store(hone_home).read() as connection:
        applied = connection.execute(text("SELECT name FROM migrations ORDER BY rowid")).scalars().all()
    assert applied == [migration.__name__ for migration in MIGRATIONS]
    assert applied == sorted(applied)


def test_an_older_database_keeps_its_rows(hone_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(store_module, "MIGRATIONS", MIGRATIONS[:1])
        with open_store(hone_home).write() as connection:
            connection.execute(
                text("INSERT INTO runs VALUES ('r', 'run', 'n', 'runs/r', 'done', 't', NULL, NULL, NULL)")
            )
    with open_store(hone_home).read() as connection:
        assert connection.execute(text("SELECT id FROM runs")).scalars().all() == ["r"]
        assert connection.execute(text("SELECT count(*) FROM versions")).scalar() == 0


def test_a_failing_migration_leaves_no_trace(hone_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def m999_fails(connection: object) -> None:
        connection.exec_driver_sql("CREATE TABLE half (x)")
        connection.exec_driver_sql("CREATE TABLE runs (x)")

    with monkeypatch.context() as patch:
        patch.setattr(store_module, "MIGRATIONS", (*MIGRATIONS, m999_fails))
        with pytest.raises(StorageError, match="already exists"):
            open_store(hone_home)
    with open_store(hone_home).read() as connection:
        tables = connection.execute(text("SELECT name FROM sqlite_master")).scalars().all()
    assert "half" not in tables
    assert "versions" in tables


def test_a_newer_database_is_refused(hone_home: Path) -> None:
    with open_store(hone_home).write() as connection:
        connection.execute(text("INSERT INTO migrations VALUES ('m999_future', 't')"))
    with pytest.raises(StorageError, match="newer hone") as caught:
        open_store(hone_home)
    assert "m999_future" in caught.value.what
    assert "upgrade" in str(caught.value.remedy)


def test_a_damaged_database_is_named(hone_home: Path) -> None:
    (hone_home / "hone.db").write_bytes(b"not a database at all" * 1000)
    with pytest.raises(StorageError, match=r"hone\.db.*damaged"):
        open_store(hone_home)


def test_damage_within_is_named_when_it_is_met(hone_home: Path) -> None:
    open_store(hone_home)
    path = hone_home / "hone.db"
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        page = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = 'runs'").fetchone()[0]
    connection.close()
    content = bytearray(path.read_bytes())
    content[(page - 1) * 4096 : (page - 1) * 4096 + 100] = b"\xff" * 100
    path.write_bytes(content)
    with pytest.raises(StorageError, match=r"hone\.db.*damaged"), open_store(hone_home).read() as connection:
        connection.execute(text("SELECT * FROM runs")).all()


def test_a_home_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="home folder cannot be made"):
        open_store(tmp_path / "file" / "home")


def test_a_home_with_odd_characters(tmp_path: Path) -> None:
    home = tmp_path / "ho?me #1 %20 ü"
    open_store(home)
    assert (home / "hone.db").exists()


def test_foreign_keys_hold_and_the_transaction_is_undone(hone_home: Path) -> None:
    store = open_store(hone_home)

    def insert_one_good_and_one_bad_row() -> None:
        with store.write() as connection:
            connection.execute(text("INSERT INTO runs VALUES ('r', 'run', 'n', 'f', 'done', 't', NULL, NULL, NULL)"))
            connection.execute(
                text("INSERT INTO aliases (name, alias, number, changed_at) VALUES ('n', 'production', 1, 't')")
            )

    with pytest.raises(IntegrityError):
        insert_one_good_and_one_bad_row()
    with store.read() as connection:
        assert connection.execute(text("SELECT count(*) FROM runs")).scalar() == 0


def test_a_writer_holds_the_lock_from_its_start(hone_home: Path) -> None:
    store = open_store(hone_home)
    other = sqlite3.connect(hone_home / "hone.db", timeout=0, isolation_level=None)
    with store.read():
        other.execute("BEGIN IMMEDIATE")
        other.execute("ROLLBACK")
    with store.write(), pytest.raises(sqlite3.OperationalError, match="locked"):
        other.execute("BEGIN IMMEDIATE")
    other.close()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills a forked process")
def test_a_killed_writer_leaves_nothing_and_frees_the_lock(hone_home: Path) -> None:
    store = open_store(hone_home)

    def work() -> None:
        with store.write() as connection:
            connection.execute(text("INSERT INTO runs VALUES ('r', 'run', 'n', 'f', 'done', 't', NULL, NULL, NULL)"))
            os._exit(9)

    process = multiprocessing.get_context("fork").Process(target=work)
    process.start()
    process.join()
    assert process.exitcode == 9
    with store.write() as connection:
        assert connection.execute(text("SELECT count(*) FROM runs")).scalar() == 0
