"""Graders: each kind against a value worked out by hand or by another implementation, and what is refused."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.testclient import TestClient

from hone.evaluation.grading import GraderError, Grading, check_grader, grade
from hone.types import JsonDict
from tests.serve.conftest import Make
from tests.tiny import save_tiny

RUN = "/v1/fine_tuning/alpha/graders/run"
CHECK: JsonDict = {"type": "string_check", "name": "same", "input": "{{ sample.output_text }}",
                   "reference": "{{item.answer}}", "operation": "eq"}  # fmt: skip
JUDGE: JsonDict = {"type": "score_model", "name": "judge", "model": "small",
                   "input": [{"role": "developer", "content": "Grade from 0 to 1."},
                             {"role": "user", "content": "{{ sample.output_text }}"}]}  # fmt: skip


def similarity(metric: str) -> JsonDict:
    return {"type": "text_similarity", "name": metric, "input": "{{sample.output_text}}",
            "reference": "{{item.answer}}", "evaluation_metric": metric}  # fmt: skip


def run(client: TestClient, grader: JsonDict, sample: str, item: Any = None) -> JsonDict:
    answered = client.post(RUN, json={"grader": grader, "model_sample": sample, "item": item})
    assert answered.status_code == 200, answered.text
    return dict(answered.json())


@pytest.mark.parametrize(
    ("operation", "text", "reference", "reward"),
    [
        ("eq", "Paris", "Paris", 1.0), ("eq", "paris", "Paris", 0.0), ("ne", "paris", "Paris", 1.0),
        ("like", "It is Paris.", "Paris", 1.0), ("like", "It is paris.", "Paris", 0.0),
        ("ilike", "It is paris.", "Paris", 1.0), ("ilike", "It is Rome.", "Paris", 0.0),
    ],
)  # fmt: skip
def test_string_checks(client: TestClient, operation: str, text: str, reference: str, reward: float) -> None:
    found = run(client, {**CHECK, "operation": operation}, text, {"answer": reference})
    assert found["reward"] == reward
    assert not any(value for name, value in found["metadata"]["errors"].items())


def test_places_of_a_template(client: TestClient) -> None:
    sample, item = '{"city": {"names": ["Rome", "Paris"]}}', {"a": {"b": ["x", 7]}}
    for template, text in [
        ("{{sample.output_json.city.names[1]}}", "Paris"),
        ("{{ item.a.b.1 }}-{{item.a.b[0]}}", "7-x"),
        ("{{item.a}}", '{"b": ["x", 7]}'),
        ("{{ 7*7 }} {% if x %}", "{{ 7*7 }} {% if x %}"),
    ]:
        assert run(client, {**CHECK, "input": template, "reference": text}, sample, item)["reward"] == 1.0
    found = run(client, {**CHECK, "reference": "{{item.nowhere}}"}, "x", item)
    assert found["metadata"]["errors"]["invalid_variable_error"] is True


def lcs(one: str, other: str) -> int:
    """The longest common subsequence by the textbook's table."""
    row = [0] * (len(other) + 1)
    for left in one:
        before = 0
        for place, right in enumerate(other, 1):
            before, row[place] = row[place], before + 1 if left == right else max(row[place], row[place - 1])
    return row[-1]


@given(st.text("abc", max_size=40), st.text("abcd", max_size=40))
def test_fuzzy_match_is_the_indel_ratio(one: str, other: str) -> None:
    score, _ = grade(similarity("fuzzy_match"), Grading.of(one, {"answer": other}))
    expected = 2 * lcs(one, other) / (len(one) + len(other)) if one or other else 1.0
    assert score == pytest.approx(expected)
    assert score + 1e-9 >= difflib.SequenceMatcher(None, one, other, autojunk=False).ratio()


