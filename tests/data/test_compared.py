"""Rankings as rows to train on, as Label Studio's tasks and as Argilla's records, there and back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from hone.data.argilla import from_argilla, to_argilla
from hone.data.compared import (
    CompareTask,
    GivenRanking,
    plain_prompt,
    prompt_turns,
    read_json_tasks,
    seconds_of,
    training_rows,
    utc_time,
)
from hone.data.label_studio import from_label_studio, to_label_studio
from hone.data.loader import load_examples
from hone.errors import DataError
from hone.types import Preference

ASKED = [{"role": "user", "content": "Is it far?"}]


def task(*ranks: tuple[int, ...] | None, texts: tuple[str, ...] = ("Ten minutes.", "No.")) -> CompareTask:
    """A task of these answers, and a ranking of each rater; None where he skipped it."""
    answers = tuple((f"answer-{place}", text) for place, text in enumerate(texts))
    rankings = tuple(GivenRanking(f"rater {place}", one, 3.5) for place, one in enumerate(ranks))
    return CompareTask("item-1", ASKED, answers, rankings)


def loaded(tmp_path: Path, rows: list[dict[str, Any]]) -> list[Preference]:
    """The rows as ``hone run`` reads them."""
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    found = load_examples(str(path), preferences=True)
    assert found.ledger.summary()["dropped"] == 0
    return [one for one in found.examples if isinstance(one, Preference)]


def test_pairs_are_rows_to_train_on(tmp_path: Path) -> None:
    [row] = loaded(tmp_path, training_rows([task((2, 1)), task(None), task((1, 1)), task()]))
    assert [one.content for one in row.answers] == ["No.", "Ten minutes."]
    assert row.prompt[-1].content == "Is it far?"


def test_several_raters_become_one_row_by_their_mean(tmp_path: Path) -> None:
    several = task((1, 2), (1, 2), (2, 1), None)
    [row] = loaded(tmp_path, training_rows([several]))
    assert row.answers[0].content == "Ten minutes."
    assert len(training_rows([several], each_vote=True)) == 3
    assert training_rows([task((1, 2), (2, 1))]) == []


def test_rankings_are_rows_to_train_on(tmp_path: Path) -> None:
    rows = training_rows([task((3, 1, 2, 2), texts=("a", "b", "c", " ")), task((1, 2))])
    first, second = loaded(tmp_path, rows)
    assert ([one.content for one in first.answers], first.ranks) == (["b", "c", "a"], (1.0, 2.0, 3.0))
    assert [one.content for one in second.answers] == ["Ten minutes.", "No."]


def test_label_studio_there_and_back() -> None:
    tasks = [task((1, 2), (2, 1), (1, 1), None)]
    written = to_label_studio(tasks)
    selected = [[one["value"]["selected"] for one in annotation["result"]] for annotation in written[0]["annotations"]]
    assert selected == [["left"], ["right"], [], []]
    assert from_label_studio(json.loads(json.dumps(written)), "x.json") == tasks
    with pytest.raises(DataError, match="compares two answers"):
        to_label_studio([task(texts=("a", "b", "c"))])


@pytest.mark.parametrize(("reader", "writer"), [(from_label_studio, to_label_studio), (from_argilla, to_argilla)])
def test_hones_own_vote_keeps_its_order_and_time(reader: Any, writer: Any) -> None:
    vote = GivenRanking("anna", (2, 1), 1.5, "2026-03-09T22:16:08.728353Z", (1, 0))
    written = json.loads(json.dumps(writer([CompareTask("item-1", ASKED, (("a", "x"), ("b", "y")), (vote,))])))
    assert reader(written, "x.json")[0].rankings == (vote,)

    # where the rater said something else in the tool, its own fields count; and so they do without hone's text
    holder = written[0].get("data") or written[0]["metadata"]
    own = json.loads(holder["hone"])
    for changed in ({"ranks": [1, 2]}, {"shown": [0, 0]}, {"shown": None}, {"shown": [True, 0]}):
        holder["hone"] = json.dumps({**own, "votes": {"anna": {**own["votes"]["anna"], **changed}}})
        [read] = reader(written, "x.json")[0].rankings
        assert (read.rater, read.ranks, read.shown) == ("anna", (2, 1), None)
    holder["hone"] = json.dumps({**own, "votes": "x"})
    assert reader(written, "x.json")[0].rankings[0].shown is None


def test_times_and_durations_from_json() -> None:
    assert utc_time("2026-03-09T23:16:08+01:00") == "2026-03-09T22:16:08.000000Z"
    assert [utc_time(one) for one in ("2026-03-09T22:16:08", "soon", "", 3, None, "0001-01-01T00:00:00+14:00")] == [
        None
    ] * 6
    assert [seconds_of(one) for one in (3, 0.5)] == [3.0, 0.5]
    assert [seconds_of(one) for one in (-1, True, "3", None, float("nan"), float("inf"), 10**400)] == [None] * 7


def test_label_studio_as_it_exports() -> None:
    """The shape of Label Studio's own JSON export, of a project that hone knows nothing of."""
    exported = {
        "id": 7,
        "annotations": [
            {
                "id": 1001,
                "completed_by": 10,
                "result": [
                    {"id": "DxaB91", "type": "pairwise", "value": {"selected": "right"}, "to_name": "text1,text2",
                     "from_name": "pw", "origin": "manual"}
                ],
                "was_cancelled": False,
                "ground_truth": False,
                "created_at": "2021-03-09T22:16:08.728353Z",
                "updated_at": "2021-03-09T22:16:08.728378Z",
                "lead_time": 4.288,
            }
        ],
        "data": {"prompt": "Is it far?", "text1": "No.", "text2": "Ten minutes."},
        "project": 83,
    }  # fmt: skip
    [read] = from_label_studio([exported], "x.json")
    assert (read.id, list(read.prompt)) == ("", ASKED)
    assert read.rankings == (GivenRanking("10", (2, 1), 4.288, "2021-03-09T22:16:08.728353Z"),)


