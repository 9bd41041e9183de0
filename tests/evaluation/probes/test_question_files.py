"""Questions from files: the three forms, what is refused, and benchmarks as they are found."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from hone.errors import ConfigError, DataError
from hone.evaluation.probes.item import ProbeItem
from hone.evaluation.probes.question_files import CONVERTERS, convert_questions, question_to_json, read_questions

GOOD: list[dict[str, Any]] = [
    {"question": "Which is a fruit?", "choices": ["apple", "chair"], "right": 0},
    {"question": "Say lamp.", "accepted": ["lamp", "Lamp"], "skill": "saying", "as_chat": False},
    {"beginnings": ["The cat, so the cat", "The cat, so the dog"], "ending": "ran.", "right": 1, "per_byte": True},
]


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def test_the_three_forms(tmp_path: Path) -> None:
    choices, exact, schema = read_questions(write(tmp_path / "mine.jsonl", GOOD))
    assert choices == ProbeItem("mine", ("Which is a fruit?",), ("apple", "chair"), 0)
    assert exact == ProbeItem("saying", ("Say lamp.",), ("lamp", "Lamp"), None, as_chat=False)
    assert schema.options() == [("The cat, so the cat", "ran."), ("The cat, so the dog", "ran.")]
    assert (schema.right, schema.per_byte) == (1, True)


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    items = read_questions(write(tmp_path / "mine.jsonl", GOOD))
    assert read_questions(write(tmp_path / "again.jsonl", [question_to_json(item) for item in items])) == items


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"question": "?", "choices": ["a", "b"], "right": 2}, "right = 2 is no index from 0 to 1"),
        ({"question": "?", "choices": ["a", "b"], "right": True}, "right = True is no index"),
        ({"question": "?", "choices": ["a", "a"], "right": 0}, "two that are alike"),
        ({"question": "?", "choices": ["a"], "right": 0}, "fewer than two choices"),
        ({"question": "?", "choices": ["a", 3], "right": 0}, "choices: not of the right type"),
        ({"question": " ", "accepted": ["a"]}, "question: not of the right type, or empty"),
        ({"question": "?", "answer": "a"}, "unknown: answer"),
        ({"question": "?"}, "none of the three forms"),
        ({"question": "?", "accepted": ["a"], "as_chat": "no"}, "as_chat: not of the right type"),
    ],
)
def test_a_wrong_row_is_named(tmp_path: Path, row: dict[str, Any], reason: str) -> None:
    with pytest.raises(DataError) as caught:
        read_questions(write(tmp_path / "mine.jsonl", [GOOD[0], row]))
    assert f"mine.jsonl:2: {reason}" in str(caught.value) or reason in str(caught.value)
    assert "mine.jsonl:2:" in str(caught.value)


def test_an_empty_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError):
        read_questions(write(tmp_path / "none.jsonl", []))


FILES = {
    "arc_easy": ("arc_easy/arc_easy-first1500.jsonl", 1499),
    "boolq": ("boolq_500/boolq-first500.jsonl", 500),
    "openbookqa": ("openbookqa/openbook_qa.jsonl", 500),
    "triviaqa": ("triviaqa_700/triviaqa-first700.jsonl", 700),
    "winogrande": ("winogrande/winogrande.jsonl", 1267),
}


@pytest.mark.parametrize("form", sorted(CONVERTERS))
def test_benchmarks_are_converted_whole(form: str, shared_folder: Path, tmp_path: Path) -> None:
    name, count = FILES[form]
    lines = (shared_folder / "data" / name).read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines if line.strip()]
    items = convert_questions(rows, form)
    assert len(items) == count
    for item, row in zip(items, rows, strict=True):
        if "gold" in row:
            options = row.get("choices") or row["context_options"]
            given = item.answers if "choices" in row else item.prompts
            assert item.right is not None
            assert given[item.right] == options[row["gold"]]
        else:
            assert row["answer"] in item.answers
    usable = [item for item in items if len(set(item.options())) == len(item.options())]
    assert len(usable) > 0.99 * count
    path = write(tmp_path / f"{form}.jsonl", [question_to_json(item) for item in usable])
    assert read_questions(path) == usable


def test_an_unknown_form_and_a_foreign_row_are_refused() -> None:
    with pytest.raises(ConfigError, match="arc_easy"):
        convert_questions([], "arc")
    with pytest.raises(DataError, match="row 1 is not of the form boolq"):
        convert_questions([{"text": "x"}], "boolq")
