"""Rows whose answers are graded: what may be missing, what graders see, and how they are kept."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hone.data.loader import load_examples
from hone.data.tasks import task_to_json
from hone.errors import DataError
from hone.types import JsonDict, Task


def load(folder: Path, rows: list[JsonDict], **more: object) -> list[Task]:
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    found = load_examples(str(path), tasks=True, **more).examples  # type: ignore[arg-type]
    assert all(isinstance(one, Task) for one in found)
    return [one for one in found if isinstance(one, Task)]


@pytest.mark.parametrize(
    ("row", "asked", "answer"),
    [
        ({"prompt": "is it far?"}, "is it far?", ""),
        ({"prompt": "is it far?", "completion": ""}, "is it far?", ""),
        ({"prompt": "is it far?", "completion": "no", "hard": 3}, "is it far?", "no"),
        ({"question": "is it far?"}, "is it far?", ""),
        ({"instruction": "say it", "input": "twice"}, "say it\n\ntwice", ""),
        ({"messages": [{"role": "user", "content": "is it far?"}]}, "is it far?", ""),
        ({"messages": [{"role": "user", "content": "far?"}, {"role": "assistant", "content": "no"}]}, "far?", "no"),
        ({"conversations": [{"from": "human", "value": "is it far?"}]}, "is it far?", ""),
    ],
)
def test_a_row_may_lack_its_answer(row: JsonDict, asked: str, answer: str, tmp_path: Path) -> None:
    (task,) = load(tmp_path, [row])
    assert task.prompt[-1].content == asked
    assert task.answer == answer
    assert task.is_open == (not answer)
    assert task.columns == row
    assert task.item.get("reference_answer", "") == answer


def test_named_columns(tmp_path: Path) -> None:
    rows: list[JsonDict] = [{"q": "is it far?"}, {"q": "is it near?", "a": "yes"}]
    found = load(tmp_path, rows, mapping={"prompt": "q", "completion": "a"})
    assert [one.answer for one in found] == ["", "yes"]


def test_a_row_with_a_column_of_that_name_keeps_it(tmp_path: Path) -> None:
    (task,) = load(tmp_path, [{"prompt": "a", "completion": "b", "reference_answer": {"value": 7}}])
    assert task.item["reference_answer"] == {"value": 7}


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "is it far?", "level": 2},
        {"prompt": "is it far?", "completion": "no", "answer": "no"},
        {"messages": [{"role": "system", "content": "be brief"}, {"role": "user", "content": "far?"}], "level": [1]},
        {"messages": [{"role": "user", "content": "far?"}, {"role": "assistant", "content": "no"}], "reference": "no"},
    ],
)
def test_what_is_written_reads_back_as_the_same(row: JsonDict, tmp_path: Path) -> None:
    (task,) = load(tmp_path, [row])
    (again,) = load(tmp_path, [task_to_json(task)])
    assert (again.messages, again.is_open, again.answer) == (task.messages, task.is_open, task.answer)
    assert {key: again.item[key] for key in task.item} == task.item


def test_only_the_last_answer_is_asked_for(tmp_path: Path) -> None:
    turns = [("user", "a"), ("assistant", "b"), ("user", "c")]
    (task,) = load(tmp_path, [{"messages": [{"role": role, "content": text} for role, text in turns]}])
    assert [message.supervised for message in task.messages] == [False, False, False, True]


def test_compared_answers_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="preferences"):
        load(tmp_path, [{"prompt": "a", "chosen": "b", "rejected": "c"}])
