"""Rankings over the wire: made once, shown without names, voted on, undone, judged and exported."""

from __future__ import annotations

import json
from typing import Any

from starlette.testclient import TestClient

URL = "/v1/hone/rankings"


def body(count: int = 3) -> dict[str, Any]:
    """A session of so many prompts with an answer of the version and one of the base; the last one's are the same."""
    items = [
        {
            "prompt": f"What is {place}?",
            "answers": [
                {"text": f"It is {place}.", "contender": "support@1"},
                {"text": f"It is {place}." if place == count - 1 else "No idea at all.", "contender": "base"},
            ],
        }
        for place in range(count)
    ]
    return {"version": "support@1", "items": items}


def made(client: TestClient, count: int = 3) -> str:
    answered = client.post(URL, json=body(count))
    assert answered.status_code == 200, answered.text
    return str(answered.json()["id"])


def vote(client: TestClient, session: str, rater: str, *, better: str) -> dict[str, Any]:
    """Let a rater prefer the answer that begins so, on what is shown to him next."""
    shown = client.get(f"{URL}/{session}/next", params={"rater": rater}).json()
    ranks = [1 if one["text"].startswith(better) else 2 for one in shown["answers"]]
    answered = client.post(
        f"{URL}/{session}/votes",
        json={"rater": rater, "item": shown["item"], "ranks": ranks, "seconds": 2.5, "utc_offset_minutes": 60},
    )
    assert answered.status_code == 200, answered.text
    return dict(answered.json())


def test_a_session_is_made_once_and_listed(client: TestClient) -> None:
    session = made(client)
    assert made(client) == session
    [listed] = client.get(URL).json()["data"]
    assert listed["id"] == session
    assert (listed["contenders"], listed["prompts"], listed["same_answers"]) == (["support@1", "base"], 2, 1)
    assert client.get(f"{URL}/{session}").json() == listed
    assert client.get(URL, params={"version": "other@1"}).json()["data"] == []


def test_what_a_rater_sees_names_nobody(client: TestClient) -> None:
    session = made(client)
    shown = client.get(f"{URL}/{session}/next", params={"rater": "anna"})
    assert "support" not in shown.text
    assert "base" not in shown.text
    told = shown.json()
    assert set(told) == {"object", "item", "prompt", "answers", "done", "total"}
    assert all(set(one) == {"id", "text"} for one in told["answers"])
    assert (told["done"], told["total"]) == (0, 2)
    assert told == client.get(f"{URL}/{session}/next", params={"rater": "anna"}).json()


def test_votes_are_kept_undone_and_judged(client: TestClient) -> None:
    session = made(client)
    first = vote(client, session, "anna", better="It is")
    assert (first["seconds"], first["utc_offset_minutes"], sorted(first["ranks"])) == (2.5, 60, [1, 2])
    vote(client, session, "anna", better="It is")
    done = client.get(f"{URL}/{session}/next", params={"rater": "anna"}).json()
    assert (done["item"], done["answers"], done["done"]) == (None, [], 2)
    undone = client.post(f"{URL}/{session}/undo", json={"rater": "anna"}).json()
    assert undone["undone_at"]
    again = client.get(f"{URL}/{session}/next", params={"rater": "anna"}).json()
    assert again["item"] == undone["item_id"]
    vote(client, session, "anna", better="No idea")
    votes = client.get(f"{URL}/{session}/votes").json()["data"]
    assert [bool(one["undone_at"]) for one in votes] == [False, True, False]
    results = client.get(f"{URL}/{session}/results").json()
    [found] = results["against"]
    assert (found["wins"], found["losses"], found["ties"], found["same"]) == (1, 1, 0, 1)
    assert found["share"]["value"] == 50.0
    assert results["raters"] == {"anna": 2}


def test_a_session_leaves_as_each_format(client: TestClient) -> None:
    session = made(client)
    vote(client, session, "anna", better="It is")
    rows = client.get(f"{URL}/{session}/export", params={"format": "hone"})
    assert rows.headers["content-type"] == "application/jsonl"
    row = json.loads(rows.text)
    assert row["chosen"][0]["content"].startswith("It is")
    assert row["rejected"][0]["content"] == "No idea at all."
    for name in ("label-studio", "argilla"):
        told = client.get(f"{URL}/{session}/export", params={"format": name}).json()
        assert len(told) == 2
        assert "support@1" not in json.dumps(told)


def test_what_is_wrong_is_said(client: TestClient) -> None:
    session = made(client)
    item = client.get(f"{URL}/{session}/next", params={"rater": "anna"}).json()["item"]
    cases = [
        (client.get(f"{URL}/rank-none/next", params={"rater": "a"}), 404, "No such rankings"),
        (client.get(f"{URL}/{session}/next"), 400, "rater"),
        (client.post(f"{URL}/{session}/undo", json={"rater": "anna"}), 400, "no vote to take back"),
        (client.post(f"{URL}/{session}/votes", json={"rater": "a", "item": item, "ranks": [1]}), 400, "1 ranks for 2"),
        (client.post(f"{URL}/{session}/votes", json={"rater": "a", "item": "x", "ranks": [1, 2]}), 400, "no prompt"),
        (client.post(f"{URL}/{session}/votes", json={"rater": "\x07", "item": item, "ranks": None}), 400, "rater"),
        (client.get(f"{URL}/{session}/export", params={"format": "hone"}), 400, "nothing to export"),
        (client.get(f"{URL}/{session}/export", params={"format": "csv"}), 400, "format"),
        (client.post(URL, json={**body(), "version": "nobody"}), 400, "no contender"),
        (client.post(URL, json={**body(), "extra": 1}), 400, "extra"),
    ]
    for answered, status, said in cases:
        assert answered.status_code == status, answered.text
        assert said in answered.json()["error"]["message"], answered.text
    assert vote(client, session, "anna", better="It")["item_id"] == item
    twice = client.post(f"{URL}/{session}/votes", json={"rater": "anna", "item": item, "ranks": None})
    assert (twice.status_code, twice.json()["error"]["param"]) == (400, "item")
