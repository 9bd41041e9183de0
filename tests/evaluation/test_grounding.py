"""Grounding on texts whose words were counted by hand."""

from __future__ import annotations

import pytest

from hone.evaluation import TaskShape
from hone.evaluation.grounding import measure_grounding, supported_share
from hone.retrieval import Passage

TEXT, SHORT = TaskShape("text", (), ""), TaskShape("short", (), "")


def passage(text: str, heading: str = "") -> Passage:
    return Passage("a.md", heading, 0, len(text), text)


RETURNS = passage("Lamps can be returned within 60 days. The label is free.", "Returns")
LOANS = passage("A loan lamp costs a deposit of £30, refunded within three working days.")


def test_supported_words_are_counted_without_stop_words() -> None:
    # returned, lamp, 60, day stand there; purple does not; the and within... are stop words or there
    share = supported_share("The purple lamp is returned in 60 days.", [RETURNS], "May I?")
    assert share == pytest.approx(4 / 5)
    assert supported_share("Purple?", [RETURNS], "Is it purple?") == 1.0
    assert supported_share("It is the.", [RETURNS], "x") is None


def test_facts_of_texts_are_numbers_that_stand_in_the_documents_and_not_in_the_question() -> None:
    references = ["You have 60 days, and 2 cats.", "£30, back in 3 days after 60.", "No number at all."]
    questions = ["How long?", "I waited 60 days, what is the deposit?", "Hm?"]
    answers = {"good": ["60 days", "30 and three", ""], "bad": ["90 days", "thirty; 3", "5"]}
    found = measure_grounding(TEXT, questions, references, answers, [RETURNS, LOANS], [[RETURNS], [RETURNS], [LOANS]])
    assert found["rows_with_facts"] == 2
    assert found["found"] == 0.5  # the second row was given the passage about returns
    assert found["arms"]["good"]["facts"] == 1.0
    assert found["arms"]["bad"]["facts"] == pytest.approx((0 / 1 + 1 / 2) / 2)


def test_the_fact_of_a_short_answer_is_all_of_it() -> None:
    references = ["the free label", "60 days", "a label", "nothing there"]
    references[0] = "The label is free"
    questions = ["What?", "Within 60 days?", "Which?", "Where?"]
    answers = {"one": ["I think the label is free!", "x", "labels", "y"]}
    found = measure_grounding(SHORT, questions, references, answers, [RETURNS], [[RETURNS]] * 4)
    assert found["rows_with_facts"] == 2  # the question of the second holds its answer; the fourth stands nowhere
    assert found["found"] == 1.0
    assert found["arms"]["one"]["facts"] == 0.5


def test_without_facts_nothing_is_claimed() -> None:
    found = measure_grounding(TEXT, ["?"], ["Yes."], {"a": [""]}, [RETURNS], [[]])
    assert found == {"rows_with_facts": 0, "found": None, "arms": {"a": {"supported": None, "facts": None}}}