def test_argilla_there_and_back() -> None:
    tasks = [task((1, 3, 2), (1, 1, 2), texts=("a", "b", "c"))]
    [read] = from_argilla(json.loads(json.dumps(to_argilla(tasks))), "x.json")
    assert (read.id, read.answers) == (tasks[0].id, tasks[0].answers)
    assert [(one.rater, one.ranks) for one in read.rankings] == [("rater 0", (1, 3, 2)), ("rater 1", (1, 1, 2))]


def test_argilla_as_it_exports() -> None:
    """The shape of ``dataset.records.to_json``, of a dataset that hone knows nothing of; responses in rank order."""
    user = "1b0b6f5e-0000-4000-8000-000000000000"
    exported = {
        "id": "rec-1",
        "fields": {"instruction": "Is it far?", "response-1": "No.", "response-2": "Ten minutes."},
        "metadata": {},
        "suggestions": {},
        "responses": {
            "ranking": [
                {"value": [{"value": "response-2", "rank": 1}, {"value": "response-1", "rank": 2}], "user_id": user}
            ]
        },
        "vectors": {},
        "_server_id": None,
    }
    [read] = from_argilla([exported], "x.json")
    assert read.answers == (("", "No."), ("", "Ten minutes."))
    assert read.rankings == (GivenRanking(user, (2, 1)),)


@pytest.mark.parametrize(
    ("reader", "value", "said"),
    [
        (from_label_studio, {}, "no data"),
        (from_label_studio, {"data": {"text": "x"}}, "no two texts"),
        (from_label_studio, {"data": {"text1": "x", "text2": "y"}}, "prompt"),
        (from_label_studio, {"data": {"prompt": "p", "text1": "x", "text2": "y"},
                             "annotations": [{"result": [{"type": "choices"}]}]}, "no pairwise result"),
        (from_argilla, {"fields": None}, "no fields"),
        (from_argilla, {"fields": {"prompt": "p", "response-1": "x"}}, "no text in the fields"),
        (from_argilla, {"fields": {"prompt": "p"}, "responses": {"q": [{"value": "yes"}]}}, "no ranking"),
        (from_argilla, {"fields": {"prompt": "p", "response-1": "x", "response-2": "y"},
                        "responses": {"q": [{"value": [{"value": "response-1", "rank": 1},
                                                       {"value": "response-2"}]}]}}, "does not rank each"),
    ],
)  # fmt: skip
def test_what_is_no_such_file_is_told_with_its_place(reader: Any, value: dict[str, Any], said: str) -> None:
    with pytest.raises(DataError, match=said) as told:
        reader([value], "export.json")
    assert "export.json" in str(told.value.where)


def test_files_are_arrays_or_lines(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    for text in ('[{"a": 1}, {"a": 2}]', '{"a": 1}\n\n{"a": 2}\n'):
        path.write_text(text, encoding="utf-8")
        assert read_json_tasks(path) == [{"a": 1}, {"a": 2}]
    for text in ("", "[1]", "nope", "[" * 100_000):
        path.write_text(text, encoding="utf-8")
        with pytest.raises(DataError):
            read_json_tasks(path)
    with pytest.raises(DataError, match="cannot be read"):
        read_json_tasks(tmp_path / "none.json")


def test_lines_end_with_a_line_feed_alone(tmp_path: Path) -> None:
    """JSON may have U+2028, U+2029 and U+0085 in a string as they are."""
    path = tmp_path / "x.jsonl"
    rows = [{"a": "one\u2028two"}, {"a": "three\u2029four\u0085five"}]
    for end in ("\n", "\r\n"):
        path.write_bytes("".join(json.dumps(one, ensure_ascii=False) + end for one in rows).encode())
        assert read_json_tasks(path) == rows


def test_prompts_for_people_and_as_turns() -> None:
    assert plain_prompt(ASKED) == "Is it far?"
    assert plain_prompt([{"role": "system", "content": "Be brief."}, *ASKED]) == "System: Be brief.\n\nUser: Is it far?"
    assert prompt_turns("Is it far?", "x") == ASKED
    for bad in ("", [], 3, [{"role": "assistant", "content": "Hello."}], [{"role": "nobody"}]):
        with pytest.raises(DataError):
            prompt_turns(bad, "x")
