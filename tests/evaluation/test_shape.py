"""Shapes of the shared tasks, and of answers that are easily mistaken."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hone.evaluation.code_shape import looks_like_code
from hone.evaluation.shape import detect_shape

TASKS = {
    "banking77-10": "labels",
    "clinical-note": "summary",
    "e2e-data-to-text": "text",
    "legal-plain-english": "summary",
    "nl2bash": "code",
    "sms-spam": "labels",
    "snips-json": "json",
    "translate-en-de": "text",
    "wiki-questions": "short",
    "wikisql": "code",
}


@pytest.mark.parametrize("file", ["train.jsonl", "eval.jsonl"])
@pytest.mark.parametrize("task", sorted(TASKS))
def test_shared_tasks(shared_folder: Path, task: str, file: str) -> None:
    lines = (shared_folder / "tasks" / task / file).read_text(encoding="utf-8").splitlines()
    conversations = [json.loads(line)["messages"] for line in lines]
    answers = [messages[-1]["content"] for messages in conversations]
    shape = detect_shape(answers, [messages[-2]["content"] for messages in conversations])
    assert shape.kind == TASKS[task], shape.reason
    assert bool(shape.labels) == (shape.kind == "labels")


def test_a_summary_condenses_its_prompt() -> None:
    answers = [f"The meeting was moved to the {n}th because too few could come on the day before." for n in range(9)]
    assert detect_shape(answers, [answer * 2 + "!!" for answer in answers]).kind == "summary"
    assert detect_shape(answers, [answer + answer[:40] for answer in answers]).kind == "text"
    assert detect_shape(answers).kind == "text"
    assert detect_shape(["yes", "no"] * 6, ["a long question " * 9] * 12).kind == "labels"  # the form goes first


def test_labels_are_listed_once_and_sorted() -> None:
    shape = detect_shape(["ham", "spam", " ham ", "ham", "spam", "spam", ""])
    assert shape.kind == "labels"
    assert shape.labels == ("ham", "spam")
    assert shape.to_json() == {"kind": "labels", "labels": ["ham", "spam"], "reason": shape.reason}


@pytest.mark.parametrize(
    ("answers", "kind"),
    [
        (["yes", "no"] * 3, "labels"),
        (["yes", "no", "yes"], "short"),  # too few to know
        (["1", "2", "3"] * 5, "labels"),  # JSON scalars are no JSON answers
        ([f"city {n % 20}" for n in range(40)], "short"),  # each answer twice: no set of labels yet
        ([f"city {n % 20}" for n in range(60)], "labels"),
        (["Thank you for writing to us; we will be in touch with you very soon."] * 40, "text"),  # a stock reply
        (["the same\ntwo lines"] * 12, "short"),
        (['{"a": 1}'] * 12, "json"),
        ([f'```json\n{{"a": {n}}}\n```' for n in range(12)], "json"),
        (['{"a": 1}'] * 18 + ["none"] * 2, "json"),
        (['{"a": 1}'] * 8 + [f"I cannot say why number {n} failed today." for n in range(12)], "text"),
        (["[1, 2]", '["x"]', "[]"], "json"),
        ([f"SELECT a FROM t WHERE b = {n}" for n in range(9)], "code"),
        ([f"def f{n}(x):\n    return x + {n}" for n in range(9)], "code"),
        (["东京", "北京", "上海", "巴黎"], "short"),
        (["今天天气很好,我们去公园散步吧。", "他昨天晚上没有来参加我们的会议。"], "text"),
        ([], "text"),
        (["", "  "], "text"),
    ],
)
def test_constructed(answers: list[str], kind: str) -> None:
    shape = detect_shape(answers)
    assert shape.kind == kind, shape.reason
    assert shape.reason


def test_order_does_not_matter() -> None:
    answers = ["spam", "ham", "ham", "spam", "eggs", "ham", "spam", "eggs", "eggs"]
    assert detect_shape(answers) == detect_shape(answers[::-1])


@pytest.mark.parametrize(
    ("text", "family"),
    [
        ("SELECT name FROM users", "sql"),
        ("select count(*) from t where x = 1;", "sql"),
        ("WITH a AS (SELECT 1) SELECT * FROM a", "sql"),
        ("UPDATE t SET a = 1 WHERE b = 2", "sql"),
        ("find . -name '*.py' | xargs wc -l", "shell"),
        ("ls", "shell"),
        ("sudo systemctl restart nginx.service", "shell"),
        ("for f in *.txt; do echo $f; done", "shell"),
        ("x=$(date +%s)", "shell"),
        ("$ git log --oneline", "shell"),
        ("sorted(rows, key=lambda row: row[1])", "program"),
        ("import os\nprint(os.getcwd())", "program"),
        ("const total = items.reduce((a, b) => a + b, 0);", "program"),
        ("#include <stdio.h>\nint main() { return 0; }", "program"),
        ("df.groupby('city').mean()", "program"),
        ("```python\nx = 1\n```", "program"),
        ("<div class='a'><p>Hello</p></div>", "markup"),
    ],
)
def test_code_is_told(text: str, family: str) -> None:
    assert looks_like_code(text) == family


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Find the nearest branch and ask for help.",
        "Select a book from the shelf.",
        "Update your settings and try again.",
        "Make sure that the card is active; then call us.",
        "Sort the list by name, then read it aloud.",
        "Let me know = thanks!",
        "Yes.",
        "42",
        "The Eagle is a cheap coffee shop (near Burger King) in the city centre.",
        "Call `open()` with the path, and close the file when you have finished reading.",
        "Wir haben die Datei geprüft; sie ist in Ordnung.",
        "- first item\n- second item\n- third item",
        "Dear customer,\nyour parcel has left.\nKind regards,\nThe team",
        "12.5 EUR",
    ],
)
def test_prose_is_not_code(text: str) -> None:
    assert looks_like_code(text) is None