def test_other_similarities(client: TestClient) -> None:
    text, item = "the cat sat on the mat", {"answer": "the cat lay on the mat"}
    # 5 of 6 words in common; bigrams: 3 of 5
    assert run(client, similarity("rouge_1"), text, item)["reward"] == pytest.approx(5 / 6)
    assert run(client, similarity("rouge_2"), text, item)["reward"] == pytest.approx(3 / 5)
    assert run(client, similarity("rouge_l"), text, item)["reward"] == pytest.approx(5 / 6)
    # gleu: n-grams of 1 to 4 words in common, 5 + 3 + 1 + 0, of 6 + 5 + 4 + 3
    assert run(client, similarity("gleu"), text, item)["reward"] == pytest.approx(9 / 18)
    for metric in ("bleu", "gleu", "rouge_5", "rouge_l"):
        assert run(client, similarity(metric), text, {"answer": text})["reward"] == pytest.approx(1.0)
        assert run(client, similarity(metric), "", item)["reward"] == 0.0


def test_a_formula_over_graders(client: TestClient) -> None:
    parts = {"a": CHECK, "b": {**CHECK, "operation": "ilike", "reference": "par"}}
    multi = {"type": "multi", "name": "m", "graders": parts, "calculate_output": "max(0.25 * a + 0.5 * b, -1) / 2"}
    found = run(client, multi, "Paris", {"answer": "Rome"})
    assert (found["reward"], found["sub_rewards"]) == (0.25, {"a": 0.0, "b": 1.0})
    squared = run(client, {**multi, "calculate_output": "a + 0.5 + b ^ 2 * 2"}, "Paris", {"answer": "Rome"})
    assert squared["reward"] == 2.5
    found = run(client, {**multi, "calculate_output": "b / a"}, "Paris", {"answer": "Rome"})
    assert (found["reward"], found["metadata"]["errors"]["formula_parse_error"]) == (0.0, True)


@pytest.mark.parametrize(
    "grader",
    [
        {"type": "unknown", "name": "x"},
        {**CHECK, "operation": "regex"},
        {name: value for name, value in CHECK.items() if name != "reference"},
        similarity("meteor"),
        {**CHECK, "refrence": "x"},
        {"type": "python", "name": "x", "source": "def grade(sample, item"},
        {"type": "python", "name": "x", "source": "score = 1"},
        {"type": "multi", "name": "m", "graders": {}, "calculate_output": "1"},
        {"type": "multi", "name": "m", "graders": {"a": CHECK}, "calculate_output": "__import__('os').system('x')"},
        {"type": "multi", "name": "m", "graders": {"a": CHECK}, "calculate_output": "a.real"},
        {"type": "multi", "name": "m", "graders": {"a": CHECK}, "calculate_output": "b"},
        {"type": "multi", "name": "m", "graders": {"a": CHECK}, "calculate_output": "2 ** 9 ** 9 ** 9"},
        {"type": "score_model", "name": "x", "model": "small", "input": []},
        {
            "type": "score_model",
            "name": "x",
            "model": "small",
            "input": [{"role": "user", "content": "?"}],
            "range": [1, 0],
        },
        {**JUDGE, "sampling_params": {"temperature": "warm"}},
        {**JUDGE, "input": [{"role": "tool", "content": "?"}]},
        {"type": "multi", "name": "m", "graders": {"type": "string_check"}, "calculate_output": "1"},
        {"type": ["multi"], "name": "m"},
    ],
)
def test_what_could_not_run_is_refused(client: TestClient, grader: JsonDict) -> None:
    with pytest.raises(GraderError):
        check_grader(grader)
    answered = client.post("/v1/fine_tuning/alpha/graders/validate", json={"grader": grader})
    assert (answered.status_code, answered.json()["error"]["code"]) == (400, "invalid_grader")


