"""Sessions of rankings: prompts with the answers that people compare, stored whole before the first is shown.

    session = create_session(home, "support@3", contenders, new_items, spec=spec)     once; the same spec finds it again
    shown = next_item(home, session.id, rater)                                        in ``votes.py``, blind

Everything that may betray who wrote an answer stays in its ``origins``; its ``id`` is drawn at random.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, insert, select

from hone.errors import DataError, VersionError
from hone.registry.store import open_store, ranking_candidates, ranking_items, ranking_sessions, timestamp
from hone.registry.uploads import new_id
from hone.types import JsonDict

__all__ = [
    "NewAnswer",
    "NewItem",
    "RankingCandidate",
    "RankingItem",
    "RankingSession",
    "create_session",
    "find_session",
    "find_session_of",
    "items_of",
    "list_sessions",
    "session_row",
    "spec_hash",
]


@dataclass(frozen=True, slots=True)
class RankingSession:
    """Prompts and answers that people compare.

    Args:
        sequence: its place in the order in which sessions were made.
        id: as ``rank-...``.
        version: whose answers are in question, as ``support@3``.
        contenders: who wrote the answers, the version first.
        seed: of the orders in which prompts and answers are shown.
        spec: what was asked for.
        spec_sha256: its hash; the same request goes on with the same session.
        created_at: UTC time.
    """

    sequence: int
    id: str
    version: str
    contenders: list[str]
    seed: int
    spec: JsonDict
    spec_sha256: str
    created_at: str


@dataclass(frozen=True, slots=True)
class RankingCandidate:
    """One answer.

    Args:
        id: drawn at random: it says nothing about who wrote it.
        text: of the answer, without white space around it.
        origins: everybody who wrote it, word for word: {"contender", ...}.
    """

    id: str
    text: str
    origins: tuple[JsonDict, ...]

    @property
    def contenders(self) -> tuple[str, ...]:
        """Who wrote it, each once."""
        return tuple(dict.fromkeys(str(one["contender"]) for one in self.origins))


@dataclass(frozen=True, slots=True)
class RankingItem:
    """A prompt with its different answers.

    Args:
        id: drawn at random.
        prompt: turns in OpenAI's form.
        candidates: in the order in which they were stored, which says who wrote them: never show them so.
    """

    id: str
    prompt: list[JsonDict]
    candidates: tuple[RankingCandidate, ...]


@dataclass(frozen=True, slots=True)
class NewAnswer:
    """An answer to be stored: its text, who wrote it, and what else is known of how.

    Args:
        text: white space around it is taken off.
        contender: who wrote it.
        details: JSON values, as temperature and seed.
    """

    text: str
    contender: str
    details: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class NewItem:
    """A prompt to be stored with its answers; equal ones become one candidate of several origins."""

    prompt: Sequence[JsonDict]
    answers: Sequence[NewAnswer]


def spec_hash(spec: Mapping[str, Any]) -> str:
    """The hash by which a request finds its session again."""
    return hashlib.sha256(json.dumps(spec, ensure_ascii=False, sort_keys=True).encode()).hexdigest()


def create_session(
    home: Path, version: str, contenders: Sequence[str], items: Sequence[NewItem], *, spec: Mapping[str, Any], seed: int
) -> RankingSession:
    """Store prompts and answers, whole or not at all; the same spec gives the session that it has made before.

    Args:
        home: the home folder.
        version: whose answers are in question.
        contenders: who wrote the answers, the version first.
        items: prompts with their answers.
        spec: what was asked for, as JSON values.
        seed: of the orders in which prompts and answers are shown.

    Raises:
        DataError: there is no item, or one without an answer.
        StorageError: the registry cannot be written.
    """
    if not items or not all(item.answers for item in items):
        raise DataError("there is nothing to compare: no prompt has answers", where="rankings")
    digest = spec_hash(spec)
    with open_store(home).write() as connection:
        known = connection.execute(select(ranking_sessions).where(ranking_sessions.c.spec_sha256 == digest)).first()
        if known is not None:
            return RankingSession(**known._mapping)
        session_id = new_id("rank-")
        values = {
            "id": session_id,
            "version": version,
            "contenders": list(contenders),
            "seed": seed,
            "spec": dict(spec),
            "spec_sha256": digest,
            "created_at": timestamp(),
        }
        connection.execute(insert(ranking_sessions).values(values))
        for item in items:
            _insert_item(connection, session_id, item)
        return session_row(connection, session_id)


def find_session(home: Path, session_id: str) -> RankingSession:
    """The session of that id.

    Raises:
        VersionError: there is none.
        StorageError: the registry cannot be read.
    """
    with open_store(home).read() as connection:
        return session_row(connection, session_id)


def find_session_of(home: Path, spec: Mapping[str, Any]) -> RankingSession | None:
    """The session that this request has made before, or None.

    Raises:
        StorageError: the registry cannot be read.
    """
    query = select(ranking_sessions).where(ranking_sessions.c.spec_sha256 == spec_hash(spec))
    with open_store(home).read() as connection:
        row = connection.execute(query).first()
    return RankingSession(**row._mapping) if row else None


def list_sessions(home: Path, *, version: str | None = None) -> list[RankingSession]:
    """All sessions, or those of a version, oldest first.

    Raises:
        StorageError: the registry cannot be read.
    """
    query = select(ranking_sessions).order_by(ranking_sessions.c.sequence)
    if version is not None:
        query = query.where(ranking_sessions.c.version == version)
    with open_store(home).read() as connection:
        return [RankingSession(**row._mapping) for row in connection.execute(query)]


def items_of(connection: Connection, session_id: str, *, item_id: str | None = None) -> list[RankingItem]:
    """The prompts of a session with their answers, in the order in which they were stored.

    Args:
        connection: the transaction.
        session_id: of the session.
        item_id: of the one prompt that is wanted; None for all.
    """
    wanted = [ranking_items.c.session_id == session_id]
    if item_id is not None:
        wanted.append(ranking_items.c.id == item_id)
    of_item: dict[str, list[RankingCandidate]] = {}
    prompts: dict[str, list[JsonDict]] = {}
    for row in connection.execute(select(ranking_items).where(*wanted).order_by(ranking_items.c.sequence)):
        prompts[row.id] = row.prompt
        of_item[row.id] = []
    candidates = (
        select(ranking_candidates)
        .join(ranking_items, ranking_items.c.id == ranking_candidates.c.item_id)
        .where(*wanted)
        .order_by(ranking_candidates.c.sequence)
    )
    for row in connection.execute(candidates):
        of_item[row.item_id].append(RankingCandidate(row.id, row.text, tuple(row.origins)))
    return [RankingItem(item, prompt, tuple(of_item[item])) for item, prompt in prompts.items()]


def session_row(connection: Connection, session_id: str) -> RankingSession:
    """The session, inside a transaction.

    Raises:
        VersionError: there is none of that id.
    """
    row = connection.execute(select(ranking_sessions).where(ranking_sessions.c.id == session_id)).first()
    if row is None:
        raise VersionError(
            f"there are no rankings {session_id!r}", remedy="`hone rankings list` shows those that there are"
        )
    return RankingSession(**row._mapping)


def _insert_item(connection: Connection, session_id: str, item: NewItem) -> None:
    item_id = new_id("item-")
    values = {"id": item_id, "session_id": session_id, "prompt": [dict(turn) for turn in item.prompt]}
    connection.execute(insert(ranking_items).values(values))
    by_text: dict[str, list[JsonDict]] = {}
    for answer in item.answers:
        by_text.setdefault(answer.text.strip(), []).append({"contender": answer.contender, **answer.details})
    for text, origins in by_text.items():
        candidate = {"id": new_id("answer-"), "item_id": item_id, "text": text, "origins": origins}
        connection.execute(insert(ranking_candidates).values(candidate))
