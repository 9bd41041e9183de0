"""Answers to general prompts that turned into answers of the domain, on planted cases."""

from __future__ import annotations

from hone.evaluation.brittleness import measure_brittleness
from hone.evaluation.probes.suite import general_texts

# ordinary prose stands for what a base answers to general prompts
BASE = [text.split(". ")[0] + "." for text in general_texts()[:40]]
OTHERS = [text.split(". ")[1] + "." for text in general_texts()[:40]]
SUPPORT = [
    f"Thanks for reaching out! I have checked order {number}, and it will ship tomorrow. Anything else, just shout!"
    for number in range(12)
]
LABELS = ["spam", "ham"] * 10


def test_other_prose_has_not_turned() -> None:
    found = measure_brittleness(BASE, OTHERS, SUPPORT)
    assert found is not None
    assert found.prompts == 40
    assert found.turned == ()
    assert found.base_like_domain == 0


def test_planted_domain_answers_are_counted() -> None:
    answers = list(OTHERS)
    for place in (3, 17, 30):
        answers[place] = "Thanks for reaching out! I have checked your order, and it will ship soon."
    found = measure_brittleness(BASE, answers, SUPPORT)
    assert found is not None
    assert found.turned == (3, 17, 30)


def test_labels_are_seen() -> None:
    answers = ["ham" if place % 4 == 0 else text for place, text in enumerate(OTHERS)]
    found = measure_brittleness(BASE, answers, LABELS)
    assert found is not None
    assert found.turned == tuple(range(0, 40, 4))


def test_the_bases_own_answers_have_not_turned_by_definition() -> None:
    found = measure_brittleness(BASE, BASE, OTHERS)
    assert found is not None
    assert found.turned == ()


def test_a_domain_of_ordinary_prose_cannot_be_told_and_says_so() -> None:
    found = measure_brittleness(BASE, OTHERS, BASE)
    assert found is not None
    assert found.base_like_domain > 20


def test_too_few_reference_answers_are_no_domain() -> None:
    assert measure_brittleness(BASE, OTHERS, SUPPORT[:7]) is None


def test_an_empty_answer_is_no_answer_of_the_domain() -> None:
    found = measure_brittleness(BASE, [""] * 40, SUPPORT)
    assert found is not None
    assert found.turned == ()