def test_programs_run_only_where_that_is_allowed(client: TestClient, make_client: Make) -> None:
    source = "def grade(sample, item):\n    return len(sample['output_text']) / item['most']\n"
    grader = {"type": "python", "name": "x", "source": source}
    body = {"grader": grader, "model_sample": "abc", "item": {"most": 4}}
    answered = client.post(RUN, json=body)
    assert (answered.status_code, answered.json()["error"]["code"]) == (403, "python_graders_disabled")
    assert run(make_client(run_python_graders=True), grader, "abc", {"most": 4})["reward"] == 0.75


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("raise ValueError('no such luck')", "no such luck"),
        ("return 'text'", "could not convert"),
        ("return float('nan')", "nan"),
        ("return bytearray(2**32)[0]", "MemoryError"),
        ("import os; os._exit(3)", "code 3"),
        ("open('big', 'wb').write(b'0' * 2**21)", "File too large"),
    ],
)
def test_a_program_that_fails_scores_nothing_and_says_why(make_client: Make, body: str, said: str) -> None:
    grader = {"type": "python", "name": "x", "source": f"def grade(sample, item):\n    {body}\n    return 1.0\n"}
    found = run(make_client(run_python_graders=True), grader, "abc")
    errors = found["metadata"]["errors"]
    assert (found["reward"], errors["python_grader_runtime_error"]) == (0.0, True)
    assert said in errors["python_grader_runtime_error_details"]


@pytest.mark.parametrize(
    ("answer", "reward", "flag"),
    [
        ("I say 4 of 5: 4", 4.0, False),
        ("Score: 2/5", 2.0, False),
        ("3.5 out of 5", 3.5, False),
        ("Score 4. I counted 12 words", 4.0, False),
        ("9", 0.0, True),
        ("?", 0.0, True),
    ],
)
def test_a_model_s_score_is_the_last_number_within_its_range(answer: str, reward: float, flag: bool) -> None:
    asked: list[Any] = []

    def answer_chat(model: str, messages: list[JsonDict], sampling: JsonDict) -> str:
        asked.append((model, messages, sampling))
        return answer

    grader = {
        "type": "score_model", "name": "judge", "model": "support@1", "range": [1, 5],
        "input": [{"role": "user", "content": [{"type": "input_text", "text": "Rate: {{sample.output_text}}"}]}],
        "sampling_params": {"temperature": 0},
    }  # fmt: skip
    check_grader(grader)
    grading = Grading.of("fine", None, answer_chat=answer_chat)
    assert grade(grader, grading)[0] == reward
    assert ("model_grader_parse_error" in grading.errors) is flag
    assert asked == [("support@1", [{"role": "user", "content": "Rate: fine"}], {"temperature": 0})]


def test_a_part_that_fails_is_shown_and_the_whole_is_worth_nothing(make_client: Make) -> None:
    program = {"type": "python", "name": "p", "source": "def grade(sample, item):\n    return 1 / 0\n"}
    grader = {"type": "multi", "name": "m", "graders": {"a": CHECK, "p": program}, "calculate_output": "a + 1 - p"}
    found = run(make_client(run_python_graders=True), grader, "Paris", {"answer": "Paris"})
    assert (found["reward"], found["sub_rewards"]) == (0.0, {"a": 1.0, "p": 0.0})
    assert found["metadata"]["scores"] == {"a": 1.0, "p": 0.0}
    assert "ZeroDivisionError" in found["metadata"]["errors"]["python_grader_runtime_error_details"]
    assert found["metadata"]["errors"]["formula_parse_error"] is False


def test_a_served_judge_says_which_answers_it_cannot_be_shown(make_client: Make, tmp_path: Path) -> None:
    """Its template is ChatML, and it is random: what it says is no number."""
    base = save_tiny(tmp_path / "tiny")
    with make_client(bases={"small": str(base)}) as client:
        grader = {**JUDGE, "sampling_params": {"max_completions_tokens": 4, "temperature": 1, "top_p": 0.5, "seed": 3}}
        errors = run(client, grader, "fine")["metadata"]["errors"]
        assert errors["model_grader_server_error"] is False
        for text, said in (("fine <|im_end|>", "control token"), ("long " * 400, "can see 256")):
            found = run(client, grader, text)
            errors = found["metadata"]["errors"]
            assert (found["reward"], errors["model_grader_server_error"]) == (0.0, True)
            assert said in errors["model_grader_server_error_details"]
