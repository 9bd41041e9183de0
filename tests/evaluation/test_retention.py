"""Retention in figures, worked by hand, and what the verdict makes of them."""

from __future__ import annotations

import dataclasses
import json
import math
from typing import Any

import pytest
from scipy import stats

from hone.cli.retention import retention_lines
from hone.evaluation.brittleness import Brittleness
from hone.evaluation.forgetting import with_retention
from hone.evaluation.probes.item import ProbeItem
from hone.evaluation.report_retention import retention_context
from hone.evaluation.retention import Likelihoods, Retention, judge_questions, judge_retention
from hone.evaluation.verdict import Decision, Verdict
from hone.types import Keep


def items(skill: str, count: int, *, choices: int = 4) -> list[ProbeItem]:
    answers = tuple(f"answer {letter}" for letter in "abcdefgh"[:choices])
    return [ProbeItem(skill, (f"{skill} {number}?",), answers, number % choices) for number in range(count)]


def first(count: int, of: int) -> list[bool]:
    return [place < count for place in range(of)]


def test_counts_by_hand() -> None:
    asked = items("facts", 20)
    base = first(16, 20)
    tuned = [*first(14, 16), True, False, False, False]  # two lost, one gained
    found = judge_questions("probes", asked, base, tuned)
    skill = found.skills[0]
    assert (skill.base, skill.tuned, skill.lost, skill.gained, skill.at_floor) == (16, 15, 2, 1, False)
    assert (found.base, found.tuned) == (80.0, 75.0)
    assert found.comparison is not None
    assert found.comparison.difference == pytest.approx(-5.0)
    shown = found.to_json()
    assert (shown["could_be_lost"], shown["lost"], shown["gained"], shown["counted"]) == (16, 2, 1, 20)
    assert [one["question"] for one in shown["examples"]] == ["facts 14?", "facts 15?"]
    assert shown["examples"][0]["right"] == asked[14].answers[14 % 4]


def test_a_skill_at_its_floor_is_shown_and_not_counted() -> None:
    asked = items("facts", 24) + items("guessed", 24)
    # 8 of 24 with 4 choices: P(X >= 8) = 0.235, no better than guessing
    assert stats.binom.sf(7, 24, 0.25) == pytest.approx(0.2338, abs=1e-3)
    base = first(20, 24) + first(8, 24)
    found = judge_questions("probes", asked, base, first(20, 24) + first(0, 24))
    by_name = {one.skill: one for one in found.skills}
    assert by_name["guessed"].at_floor
    assert by_name["guessed"].lost == 8
    assert not by_name["facts"].at_floor
    assert found.comparison is not None
    assert found.comparison.difference == 0.0
    assert found.to_json()["counted"] == 24


def test_the_floor_is_five_percent_by_the_binomial_test() -> None:
    def floor(right: int) -> bool:
        return judge_questions("p", items("s", 24), first(right, 24), first(right, 24)).skills[0].at_floor

    least = next(right for right in range(25) if stats.binom.sf(right - 1, 24, 0.25) < 0.05)
    assert floor(least - 1)
    assert not floor(least)


def test_an_exact_answer_has_no_floor_but_never() -> None:
    asked = [ProbeItem("say", (f"say {n}",), (f"{n}",), None) for n in range(5)]
    assert judge_questions("p", asked, first(1, 5), first(1, 5)).skills[0].at_floor is False
    nothing = judge_questions("p", asked, first(0, 5), first(2, 5))
    assert nothing.skills[0].at_floor
    assert (nothing.base, nothing.comparison) == (None, None)


def likelihoods(base: float, tuned: float, kl: float = 0.0, count: int = 40) -> Likelihoods:
    wiggle = [1 + 0.01 * math.sin(place) for place in range(count)]
    return Likelihoods(
        [base * 50 * one for one in wiggle], [tuned * 50 * one for one in wiggle], [50] * count,
        [kl * 10 * one for one in wiggle], [10] * count,
    )  # fmt: skip


