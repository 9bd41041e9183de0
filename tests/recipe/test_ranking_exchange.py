"""What imported votes say of the order, the time and the seconds, and what hone's own votes keep on their way."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from hone.errors import DataError
from hone.recipe.ranking_exchange import export_rankings, import_rankings
from hone.registry.rankings import NewAnswer, NewItem, RankingSession, create_session
from hone.registry.votes import Vote, cast_vote, keep_vote, next_item, ranked_session

SUBMITTED = "2026-03-09T23:16:08.728353+01:00"
UTC = "2026-03-09T22:16:08.728353Z"


def pairwise(selected: str | None, by: object = 10, **further: object) -> dict[str, Any]:
    """An annotation as Label Studio exports it."""
    chosen = [{"from_name": "pw", "to_name": "text1,text2", "type": "pairwise", "value": {"selected": selected}}]
    return {"completed_by": by, "was_cancelled": False, "result": chosen if selected else [], **further}


def labelled(number: int, *annotations: dict[str, Any], turned: bool = False) -> dict[str, Any]:
    texts = [f"good {number}", f"bad {number}"][:: -1 if turned else 1]
    return {"data": {"prompt": f"prompt {number}", "text1": texts[0], "text2": texts[1]}, "annotations": [*annotations]}


def votes_of(home: Path, session: RankingSession) -> list[tuple[Vote, list[str]]]:
    """Each vote, and the texts of the answers in the order shown."""
    ranked = ranked_session(home, session.id)
    texts = {one.id: one.text for item in ranked.items for one in item.candidates}
    return [(vote, [texts[one] for one in vote.shown]) for vote in ranked.votes]


def imported(home: Path, folder: Path, rows: list[Any], kind: str = "label-studio") -> Any:
    path = folder / "export.json"
    path.write_text(json.dumps(rows), encoding="utf-8")
    return import_rankings(home, path, kind=kind)


def test_a_vote_of_label_studio_keeps_its_order_and_time(hone_home: Path, tmp_path: Path) -> None:
    rows = [labelled(number, pairwise("right", created_at=SUBMITTED, lead_time=4.2), turned=number % 2 == 0)
            for number in range(8)]  # fmt: skip
    found = votes_of(hone_home, imported(hone_home, tmp_path, rows).session)
    for number, (vote, texts) in enumerate(found):
        assert texts == [rows[number]["data"]["text1"], rows[number]["data"]["text2"]]
        assert (vote.ranks, vote.seconds, vote.voted_at, vote.utc_offset_minutes) == ([2, 1], 4.2, UTC, None)


@pytest.mark.parametrize("told", [{}, {"created_at": "soon", "lead_time": "x"}, {"created_at": "2026-03-09T22:16:08"},
                                  {"created_at": "0001-01-01T00:00:00+14:00", "lead_time": 10**400},
                                  {"created_at": 3, "lead_time": float("inf")}])  # fmt: skip
def test_what_a_file_does_not_say_stays_unknown(hone_home: Path, tmp_path: Path, told: dict[str, Any]) -> None:
    rows = [labelled(0, pairwise("left", **told), pairwise(None, by="skips", **told) | {"was_cancelled": True})]
    session = imported(hone_home, tmp_path, rows).session
    for vote, texts in votes_of(hone_home, session):
        assert (vote.voted_at, vote.seconds) == (None, None)
        assert texts == ["good 0", "bad 0"]
    assert imported(hone_home, tmp_path, rows).known == 2


def test_a_vote_of_argilla_keeps_its_order_and_has_no_time(hone_home: Path, tmp_path: Path) -> None:
    texts = {"response-1": "c", "response-2": "a", "response-3": "b"}
    ranks = [{"value": name, "rank": rank} for name, rank in (("response-3", 1), ("response-2", 2), ("response-1", 4))]
    record = {"fields": {"prompt": "p", **texts}, "responses": {"ranking": [{"value": ranks, "user_id": "u"}]}}
    [(vote, shown)] = votes_of(hone_home, imported(hone_home, tmp_path, [record], "argilla").session)
    assert shown == ["c", "a", "b"]
    assert (vote.ranks, vote.voted_at, vote.seconds) == ([3, 2, 1], None, None)


def test_a_task_that_stands_twice_keeps_both_orders(hone_home: Path, tmp_path: Path) -> None:
    rows = [labelled(0, pairwise("left", by="anna")), labelled(0, pairwise("left", by="bob"), turned=True)]
    found = {
        vote.rater: (vote.rank_of(), texts)
        for vote, texts in votes_of(hone_home, imported(hone_home, tmp_path, rows).session)
    }
    assert found["anna"][1] == ["good 0", "bad 0"]
    assert found["bob"][1] == ["bad 0", "good 0"]
    assert [*found["anna"][0].values()] == [*found["bob"][0].values()] == [1, 2]
    assert found["anna"][0] != found["bob"][0]


def voted(home: Path) -> RankingSession:
    """A session of hone's own, judged by one rater."""
    items = [
        NewItem([{"role": "user", "content": f"prompt {place}"}],
                [NewAnswer(f"good {place}", "support@1", {}), NewAnswer(f"bad {place}", "base", {})])
        for place in range(8)
    ]  # fmt: skip
    session = create_session(home, "support@1", ["support@1", "base"], items, spec={"of": "x"}, seed=0)
    while (shown := next_item(home, session.id, "anna")).item is not None:
        cast_vote(home, session.id, shown.item.id, "anna", [2, 1], seconds=1.5)
    return session


