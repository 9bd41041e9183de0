"""Every schema that was released is brought to the present one, with what stood in it."""

from __future__ import annotations

import hashlib
import sqlite3
from pathlib import Path

import pytest
from sqlalchemy import MetaData, create_engine

from hone.registry import (
    history_of_alias,
    list_aliases,
    list_versions,
    move_alias,
    resolve_alias,
    resolve_version,
    revert_alias,
)
from hone.registry import store as store_module
from hone.registry.migrations import MIGRATIONS
from hone.registry.store import metadata, open_store

SCHEMAS = Path(__file__).with_name("schemas")

# A released step is never edited: what it makes of the tables before it has this hash.
RELEASED = {
    "m001_runs": "a2d5497705cb4e4e91bf33ae153c2a87bd3d0048a8eb49304faa232a3875e795",
    "m002_versions": "90461e45215bd6d65dd35f1609ab55a7df445196d1ed6c6b0ee0196c391018f9",
    "m003_aliases": "ea700195692e2ff26071b0475e21d17171b48455263aa2aef83390ef1afcaa2b",
}


@pytest.mark.parametrize("count", range(1, len(MIGRATIONS)))
def test_from_every_schema_to_the_present_one(count: int, hone_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(store_module, "MIGRATIONS", MIGRATIONS[:count])
        open_store(hone_home)
    open_store(hone_home)
    migrated = MetaData()
    migrated.reflect(create_engine(f"sqlite:///{hone_home / 'hone.db'}"))
    assert migrated.tables.keys() - {"migrations"} == metadata.tables.keys()
    for name, table in metadata.tables.items():
        assert set(migrated.tables[name].columns.keys()) == set(table.columns.keys())


def test_a_database_of_the_first_release_keeps_all_that_stood_in_it(hone_home: Path) -> None:
    """schemas/m003.sql is a dump of a registry as the first release wrote it, with two versions and a moved alias."""
    hone_home.mkdir(parents=True, exist_ok=True)
    with sqlite3.connect(hone_home / "hone.db") as database:
        database.executescript((SCHEMAS / "m003.sql").read_text(encoding="utf-8"))
    database.close()
    found = list_versions(hone_home)
    assert [(one.reference, one.status, one.lineage, one.removed_at) for one in found] == [
        ("support@1", "proven", None, None),
        ("support@2", "unproven", None, None),
    ]
    assert found[0].evaluation == {"metric": "chrf"}
    assert found[0].data_manifest == {"source": {"name": "Grüße.jsonl"}, "train": []}
    [alias] = list_aliases(hone_home)
    assert (alias.reference, alias.changed_at) == ("support@2", "2026-11-02T00:00:00.000000Z")
    assert [(one.generation, one.action, one.number) for one in history_of_alias(hone_home, "support", "live")] == [
        (1, "promote", 1),
        (2, "promote", 2),
    ]
    assert resolve_version(hone_home, "support@live").number == 2
    assert revert_alias(hone_home, "support", "live", to=1).reference == "support@1"
    assert revert_alias(hone_home, "support", "live", to=None).base_hash == "b" * 64
    move_alias(hone_home, "support", "live", 2)
    assert resolve_alias(hone_home, "support", "live").generation == 5


@pytest.mark.parametrize("name", list(RELEASED))
def test_a_released_step_is_what_it_was(name: str, hone_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [migration.__name__ for migration in MIGRATIONS]
    with monkeypatch.context() as patch:
        patch.setattr(store_module, "MIGRATIONS", MIGRATIONS[: names.index(name) + 1])
        with open_store(hone_home).read() as connection:
            made = connection.exec_driver_sql("SELECT sql FROM sqlite_master WHERE sql IS NOT NULL ORDER BY name").all()
    text = "\n".join(" ".join(sql.split()) for (sql,) in made)
    assert hashlib.sha256(text.encode()).hexdigest() == RELEASED[name]