def measured(
    keep: Keep = "balanced", *, base: list[bool] | None = None, tuned: list[bool] | None = None, kl: float = 0.0,
    text: float = 1.0, turned: int = 0, base_like: int = 0,
) -> Retention:  # fmt: skip
    asked = items("facts", 200)
    before = base or first(150, 200)
    questions = judge_questions("probes", asked, before, tuned or before)
    return judge_retention(
        keep, questions=[questions], own_answers=likelihoods(0.2, 0.2, kl), general_text=likelihoods(1.0, text),
        brittleness=Brittleness(64, tuple(range(turned)), base_like),
    )  # fmt: skip


def test_an_untouched_model_loses_nothing() -> None:
    found = measured("strict")
    assert not found.forgot
    shown = found.to_json()
    assert shown["kept"] is True
    assert shown["probes"]["interval"] == [0.0, 0.0]
    assert (shown["own_answers"]["kl_nats"], shown["general_text"]["difference"]) == (0.0, 0.0)


def test_a_base_that_only_guesses_has_nothing_to_lose() -> None:
    found = measured(base=first(50, 200), tuned=first(40, 200)).to_json()
    assert (found["nothing_to_lose"], found["kept"], found["probes"]["base"]) == (True, True, None)
    printed = "\n".join(str(line) for line in retention_lines(found | {"strength": None}, columns=100))
    assert "nothing to lose" in printed
    assert "domain: kept" not in printed
    context = retention_context(found)
    assert context is not None
    assert context["finding"][1].startswith("Nothing to lose")
    assert measured().to_json()["nothing_to_lose"] is False
    lost = measured(base=first(50, 200), text=1.2).to_json()
    assert lost["kept"] is False
    assert "lost beyond" in "".join(str(line) for line in retention_lines(lost | {"strength": None}, columns=100))


def test_lost_questions_are_told_with_their_figures() -> None:
    found = measured("balanced", tuned=first(110, 200))
    assert found.forgot
    assert "-20.0 points on general questions, from 75.0 to 55.0" in found.losses[0]
    assert "at most 4 may be lost" in found.losses[0]
    assert not measured("off", tuned=first(110, 200)).forgot


def test_a_loss_within_chance_is_no_loss() -> None:
    tuned = first(150, 200)
    for place in (*range(0, 12), *range(180, 186)):  # 12 lost, 6 gained: -3 points, p about 0.24
        tuned[place] = not tuned[place]
    found = measured("strict", tuned=tuned)
    assert found.questions[0].comparison is not None
    assert found.questions[0].comparison.difference == pytest.approx(-3.0)
    assert not found.forgot


def test_questions_lost_count_where_the_whole_interval_is_beyond_the_bound() -> None:
    found = measured("balanced", tuned=first(139, 200))  # -5.5 points, shown to be lost, perhaps not by more than 4
    assert found.questions[0].comparison is not None
    assert found.questions[0].comparison.different
    assert not found.forgot
    assert measured("strict", tuned=first(139, 200)).forgot
    assert measured("balanced", tuned=first(130, 200)).forgot


def test_more_texts_could_change_a_finding_near_a_bound() -> None:
    assert measured("balanced", kl=1.0).borderline
    assert not measured("balanced", kl=0.5).borderline
    assert not measured("balanced", kl=2.0).borderline
    assert not measured("off", kl=1.0).borderline


def test_likelihoods_have_their_bounds() -> None:
    assert measured("balanced", kl=0.9).losses == ()
    assert "nats a token away from the base" in measured("balanced", kl=1.2).losses[0]
    assert "nats a token away" in measured("strict", kl=0.4).losses[0]
    assert measured("balanced", text=1.04).losses == ()
    assert "+8.0% bits per byte on general text" in measured("balanced", text=1.08).losses[0]


