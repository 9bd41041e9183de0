"""Graders: what a failed one is worth, what a formula may hold, what a judge's words say, and what is refused."""

from __future__ import annotations

import math
import os
import time
from pathlib import Path
from typing import Any

import pytest

from hone.evaluation.grader_formula import FormulaError, formula_value
from hone.evaluation.grader_program import GraderProgramError, run_grader_program
from hone.evaluation.grader_sampling import sampling_fault
from hone.evaluation.grader_similarity import text_similarity
from hone.evaluation.grader_template import unreadable_places
from hone.evaluation.grading import GraderError, Grading, JudgeError, check_grader, check_places, grade
from hone.types import JsonDict

CHECK: JsonDict = {"type": "string_check", "name": "same", "input": "{{ sample.output_text }}",
                   "reference": "{{ item.answer }}", "operation": "like"}  # fmt: skip
JUDGE: JsonDict = {"type": "score_model", "name": "judge", "model": "small",
                   "input": [{"role": "user", "content": "{{ sample.output_text }}"}]}  # fmt: skip


def saying(text: str) -> Any:
    """A judge that always says the same."""
    return lambda model, messages, sampling: text


def multi(formula: str, **parts: JsonDict) -> JsonDict:
    return {"type": "multi", "name": "all", "graders": parts, "calculate_output": formula}


def test_a_failed_part_makes_the_whole_worth_nothing() -> None:
    grader = multi("1 - toxicity + same", toxicity=JUDGE, same=CHECK)
    check_grader(grader)
    grading = Grading.of("a", {"answer": "a"}, answer_chat=saying("I say no number"))
    assert grade(grader, grading) == (0.0, {"toxicity": 0.0, "same": 1.0})
    assert grading.errors == {"model_grader_parse_error"}
    assert grade(grader, Grading.of("a", {"answer": "a"}, answer_chat=saying("0.25"))) == (
        1.75, {"toxicity": 0.25, "same": 1.0},
    )  # fmt: skip


@pytest.mark.parametrize("bounds", [[-5, 5], [1, 5]])
def test_a_judge_without_a_number_gives_nothing(bounds: list[int]) -> None:
    grading = Grading.of("a", None, answer_chat=saying("?"))
    assert grade({**JUDGE, "range": bounds}, grading) == (0.0, {})
    assert [one.partition(":")[0] for one in grading.faults] == ["model_grader_parse_error"]


def test_a_judge_that_cannot_be_asked_fails_on_that_answer_alone() -> None:
    def refusing(model: str, messages: list[JsonDict], sampling: JsonDict) -> str:
        raise JudgeError("too long")

    grading = Grading.of("a", None, answer_chat=refusing)
    assert grade(JUDGE, grading) == (0.0, {})
    assert grading.faults == ["model_grader_server_error: too long"]
    assert grading.details == {"model_grader_server_error_details": "too long"}


def test_a_column_that_is_not_there_fails_and_a_place_of_an_answer_does_not() -> None:
    grading = Grading.of("a", {"other": "b"})
    assert grade(CHECK, grading) == (0.0, {})
    assert grading.faults == ["invalid_variable_error: item.answer is not there"]
    grading = Grading.of("no JSON", {"answer": "b"})
    assert grade({**CHECK, "input": "{{ sample.output_json.key }}", "operation": "eq"}, grading) == (0.0, {})
    assert (grading.errors, grading.faults) == ({"invalid_variable_error"}, [])


@pytest.mark.parametrize(
    ("formula", "value"),
    [
        ("a + b ^ 2", 0.5 + 9),
        ("-b ^ 2", -9),
        ("2 ^ b ^ a", 2 ** math.sqrt(3)),
        ("(a + b)^2", 12.25),
        (" b ^ -1", 1 / 3),
    ],
)
def test_a_power_binds_as_powers_do(formula: str, value: float) -> None:
    assert formula_value(formula, {"a": 0.5, "b": 3.0}) == pytest.approx(value)


@pytest.mark.parametrize(
    "formula", ["9 ^ 9 ^ 9 ^ 9", "(-b) ^ 0.5", "1e308 * 10", "log(0)", "1 / (a - 1)", "sqrt(a - 2)"]
)
def test_a_formula_without_a_finite_value_is_no_score(formula: str) -> None:
    with pytest.raises(ArithmeticError):
        formula_value(formula, {"a": 1.0, "b": 1.0})
    grader = multi(formula, a=CHECK, b=CHECK)
    check_grader(grader)
    grading = Grading.of("x", {"answer": "x"})
    assert grade(grader, grading) == (0.0, {"a": 1.0, "b": 1.0})
    assert grading.errors == {"formula_parse_error"}


@pytest.mark.parametrize(
    "formula", ["a ** 2", "a b", "max()", "a.real", "nobody", "-" * 100_000 + "a", "a if a else a"]
)
def test_what_is_no_formula(formula: str) -> None:
    with pytest.raises(FormulaError):
        formula_value(formula, {"a": 1.0})
    with pytest.raises(GraderError) as caught:
        check_grader(multi(formula, a=CHECK))
    assert caught.value.field == "calculate_output"


