"""The comparison as text: every figure there, no line too long, also with all the arms that are to come."""

from __future__ import annotations

import pytest

from hone.cli.comparison import comparison_lines, example_lines, proof_lines, verdict_lines
from hone.cli.tables import byte_size, duration, text_table
from hone.evaluation import ArmResult, decide, detect_shape, evaluate_arms
from hone.types import ArmName, JsonDict

REFERENCES = [f"The lamp number {number} is lit, and it stays so for the whole of the night." for number in range(12)]
ARMS: tuple[ArmName, ...] = ("base", "prompted", "few_shot", "retrieval", "tuned", "tuned_retrieval")


def _evaluation(arms: tuple[ArmName, ...]) -> JsonDict:
    results = [
        ArmResult(
            arm,
            [reference if (place + index) % 3 else "No." for index, reference in enumerate(REFERENCES)],
            [True] * len(REFERENCES),
            [12] * len(REFERENCES),
            bits=[10.0 + place] * len(REFERENCES),
            reference_bytes=[len(reference) for reference in REFERENCES],
        )
        for place, arm in enumerate(arms)
    ]
    prompts = [f"Which lamp is lit, {number}?" for number in range(len(REFERENCES))]
    return evaluate_arms(detect_shape(REFERENCES), REFERENCES, prompts, results).to_json()


@pytest.mark.parametrize("arms", [("base",), ("base", "tuned"), ARMS])
@pytest.mark.parametrize("columns", [60, 80, 100])
def test_tables_fit_and_nothing_is_shortened(arms: tuple[ArmName, ...], columns: int) -> None:
    evaluation = _evaluation(arms)
    lines = [str(line) for line in comparison_lines(evaluation, columns=columns)]
    text = "\n".join(lines)
    assert "…" not in text
    assert "..." not in text
    widest = max(lines, key=len)
    assert len(widest) <= max(columns, 80), widest
    for arm in arms:
        assert f"{evaluation['arms'][arm]['score']:.1f}" in text
    for difference in evaluation["differences"]:
        if difference["arm"].startswith("tuned") or difference == evaluation["differences"][0]:
            assert f"{difference['difference']:+.1f}" in text, "of the others only the report tells"


def test_which_direction_is_better_is_said_in_words() -> None:
    text = "\n".join(str(line) for line in comparison_lines(_evaluation(("base", "tuned")), columns=80))
    assert "chrF decides, higher is better" in text
    assert "Bits per byte (lower is better)" in text
    [line] = [line for line in text.splitlines() if line.startswith("  Bits per byte") and "+" in line]
    assert line.endswith(("worse", "undecided"))


def test_one_best_and_one_worst_row_stand_with_their_answers() -> None:
    evaluation = _evaluation(("base", "tuned"))
    text = "\n".join(str(line) for line in example_lines(evaluation, columns=80))
    best, worst = (evaluation["examples"][part][0] for part in ("best", "worst"))
    assert f"Largest gain: held-out row {best['row']}" in text
    assert f"Largest loss: held-out row {worst['row']}" in text
    for label in ("prompt", "expected", "base", "tuned"):
        assert text.count(f"\n  {label:<10}") == 2
    assert max(map(len, text.splitlines())) <= 80


def test_a_failed_invariant_comes_with_its_figure_and_what_to_do() -> None:
    holds = {"number": 1, "name": "a", "holds": True, "measured": 0, "bound": "0", "checked": "2 rows", "remedy": "r"}
    fails = {**holds, "number": 12, "name": "it ends", "holds": False, "measured": 0.5, "remedy": "train longer"}
    text = " ".join(" ".join(str(line) for line in proof_lines([holds, fails], columns=80)).split())
    assert "1 of 2 invariants hold" in text
    assert "12. it ends: measured 0.5, bound 0 (2 rows). What to do: train longer" in text


def test_the_verdict_says_what_was_not_measured() -> None:
    shape = detect_shape(REFERENCES)
    results = [
        ArmResult(arm, answers, [True] * 12, [3] * 12)
        for arm, answers in (("base", ["No."] * 12), ("tuned", REFERENCES))
    ]
    verdict = decide(evaluate_arms(shape, REFERENCES, ["?"] * 12, results)).to_json()  # type: ignore[arg-type]
    text = " ".join(" ".join(str(line) for line in verdict_lines(verdict, columns=80, reasons="--json")).split())
    assert text.startswith("Verdict Ship. ")
    assert "Beware: " in text
    assert "Not measured: retention, prompted, few-shot, retrieval" in text


def test_columns_are_counted_as_a_terminal_shows_them() -> None:
    lines = text_table([["name", "n"], ["日本", "1"], ["abc", "10"]], right=(1,))
    assert lines == ["name    n", "日本    1", "abc    10"]


@pytest.mark.parametrize(("seconds", "text"), [(0.44, "0.4 s"), (59.4, "59 s"), (125, "2:05 min"), (3725, "1:02:05 h")])
def test_durations_are_read_as_people_say_them(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_an_unknown_size_is_no_number() -> None:
    assert [byte_size(count) for count in (None, 5_000_000, 1_800_000_000)] == ["not known", "5 MB", "1.8 GB"]
