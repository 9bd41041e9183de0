"""Rankings as rows to train on, as Label Studio's tasks and as Argilla's records, there and back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from hone.data.argilla import from_argilla, to_argilla
from hone.data.compared import CompareTask, GivenRanking, plain_prompt, prompt_turns, read_json_tasks, training_rows
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
                "lead_time": 4.288,
            }
        ],
        "data": {"prompt": "Is it far?", "text1": "No.", "text2": "Ten minutes."},
        "project": 83,
    }  # fmt: skip
    [read] = from_label_studio([exported], "x.json")
    assert (read.id, list(read.prompt)) == ("", ASKED)
    assert read.rankings == (GivenRanking("10", (2, 1), 4.288),)


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


def test_prompts_for_people_and_as_turns() -> None:
    assert plain_prompt(ASKED) == "Is it far?"
    assert plain_prompt([{"role": "system", "content": "Be brief."}, *ASKED]) == "System: Be brief.\n\nUser: Is it far?"
    assert prompt_turns("Is it far?", "x") == ASKED
    for bad in ("", [], 3, [{"role": "assistant", "content": "Hello."}], [{"role": "nobody"}]):
        with pytest.raises(DataError):
            prompt_turns(bad, "x")