@pytest.mark.parametrize("kind", ["label-studio", "argilla"])
def test_a_vote_of_hones_own_keeps_its_order_in_another_home(hone_home: Path, tmp_path: Path, kind: str) -> None:
    session, path = voted(hone_home), tmp_path / "own.json"
    export_rankings(hone_home, [session.id], path, kind=kind)
    assert import_rankings(hone_home, path, kind=kind).known == 8
    other = tmp_path / "other home"
    moved = import_rankings(other, path, kind=kind).session

    def facts(home: Path, one: RankingSession) -> set[object]:
        return {(*texts, str(vote.ranks), vote.seconds, vote.voted_at) for vote, texts in votes_of(home, one)}

    assert facts(other, moved) == facts(hone_home, session)

    # the tool's own fields count where somebody said something else there, or the text beside is not hone's any more
    rows = json.loads(path.read_text(encoding="utf-8"))
    for row in rows:
        holder = row["data"] if kind == "label-studio" else row["metadata"]
        own = json.loads(holder["hone"])
        holder["hone"] = json.dumps({**own, "votes": {"anna": {**own["votes"]["anna"], "shown": [0, 0]}}})
    path.write_text(json.dumps(rows), encoding="utf-8")
    damaged = import_rankings(tmp_path / "third home", path, kind=kind)
    assert damaged.votes == 8


def test_tasks_that_cannot_be_taken_in_are_named_all_of_them(hone_home: Path, tmp_path: Path) -> None:
    rows = [labelled(number, pairwise("left")) for number in range(8)]
    rows[2] = {"id": 1003, "data": {"prompt": "p", "text1": "aa", "text2": " aa"}, "annotations": []}
    rows[5]["data"]["text2"] = rows[5]["data"]["text1"]
    with pytest.raises(DataError, match="2 of its tasks have the same answer twice") as caught:
        imported(hone_home, tmp_path, rows)
    assert caught.value.where == str(tmp_path / "export.json")
    assert caught.value.details == ("task 3 (id 1003): aa", "task 6: good 5")
    assert caught.value.remedy
    rows = [labelled(0, pairwise("left"), pairwise("right"))]
    with pytest.raises(DataError, match="judged twice by one rater") as caught:
        imported(hone_home, tmp_path, rows)
    assert caught.value.details == ("task 1: 10",)


@pytest.mark.parametrize("kind", ["label-studio", "argilla"])
def test_a_task_that_comes_back_with_another_answer_is_named(hone_home: Path, tmp_path: Path, kind: str) -> None:
    session, path = voted(hone_home), tmp_path / "own.json"
    export_rankings(hone_home, [session.id], path, kind=kind)
    rows = json.loads(path.read_text(encoding="utf-8"))
    if kind == "label-studio":
        rows[3]["data"]["text2"], rows[3]["id"] = "mended", 17
    else:
        rows[3]["fields"]["response-2"] = "mended"
    path.write_text(json.dumps(rows), encoding="utf-8")
    with pytest.raises(DataError, match=f"1 of its tasks have other answers than {session.id}") as caught:
        import_rankings(hone_home, path, kind=kind)
    place = "task 4 (id 17)" if kind == "label-studio" else f"record 4 (id {rows[3]['id']})"
    assert caught.value.details == (f"{place}: mended",)
    assert caught.value.where == str(path)
    assert "as they were exported" in (caught.value.remedy or "")
    # a task beside it with the answers as they were
    rows.append(json.loads(json.dumps(rows[3]).replace("mended", "mended again")))
    path.write_text(json.dumps(rows), encoding="utf-8")
    with pytest.raises(DataError, match="stand twice with other answers") as caught:
        import_rankings(hone_home, path, kind=kind)
    assert len(caught.value.details) == 2


def test_an_order_that_is_not_the_answers_is_refused(hone_home: Path) -> None:
    from hone.errors import ConfigError

    session = voted(hone_home)
    item = ranked_session(hone_home, session.id).items[0]
    with pytest.raises(ConfigError, match="not each answer"):
        keep_vote(hone_home, session.id, item.id, "bob", [1, 2], shown=["x", "y"], seconds=None, voted_at=None)
