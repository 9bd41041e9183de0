"""Rankings in the registry: answers stored once, orders that come back, votes that are safe beside each other."""

from __future__ import annotations

import multiprocessing
from collections import Counter
from pathlib import Path

import pytest

from hone.errors import ConfigError, DataError, VersionError
from hone.registry.rankings import NewAnswer, NewItem, RankingSession, create_session, find_session_of, list_sessions
from hone.registry.votes import (
    cast_vote,
    check_rater,
    dense_ranks,
    list_votes,
    next_item,
    ranked_session,
    shown_order,
    undo_vote,
)

SPEC = {"prompts": "abc", "n": 2}


def new_item(place: int, *texts: str) -> NewItem:
    answers = [NewAnswer(text, name, {"seed": 0}) for name, text in zip(("support@1", "base"), texts, strict=True)]
    return NewItem([{"role": "user", "content": f"prompt {place}"}], answers)


def made(home: Path, count: int = 6, seed: int = 0) -> RankingSession:
    items = [new_item(place, f"good {place}", f"bad {place}") for place in range(count)]
    return create_session(home, "support@1", ["support@1", "base"], items, spec={**SPEC, "seed": seed}, seed=seed)


def test_the_same_request_finds_its_session(hone_home: Path) -> None:
    session = made(hone_home)
    assert made(hone_home) == session
    assert find_session_of(hone_home, {**SPEC, "seed": 0}) == session
    other = made(hone_home, seed=1)
    assert [one.id for one in list_sessions(hone_home, version="support@1")] == [session.id, other.id]


def test_equal_answers_are_one_candidate_and_are_not_shown(hone_home: Path) -> None:
    items = [new_item(0, "same ", "same"), new_item(1, "one", "other")]
    session = create_session(hone_home, "support@1", ["support@1", "base"], items, spec=SPEC, seed=0)
    [same, different] = ranked_session(hone_home, session.id).items
    assert [one.contenders for one in same.candidates] == [("support@1", "base")]
    shown = next_item(hone_home, session.id, "anna")
    assert shown.item is not None
    assert (shown.item.id, shown.total) == (different.id, 1)


def test_a_rater_goes_through_all_in_an_order_that_comes_back(hone_home: Path) -> None:
    session = made(hone_home)
    seen: dict[str, list[str]] = {"anna": [], "bob": []}
    for rater, items in seen.items():
        while (shown := next_item(hone_home, session.id, rater)).item is not None:
            assert next_item(hone_home, session.id, rater) == shown
            assert shown.done == len(items)
            items.append(shown.item.id)
            vote = cast_vote(hone_home, session.id, shown.item.id, rater, [2, 7], seconds=1.5)
            assert vote.shown == [one.id for one in shown.answers]
            assert (vote.ranks, vote.rater, vote.seconds) == ([1, 2], rater, 1.5)
    assert sorted(seen["anna"]) == sorted(seen["bob"])
    assert seen["anna"] != seen["bob"]


def test_places_are_random(hone_home: Path) -> None:
    session = made(hone_home, count=200)
    places: Counter[int] = Counter()
    for item in ranked_session(hone_home, session.id).items:
        places[shown_order(session, item, "anna").index(item.candidates[0])] += 1
    assert 70 <= places[0] <= 130  # three standard deviations of a fair coin are 21


def test_undo_takes_back_the_last_vote_of_that_rater_alone(hone_home: Path) -> None:
    session = made(hone_home)
    shown = next_item(hone_home, session.id, "anna")
    assert shown.item is not None
    first = cast_vote(hone_home, session.id, shown.item.id, "anna", [1, 2])
    cast_vote(hone_home, session.id, shown.item.id, "bob", None)
    undone = undo_vote(hone_home, session.id, "anna")
    assert undone is not None
    assert (undone.id, undone.undone_at is None) == (first.id, False)
    assert next_item(hone_home, session.id, "anna") == shown
    assert undo_vote(hone_home, session.id, "anna") is None
    assert [one.rater for one in list_votes(hone_home, session.id)] == ["bob"]
    assert [one.rater for one in list_votes(hone_home, session.id, undone=True)] == ["anna", "bob"]
    cast_vote(hone_home, session.id, shown.item.id, "anna", [1, 1])


def _vote_for(home: Path, session_id: str, rater: str) -> int:
    kept = 0
    while (shown := next_item(home, session_id, rater)).item is not None:
        try:
            cast_vote(home, session_id, shown.item.id, rater, [1, 2])
            kept += 1
        except ConfigError:
            continue  # the same rater in another process was faster
    return kept


def test_raters_in_many_processes_each_vote_once(hone_home: Path) -> None:
    session = made(hone_home, count=8)
    names = ["anna", "anna", "bob"]
    with multiprocessing.get_context("spawn").Pool(3) as pool:
        kept = pool.starmap(_vote_for, [(hone_home, session.id, name) for name in names])
    assert kept[0] + kept[1] == 8
    assert kept[2] == 8
    votes = Counter((one.rater, one.item_id) for one in list_votes(hone_home, session.id))
    assert len(votes) == 16
    assert set(votes.values()) == {1}


def test_what_cannot_be_is_refused(hone_home: Path) -> None:
    session = made(hone_home)
    item = ranked_session(hone_home, session.id).items[0]
    with pytest.raises(VersionError, match="rank-none"):
        next_item(hone_home, "rank-none", "anna")
    with pytest.raises(ConfigError, match="no prompt"):
        cast_vote(hone_home, session.id, "item-none", "anna", [1, 2])
    with pytest.raises(ConfigError, match="3 ranks for 2 answers"):
        cast_vote(hone_home, session.id, item.id, "anna", [1, 2, 3])
    with pytest.raises(ConfigError, match="no time"):
        cast_vote(hone_home, session.id, item.id, "anna", None, seconds=float("nan"))
    with pytest.raises(DataError, match="nothing to compare"):
        create_session(hone_home, "a", ["a"], [], spec={}, seed=0)
    for name in ("", "  ", "a\nb", "x" * 101):
        with pytest.raises(ConfigError, match="rater"):
            check_rater(name)
    assert list_votes(hone_home, session.id) == []


def test_ranks_have_no_gaps() -> None:
    assert dense_ranks([4, 9, 4, 1], 4) == [2, 3, 2, 1]
