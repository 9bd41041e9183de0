"""Votes on a session's answers: what a rater is shown next, and what was said; safe with raters in many processes.

Each rater goes through all prompts that have two different answers, in an order of his own that follows from the
session's seed and his name; so does the order of the answers to a prompt. The same order comes back whenever he goes
on, and it is kept with the vote. A vote from elsewhere keeps the order and the time of there.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Row, insert, select, update
from sqlalchemy.exc import IntegrityError

from hone.errors import ConfigError
from hone.registry.rankings import RankingCandidate, RankingItem, RankingSession, items_of, session_row
from hone.registry.store import open_store, ranking_votes, timestamp
from hone.registry.uploads import new_id

__all__ = [
    "LONGEST_RATER",
    "Ranked",
    "ShownItem",
    "Vote",
    "cast_vote",
    "check_rater",
    "dense_ranks",
    "keep_vote",
    "list_votes",
    "next_item",
    "ranked_session",
    "shown_order",
    "undo_vote",
]

LONGEST_RATER = 100
_UNKNOWN_TIME = ""  # as the table holds it, whose column takes no null


@dataclass(frozen=True, slots=True)
class Vote:
    """What a rater said about one prompt's answers.

    Args:
        sequence: its place in the order of votes.
        id: as ``vote-...``.
        session_id: of the session.
        item_id: of the prompt.
        rater: who.
        shown: ids of the answers in the order in which they were shown.
        ranks: of each of those, 1 the best, equal ones alike; None where the prompt was skipped.
        seconds: from showing to the vote; None where nobody measured it.
        voted_at: UTC time; None of a vote from elsewhere whose time is not known.
        utc_offset_minutes: of the rater's clock; None where it is not known.
        undone_at: UTC time at which it was taken back; None while it stands.
    """

    sequence: int
    id: str
    session_id: str
    item_id: str
    rater: str
    shown: list[str]
    ranks: list[int] | None
    seconds: float | None
    voted_at: str | None
    utc_offset_minutes: int | None
    undone_at: str | None

    def rank_of(self) -> dict[str, int]:
        """The rank of each answer by its id; empty where the prompt was skipped."""
        return {} if self.ranks is None else dict(zip(self.shown, self.ranks, strict=True))


@dataclass(frozen=True, slots=True)
class ShownItem:
    """What a rater is to compare next, or that nothing is left.

    Args:
        item: the prompt; None where all is done.
        answers: in the order to show.
        done: prompts that the rater has judged or skipped.
        total: prompts of the session that have two different answers.
    """

    item: RankingItem | None
    answers: tuple[RankingCandidate, ...]
    done: int
    total: int


@dataclass(frozen=True, slots=True)
class Ranked:
    """A session with all that belongs to it, read at one moment.

    Args:
        session: itself.
        items: its prompts and answers.
        votes: that stand, in the order in which they were kept; skipped prompts too.
    """

    session: RankingSession
    items: list[RankingItem]
    votes: list[Vote]


def check_rater(name: str) -> str:
    """The name itself, where it may be a rater's.

    Raises:
        ConfigError: it is empty, longer than 100 characters, or holds a control character.
    """
    plain = name.strip()
    if not plain or len(plain) > LONGEST_RATER or not plain.isprintable():
        raise ConfigError(
            f"{name!r} cannot be a rater's name: it is 1 to {LONGEST_RATER} characters, all of them visible",
            where="rater",
            remedy="for example: anna",
        )
    return plain


def dense_ranks(ranks: Sequence[int], count: int) -> list[int]:
    """The same order with ranks 1, 2, ... and no gaps.

    Args:
        ranks: one for each answer in the order shown, the lower the better.
        count: answers that were shown.

    Raises:
        ConfigError: there is not one rank for each answer.
    """
    if len(ranks) != count:
        raise ConfigError(f"{len(ranks)} ranks for {count} answers", where="ranks", remedy="give one for each answer")
    places = {rank: place for place, rank in enumerate(sorted(set(ranks)), start=1)}
    return [places[rank] for rank in ranks]


def shown_order(session: RankingSession, item: RankingItem, rater: str) -> tuple[RankingCandidate, ...]:
    """The answers in the order in which this rater sees them: random, and always the same."""
    answers = sorted(item.candidates, key=lambda one: one.id)
    random.Random(f"{session.seed}/{session.id}/{item.id}/{rater}").shuffle(answers)
    return tuple(answers)


def next_item(home: Path, session_id: str, rater: str) -> ShownItem:
    """What this rater has not judged yet, the next in his order.

    Raises:
        VersionError: there is no such session.
        ConfigError: the name cannot be a rater's.
        StorageError: the registry cannot be read.
    """
    with open_store(home).read() as connection:
        return _next(connection, session_row(connection, session_id), check_rater(rater))


def cast_vote(
    home: Path,
    session_id: str,
    item_id: str,
    rater: str,
    ranks: Sequence[int] | None,
    *,
    seconds: float | None = None,
    utc_offset_minutes: int | None = None,
) -> Vote:
    """Keep what a rater said about one prompt; each rater has one vote that stands on it.

    Args:
        home: the home folder.
        session_id: of the session.
        item_id: of the prompt.
        rater: who.
        ranks: one for each answer in the order in which :func:`shown_order` shows them, the lower the better; None
            skips the prompt.
        seconds: from showing to the vote.
        utc_offset_minutes: of the rater's clock.

    Raises:
        VersionError: there is no such session.
        ConfigError: there is no such prompt in it, the ranks are not one for each answer, or the rater has voted on it.
        StorageError: the registry cannot be written.
    """
    rater = check_rater(rater)
    with open_store(home).write() as connection:
        session = session_row(connection, session_id)
        shown = [one.id for one in shown_order(session, _item(connection, session_id, item_id), rater)]
        return _insert(
            connection, session_id=session_id, item_id=item_id, rater=rater, shown=shown, ranks=ranks,
            seconds=seconds, voted_at=timestamp(), utc_offset_minutes=utc_offset_minutes,
        )  # fmt: skip


def keep_vote(
    home: Path,
    session_id: str,
    item_id: str,
    rater: str,
    ranks: Sequence[int] | None,
    *,
    shown: Sequence[str],
    seconds: float | None,
    voted_at: str | None,
) -> Vote:
    """Keep what a rater said in another tool, with the order and the time of there; one vote of each rater stands.

    Args:
        home: the home folder.
        session_id: of the session.
        item_id: of the prompt.
        rater: who.
        ranks: one for each of ``shown``, the lower the better; None where the prompt was skipped.
        shown: ids of the prompt's answers in the order in which the rater saw them.
        seconds: it took; None where it is not known.
        voted_at: UTC time as the registry writes it; None where it is not known.

    Raises:
        VersionError: there is no such session.
        ConfigError: as :func:`cast_vote`; or ``shown`` is not each of the prompt's answers once.
        StorageError: the registry cannot be written.
    """
    rater = check_rater(rater)
    with open_store(home).write() as connection:
        session_row(connection, session_id)
        item = _item(connection, session_id, item_id)
        if sorted(shown) != sorted(one.id for one in item.candidates):
            remedy = f"give the ids of its {len(item.candidates)} answers"
            raise ConfigError(f"the order shown is not each answer of {item_id} once", where="shown", remedy=remedy)
        return _insert(
            connection, session_id=session_id, item_id=item_id, rater=rater, shown=list(shown), ranks=ranks,
            seconds=seconds, voted_at=voted_at or _UNKNOWN_TIME, utc_offset_minutes=None,
        )  # fmt: skip


def undo_vote(home: Path, session_id: str, rater: str) -> Vote | None:
    """Take back this rater's last vote; its prompt is the next again.

    Returns:
        The vote, which stays in the registry with the time; None where there is none to take back.

    Raises:
        VersionError: there is no such session.
        StorageError: the registry cannot be written.
    """
    rater = check_rater(rater)
    standing = (
        ranking_votes.c.session_id == session_id,
        ranking_votes.c.rater == rater,
        ranking_votes.c.undone_at.is_(None),
    )
    with open_store(home).write() as connection:
        session_row(connection, session_id)
        last = select(ranking_votes).where(*standing).order_by(ranking_votes.c.sequence.desc()).limit(1)
        row = connection.execute(last).first()
        if row is None:
            return None
        change = update(ranking_votes).where(ranking_votes.c.id == row.id).values(undone_at=timestamp())
        connection.execute(change)
        undone = connection.execute(select(ranking_votes).where(ranking_votes.c.id == row.id)).one()
    return _vote(undone)


def list_votes(home: Path, session_id: str, *, undone: bool = False) -> list[Vote]:
    """The votes of a session, in the order in which they were kept.

    Args:
        home: the home folder.
        session_id: of the session.
        undone: those too that were taken back.

    Raises:
        VersionError: there is no such session.
        StorageError: the registry cannot be read.
    """
    with open_store(home).read() as connection:
        session_row(connection, session_id)
        return _votes(connection, session_id, undone=undone)


def ranked_session(home: Path, session_id: str) -> Ranked:
    """A session with its prompts, answers and standing votes, as they are at one moment.

    Raises:
        VersionError: there is no such session.
        StorageError: the registry cannot be read.
    """
    with open_store(home).read() as connection:
        session = session_row(connection, session_id)
        return Ranked(session, items_of(connection, session_id), _votes(connection, session_id, undone=False))


def _votes(connection: Connection, session_id: str, *, undone: bool) -> list[Vote]:
    query = select(ranking_votes).where(ranking_votes.c.session_id == session_id).order_by(ranking_votes.c.sequence)
    if not undone:
        query = query.where(ranking_votes.c.undone_at.is_(None))
    return [_vote(row) for row in connection.execute(query)]


def _item(connection: Connection, session_id: str, item_id: str) -> RankingItem:
    """The prompt.

    Raises:
        ConfigError: the session has none of that id.
    """
    found = items_of(connection, session_id, item_id=item_id)
    if not found:
        raise ConfigError(f"{session_id} has no prompt {item_id!r}", where="item")
    return found[0]


def _insert(
    connection: Connection, *, ranks: Sequence[int] | None, shown: list[str], seconds: float | None, **values: Any
) -> Vote:
    if seconds is not None and not (math.isfinite(seconds) and seconds >= 0):
        raise ConfigError(f"{seconds} is no time", where="seconds", remedy="give seconds from 0 up, or none")
    values |= {
        "id": new_id("vote-"),
        "shown": shown,
        "ranks": None if ranks is None else dense_ranks(ranks, len(shown)),
        "seconds": None if seconds is None else round(seconds, 3),
    }
    try:
        connection.execute(insert(ranking_votes).values(values))
    except IntegrityError as twice:
        raise ConfigError(
            f"{values['rater']} has voted on this prompt already", where="item", remedy="undo that vote first"
        ) from twice
    return _vote(connection.execute(select(ranking_votes).where(ranking_votes.c.id == values["id"])).one())


def _vote(row: Row[Any]) -> Vote:
    return Vote(**{**row._mapping, "voted_at": None if row.voted_at == _UNKNOWN_TIME else row.voted_at})


def _next(connection: Connection, session: RankingSession, rater: str) -> ShownItem:
    items = sorted((one for one in items_of(connection, session.id) if len(one.candidates) > 1), key=lambda one: one.id)
    random.Random(f"{session.seed}/{session.id}/{rater}").shuffle(items)
    judged = {vote.item_id for vote in _votes(connection, session.id, undone=False) if vote.rater == rater}
    left = [one for one in items if one.id not in judged]
    if not left:
        return ShownItem(None, (), len(items), len(items))
    return ShownItem(left[0], shown_order(session, left[0], rater), len(items) - len(left), len(items))