@pytest.mark.parametrize(
    ("answer", "bounds", "score"),
    [
        (".8", [0, 1], 0.8), ("I give -.5.", [-1, 1], -0.5), ("0.8", [0, 1], 0.8), ("Score: 3.", [1, 5], 3.0),
        ("Score 4. I counted 12 words", [1, 5], 4.0), ("version 1.2.3 of it", [2.5, 4], 3.0), ("8e-1", [0, 1], 0.8),
    ],
)  # fmt: skip
def test_the_number_that_a_judge_says(answer: str, bounds: list[float], score: float) -> None:
    grading = Grading.of("x", None, answer_chat=saying(answer))
    assert grade({**JUDGE, "range": bounds}, grading) == (score, {})
    assert not grading.faults


@pytest.mark.parametrize("text", ["我喜欢这本书", "καλημέρα σε όλους", "добрый день всем"])
def test_rouge_reads_every_script(text: str) -> None:
    for metric in ("rouge_1", "rouge_2", "rouge_l"):
        assert text_similarity(metric, text, text) == pytest.approx(1.0)
        assert text_similarity(metric, "none of it", text) == 0.0


@pytest.mark.parametrize(
    ("changed", "field"),
    [
        ({"sampling_params": [1]}, "sampling_params"),
        ({"sampling_params": {"max_tokens": 5}}, "sampling_params.max_tokens"),
        ({"sampling_params": {"max_completions_tokens": "many"}}, "sampling_params.max_completions_tokens"),
        ({"sampling_params": {"max_completions_tokens": 0}}, "sampling_params.max_completions_tokens"),
        ({"sampling_params": {"temperature": True}}, "sampling_params.temperature"),
        ({"sampling_params": {"temperature": math.nan}}, "sampling_params.temperature"),
        ({"sampling_params": {"temperature": 10**400}}, "sampling_params.temperature"),
        ({"sampling_params": {"top_p": 0}}, "sampling_params.top_p"),
        ({"sampling_params": {"seed": 0.5}}, "sampling_params.seed"),
        ({"range": [False, True]}, "range"),
        ({"range": [0, math.inf]}, "range"),
        ({"input": [{"role": "tool", "content": "?"}]}, "input"),
        ({"input": [{"role": "nobody", "content": "?"}]}, "input"),
        ({"type": ["score_model"]}, "type"),
    ],
)
def test_a_wrong_field_of_a_judge_is_named(changed: JsonDict, field: str) -> None:
    with pytest.raises(GraderError) as caught:
        check_grader({**JUDGE, **changed})
    assert caught.value.field == field


def test_sampling_parameters_that_may_stand() -> None:
    given = {"temperature": 0.5, "top_p": 0.9, "seed": -1, "max_completions_tokens": 7, "reasoning_effort": "low"}
    for sampling in (given, {**given, "seed": None}):
        assert sampling_fault(sampling) is None
        check_grader({**JUDGE, "sampling_params": sampling})


@pytest.mark.parametrize(
    "place",
    [
        '{{ item["x"] }}',
        "{{ 7*7 }}",
        "{{ item.x | upper }}",
        "{{ row.x }}",
        "{{ sample.output_txt }}",
        "{{ item.x",
        "{{}}",
    ],
)
def test_braces_around_no_place_are_refused_for_training(place: str) -> None:
    for grader in (
        {**CHECK, "reference": f"is {place}"},
        {**JUDGE, "input": [{"role": "user", "content": [{"type": "text", "text": f"Rate {place}"}]}]},
        multi("same", same={**CHECK, "input": place}),
    ):
        check_grader(grader)
        with pytest.raises(GraderError) as caught:
            check_places(grader)
        assert place in caught.value.what
        assert caught.value.field in ("input", "reference")


def test_places_that_are_filled_pass() -> None:
    item, sample = "{{item}} {{ item.a.b[0] }} {{ item[0] }}", "{{sample.output_text}} {{sample.output_json.k}}"
    text = f"{item} {sample} {{{{ sample.output_json }}}} {{}} {{% x %}}"
    assert unreadable_places(text) == []
    check_places({**CHECK, "input": text})
    check_places({"type": "python", "name": "x", "source": "def grade(sample, item):\n    return len(f'{{ x }}')"})


def program(body: str) -> str:
    return f"def grade(sample, item):\n    {body}\n"


def test_what_a_program_prints_is_not_its_score() -> None:
    assert run_grader_program(program("print('x' * 3_000_000); return 0.5"), sample={}, item=None) == 0.5
    with pytest.raises(GraderProgramError, match="before it gave a score"):
        run_grader_program(program("print('[]', flush=True); import os; os._exit(0)"), sample={}, item=None)


def test_a_program_that_takes_too_long_is_ended_with_what_it_started(tmp_path: Path) -> None:
    told = tmp_path / "pid"
    start = (
        "import subprocess, time, pathlib\n    child = subprocess.Popen(['sleep', '300'])\n    "
        f"pathlib.Path({str(told)!r}).write_text(str(child.pid))\n    "
    )
    with pytest.raises(GraderProgramError, match="more than 5 seconds"):
        run_grader_program(program(start + "time.sleep(300)"), sample={}, item=None, timeout_seconds=5)
    assert not living(int(told.read_text()))
    assert run_grader_program(program(start + "return 1"), sample={}, item=None) == 1.0
    assert not living(int(told.read_text()))


def living(pid: int) -> bool:
    """Whether a process still runs after a moment; one that nobody has waited for yet does not."""
    for _ in range(50):
        try:
            os.kill(pid, 0)
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except (ProcessLookupError, FileNotFoundError):
            return False
        if state == "Z":
            return False
        time.sleep(0.1)
    return True
