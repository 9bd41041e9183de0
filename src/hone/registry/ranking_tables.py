"""The tables of rankings: sessions, their prompts, the answers to each, and what raters said.

A session and its answers are written once, in one transaction, and never change; votes are added, and an undone vote
stays with the time at which it was taken back. Times are UTC text, as the rest of the registry writes them.
"""

from __future__ import annotations

from sqlalchemy import JSON, REAL, Column, Connection, ForeignKey, Index, Integer, MetaData, Table, Text, text

__all__ = ["declare_ranking_tables", "m006_rankings"]

_STANDS = "undone_at IS NULL"


def declare_ranking_tables(metadata: MetaData) -> tuple[Table, Table, Table, Table]:
    """The tables as they are after :func:`m006_rankings`: sessions, items, candidates, votes."""
    return (
        Table(
            "ranking_sessions",
            metadata,
            Column("sequence", Integer, primary_key=True),
            Column("id", Text, nullable=False),
            Column("version", Text, nullable=False),  # whose answers are in question, as support@3
            Column("contenders", JSON, nullable=False),  # who wrote the answers, the version first
            Column("seed", Integer, nullable=False),  # of the orders in which prompts and answers are shown
            Column("spec", JSON, nullable=False),  # what was asked for
            Column("spec_sha256", Text, nullable=False),  # the same request goes on with the same session
            Column("created_at", Text, nullable=False),
            Index("ranking_sessions_id", "id", unique=True),
            Index("ranking_sessions_spec", "spec_sha256", unique=True),
        ),
        Table(
            "ranking_items",
            metadata,
            Column("sequence", Integer, primary_key=True),
            Column("id", Text, nullable=False),
            Column("session_id", Text, ForeignKey("ranking_sessions.id"), nullable=False),
            Column("prompt", JSON, nullable=False),  # turns in OpenAI's form
            Index("ranking_items_id", "id", unique=True),
            Index("ranking_items_session_id", "session_id"),
        ),
        Table(
            "ranking_candidates",
            metadata,
            Column("sequence", Integer, primary_key=True),
            Column("id", Text, nullable=False),
            Column("item_id", Text, ForeignKey("ranking_items.id"), nullable=False),
            Column("text", Text, nullable=False),
            Column("origins", JSON, nullable=False),  # everybody who wrote it: contender, temperature, seed, stopped
            Index("ranking_candidates_id", "id", unique=True),
            Index("ranking_candidates_item_id", "item_id"),
        ),
        Table(
            "ranking_votes",
            metadata,
            Column("sequence", Integer, primary_key=True),
            Column("id", Text, nullable=False),
            Column("session_id", Text, ForeignKey("ranking_sessions.id"), nullable=False),
            Column("item_id", Text, ForeignKey("ranking_items.id"), nullable=False),
            Column("rater", Text, nullable=False),
            Column("shown", JSON, nullable=False),  # ids of the answers, in the order in which they were shown
            Column("ranks", JSON(none_as_null=True)),  # of each of those, 1 the best; None where it was skipped
            Column("seconds", REAL),
            Column("voted_at", Text, nullable=False),
            Column("utc_offset_minutes", Integer),  # of the rater's clock, for the time of day
            Column("undone_at", Text),
            Index("ranking_votes_id", "id", unique=True),
            Index("ranking_votes_session_id", "session_id"),
            Index("ranking_votes_standing", "item_id", "rater", unique=True, sqlite_where=text(_STANDS)),
        ),
    )


def m006_rankings(connection: Connection) -> None:
    """Sessions of rankings, their prompts and answers, and votes."""
    for statement in _STATEMENTS:
        connection.exec_driver_sql(statement)


_STATEMENTS = (
    """
    CREATE TABLE ranking_sessions (
        sequence INTEGER NOT NULL PRIMARY KEY,
        id TEXT NOT NULL,
        version TEXT NOT NULL,
        contenders JSON NOT NULL,
        seed INTEGER NOT NULL,
        spec JSON NOT NULL,
        spec_sha256 TEXT NOT NULL,
        created_at TEXT NOT NULL
    )
    """,
    "CREATE UNIQUE INDEX ranking_sessions_id ON ranking_sessions (id)",
    "CREATE UNIQUE INDEX ranking_sessions_spec ON ranking_sessions (spec_sha256)",
    """
    CREATE TABLE ranking_items (
        sequence INTEGER NOT NULL PRIMARY KEY,
        id TEXT NOT NULL,
        session_id TEXT NOT NULL REFERENCES ranking_sessions (id),
        prompt JSON NOT NULL
    )
    """,
    "CREATE UNIQUE INDEX ranking_items_id ON ranking_items (id)",
    "CREATE INDEX ranking_items_session_id ON ranking_items (session_id)",
    """
    CREATE TABLE ranking_candidates (
        sequence INTEGER NOT NULL PRIMARY KEY,
        id TEXT NOT NULL,
        item_id TEXT NOT NULL REFERENCES ranking_items (id),
        text TEXT NOT NULL,
        origins JSON NOT NULL
    )
    """,
    "CREATE UNIQUE INDEX ranking_candidates_id ON ranking_candidates (id)",
    "CREATE INDEX ranking_candidates_item_id ON ranking_candidates (item_id)",
    """
    CREATE TABLE ranking_votes (
        sequence INTEGER NOT NULL PRIMARY KEY,
        id TEXT NOT NULL,
        session_id TEXT NOT NULL REFERENCES ranking_sessions (id),
        item_id TEXT NOT NULL REFERENCES ranking_items (id),
        rater TEXT NOT NULL,
        shown JSON NOT NULL,
        ranks JSON,
        seconds REAL,
        voted_at TEXT NOT NULL,
        utc_offset_minutes INTEGER,
        undone_at TEXT
    )
    """,
    "CREATE UNIQUE INDEX ranking_votes_id ON ranking_votes (id)",
    "CREATE INDEX ranking_votes_session_id ON ranking_votes (session_id)",
    f"CREATE UNIQUE INDEX ranking_votes_standing ON ranking_votes (item_id, rater) WHERE {_STANDS}",
)