def test_kl_is_a_mean_over_tokens() -> None:
    found = Likelihoods([1.0, 1.0], [2.0, 4.0], [1, 3], [1.0, 5.0], [10, 2])
    shown = judge_retention("off", questions=[], own_answers=found, general_text=None, brittleness=None).to_json()
    assert shown["own_answers"]["kl_nats"] == pytest.approx(6.0 / 12)
    assert shown["own_answers"]["base"] == pytest.approx(2.0 / 4)
    assert shown["own_answers"]["tuned"] == pytest.approx(6.0 / 4)
    assert (shown["general_text"], shown["probes"], shown["kept"]) == (None, None, None)


def test_the_object_is_plain_json() -> None:
    shown = measured("balanced", tuned=first(110, 200), turned=2).to_json()
    assert json.loads(json.dumps(shown, allow_nan=False)) == shown


def verdict(decision: Decision) -> Verdict:
    missing: tuple[dict[str, Any], ...] = ({"what": "retention", "reason": "r"}, {"what": "prompted", "reason": "p"})
    return Verdict(
        decision, "It is better.", {"rows": 60}, ("a warning",), missing, 3 if decision == "do_not_ship" else 0
    )


@pytest.mark.parametrize("decision", ["ship", "not_enough_evidence"])
def test_what_forgot_is_not_shipped(decision: Decision) -> None:
    found = with_retention(verdict(decision), measured(tuned=first(110, 200)))
    assert (found.decision, found.exit_code) == ("do_not_ship", 3)
    assert found.reason.startswith("It forgot what the base could do: -20.0 points")
    assert found.reason.endswith("In its domain: It is better.")
    assert found.numbers["retention"] == {"keep": "balanced", "kept": False}


def test_no_tuned_arm_is_named_where_it_forgot() -> None:
    chosen = dataclasses.replace(verdict("ship"), numbers={"rows": 60, "arm": "tuned_retrieval"})
    assert with_retention(chosen, measured(tuned=first(110, 200))).numbers["arm"] is None
    assert with_retention(chosen, measured()).numbers["arm"] == "tuned_retrieval"
    prompted = dataclasses.replace(verdict("prompting_is_enough"), numbers={"arm": "prompted"})
    found = with_retention(prompted, measured(tuned=first(110, 200)))
    assert (found.decision, found.numbers["arm"], found.exit_code) == ("prompting_is_enough", "prompted", 0)


def test_what_kept_is_shipped_and_retention_was_measured() -> None:
    found = with_retention(verdict("ship"), measured())
    assert (found.decision, found.exit_code) == ("ship", 0)
    assert found.reason == (
        "It is better. What the base could do elsewhere was kept: of general questions it answers 75% rightly, "
        "the base 75%."
    )
    assert [one["what"] for one in found.not_measured] == ["prompted"]
    assert found.warnings == ("a warning",)
    assert found.numbers["retention"] == {"keep": "balanced", "kept": True}


def test_keep_off_changes_no_decision() -> None:
    found = with_retention(verdict("ship"), measured("off", tuned=first(110, 200)))
    assert (found.decision, found.numbers["retention"]["kept"]) == ("ship", None)
    assert found.reason == "It is better.", "measured, and not judged"


def test_a_model_that_is_worse_anyway_gets_a_warning() -> None:
    found = with_retention(verdict("do_not_ship"), measured(tuned=first(110, 200)))
    assert found.reason == "It is better."
    assert any("It forgot: -20.0 points" in warning for warning in found.warnings)


def test_turned_answers_are_a_warning_where_the_measure_can_tell() -> None:
    def warned(**given: int) -> bool:
        return any("turned into" in one for one in with_retention(verdict("ship"), measured(**given)).warnings)

    assert warned(turned=10)
    assert not warned(turned=3)
    assert not warned(turned=10, base_like=30)


def test_a_file_of_questions_is_judged_by_its_name() -> None:
    asked = items("arc", 200)
    mine = judge_questions("arc.jsonl", asked, first(150, 200), first(100, 200))
    found = judge_retention("balanced", questions=[mine], own_answers=None, general_text=None, brittleness=None)
    assert "the questions of arc.jsonl" in found.losses[0]
