"""The benchmark of the whole circle: its rule, its votes in a real registry, its steps in their order, and going on."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import circle
import pytest

from hone.recipe.rank import report_of
from hone.registry.rankings import NewAnswer, NewItem, RankingSession, create_session, find_session
from hone.registry.votes import ranked_session


def test_the_rule_prefers_whole_sentences_and_then_short_ones() -> None:
    assert circle.ranks_of(["It is far away.", "It is", "It is.", "It is. "]) == [2, 3, 1, 1]
    assert circle.ranks_of(["", "Yes!"]) == [2, 1]


def session_of(home: Path, version: str, contenders: list[str], texts: list[str]) -> RankingSession:
    items = [
        NewItem(
            [{"role": "user", "content": f"prompt {number}"}],
            [NewAnswer(f"{text} {number}.", name, {}) for name, text in zip(contenders, texts, strict=True)],
        )
        for number in range(12)
    ]
    return create_session(home, version, list(dict.fromkeys(contenders)), items, spec={"of": version}, seed=0)


def test_all_steps_in_their_order(hone_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[tuple[str, ...]] = []

    def hone(*arguments: object) -> dict[str, Any]:
        words = tuple(map(str, arguments))
        called.append(words)
        if words[:2] == ("rankings", "show"):
            report = report_of(hone_home, [find_session(hone_home, words[2])])
            return {"report": json.loads(json.dumps(report.to_json()))}
        if words[0] == "rank" and "none" in words:
            made = session_of(hone_home, words[1], ["base"] * 4, ["a", "a longer one", "b", "the longest of all"])
            return {"session": made.id}
        if words[0] == "rank":
            return {"session": session_of(hone_home, words[1], [words[1], "base"], ["short", "much longer"]).id}
        return {"version": "judge@1" if "reward" in words else "circle@1", "retention": {"kept": True}}

    monkeypatch.setattr(circle, "hone", hone)
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps({"prompt": str(one), "completion": "x"}) + "\n" for one in range(9)))
    target = tmp_path / "work" / "circle.json"
    command = ["circle.py", "--data", str(rows), "--json", str(target), "--model", "base", "--prompts", "5"]
    monkeypatch.setattr(sys, "argv", [*command, "--held-out", "4", "--until", "reward"])
    circle.main()
    assert [words[:2] for words in called] == [("rank", "base"), ("rankings", "export"), ("run", called[2][1])]
    assert (tmp_path / "work" / "prompts.jsonl").read_text().count("\n") == 5
    monkeypatch.setattr(sys, "argv", [*command, "--held-out", "4"])
    circle.main()
    reinforced = called[3]
    assert reinforced[:2] == ("run", str(tmp_path / "work" / "prompts.jsonl"))
    assert reinforced[2:6] == ("--method", "grpo", "--reward", "judge@1")
    told = json.loads(target.read_text(encoding="utf-8"))
    [found] = told["judged"]["report"]["against"]
    assert (found["contender"], found["wins"], found["winner"]) == ("circle@1", 12, "circle@1")
    assert told["judged"]["retention"] == {"kept": True}
    votes = ranked_session(hone_home, told["answers"]["session"]).votes
    assert len(votes) == told["votes"]["votes"] == 12
    assert {vote.rater for vote in votes} == {circle.RATER}
    assert all(sorted(vote.ranks or []) == [1, 1, 2, 3] or sorted(vote.ranks or []) == [1, 2, 3, 4] for vote in votes)
