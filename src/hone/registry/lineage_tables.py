"""What lineage, removal and aliases on the base need in the tables; ``migrations.py`` has its place in the order."""

from __future__ import annotations

from sqlalchemy import Connection

__all__ = ["m005_lineage"]

# Aliases can stand on the base, which has no number: SQLite drops a NOT NULL only by making the table again.
_STATEMENTS = (
    "ALTER TABLE versions ADD COLUMN lineage JSON",
    "ALTER TABLE versions ADD COLUMN code JSON",
    "ALTER TABLE versions ADD COLUMN removed_at TEXT",
    """
    CREATE TABLE moved_aliases (
        name TEXT NOT NULL,
        alias TEXT NOT NULL,
        number INTEGER,
        base_name TEXT,
        base_hash TEXT,
        changed_at TEXT NOT NULL,
        PRIMARY KEY (name, alias),
        FOREIGN KEY (name, number) REFERENCES versions (name, number),
        CHECK ((number IS NULL) = (base_name IS NOT NULL))
    )
    """,
    "INSERT INTO moved_aliases SELECT name, alias, number, NULL, NULL, changed_at FROM aliases",
    "DROP TABLE aliases",
    "ALTER TABLE moved_aliases RENAME TO aliases",
    """
    CREATE TABLE moved_history (
        id INTEGER NOT NULL PRIMARY KEY,
        name TEXT NOT NULL,
        alias TEXT NOT NULL,
        number INTEGER,
        base_name TEXT,
        base_hash TEXT,
        changed_at TEXT NOT NULL,
        action TEXT NOT NULL CHECK (action IN ('promote', 'revert')),
        forced INTEGER NOT NULL CHECK (forced IN (0, 1)),
        reason TEXT,
        gate JSON,
        FOREIGN KEY (name, number) REFERENCES versions (name, number),
        CHECK ((number IS NULL) = (base_name IS NOT NULL))
    )
    """,
    """
    INSERT INTO moved_history
    SELECT id, name, alias, number, NULL, NULL, changed_at, 'promote', 0, NULL, NULL FROM alias_history
    """,
    "DROP TABLE alias_history",
    "ALTER TABLE moved_history RENAME TO alias_history",
)


def m005_lineage(connection: Connection) -> None:
    """Where a version comes from and which code made it; removed versions; aliases on the base; why an alias moved."""
    for statement in _STATEMENTS:
        connection.exec_driver_sql(statement)
