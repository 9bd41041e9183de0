"""The suite: as many questions as promised, each with one right answer, true to its table, always the same."""

from __future__ import annotations

import random
import re

import pytest

from hone.evaluation.probes import made, suite
from hone.evaluation.probes.item import ProbeItem
from hone.evaluation.probes.suite import MOST_PER_SKILL, SKILLS, general_prompts, general_texts, probe_suite
from hone.evaluation.probes.tables import lines_of, table_of

COLUMNS = {
    "countries.tsv": 3,
    "elements.tsv": 2,
    "animals.tsv": 2,
    "opposites.tsv": 2,
    "verbs.tsv": 3,
    "plurals.tsv": 3,
}


def right_answers(skill: str) -> dict[str, str]:
    return {
        item.prompts[0]: item.answers[item.right or 0] for item in probe_suite(MOST_PER_SKILL) if item.skill == skill
    }


def test_the_default_suite_is_large_enough() -> None:
    items = probe_suite(24)
    assert len(items) >= 400
    assert len({item.skill for item in items}) >= 12
    counts = [sum(item.skill == skill for item in items) for skill in SKILLS]
    assert set(counts) == {24}


def test_the_same_seed_gives_the_same_suite_and_another_one_another() -> None:
    first = probe_suite(5, seed=3)
    suite._whole_skill.cache_clear()
    assert probe_suite(5, seed=3) == first
    assert probe_suite(5, seed=4) != first


def test_a_smaller_suite_is_the_beginning_of_a_larger_one() -> None:
    small, large = probe_suite(3), probe_suite(7)
    for skill in SKILLS:
        mine = [item for item in small if item.skill == skill]
        assert [item for item in large if item.skill == skill][:3] == mine


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_every_question_stands_once_and_has_one_right_answer_among_different_ones(seed: int) -> None:
    items = probe_suite(MOST_PER_SKILL, seed=seed)
    # two skills ask the same of different sentences; elsewhere the question itself is different
    of_sentences = ("word_order", "agreement")
    keys = {(one.skill, one.prompts, tuple(sorted(one.answers)) if one.skill in of_sentences else ()) for one in items}
    assert len(keys) == len(items)
    for item in items:
        assert len(set(item.answers)) == len(item.answers), item
        assert item.right is None or 0 <= item.right < len(item.answers)
        assert item.right is None or len(item.answers) >= 2


def test_the_right_answer_stands_at_every_place() -> None:
    places = [item.right for item in probe_suite(24) if item.right is not None and len(item.answers) == 4]
    shares = [places.count(place) / len(places) for place in range(4)]
    assert min(shares) > 0.15, shares


def test_tables_have_their_columns_and_no_key_twice() -> None:
    for name, columns in COLUMNS.items():
        rows = table_of(name)
        assert {len(row) for row in rows} == {columns}, name
        keys = [row[0] for row in rows]
        assert len(set(keys)) == len(keys), name
        assert len(rows) >= MOST_PER_SKILL, name
    for name in ("uses.tsv", "causes.tsv", "properties.tsv"):
        for row in table_of(name):
            assert len(row) == 5, row
            assert len(set(row)) == 5, row
        assert len(table_of(name)) >= MOST_PER_SKILL


def test_no_word_has_two_opposites() -> None:
    words = [word for row in table_of("opposites.tsv") for word in row]
    assert len(set(words)) == len(words)


def test_answers_are_those_of_the_tables() -> None:
    capitals = {country: capital for country, capital, _ in table_of("countries.tsv")}
    for prompt, answer in right_answers("capitals").items():
        country = prompt.removeprefix("What is the capital of ").removesuffix("?")
        assert answer == f"The capital of {country} is {capitals[country]}."
    continents = {country: continent for country, _, continent in table_of("countries.tsv")}
    for prompt, answer in right_answers("continents").items():
        country = prompt.removeprefix("On which continent is ").removesuffix("?")
        assert answer == f"{country} is in {continents[country]}."
    past = {verb: form for verb, form, _ in table_of("verbs.tsv")}
    for prompt, answer in right_answers("past_tense").items():
        verb = prompt.split('"')[1]
        assert answer.split('"')[3] == past[verb]
    kinds = dict(table_of("animals.tsv"))
    for prompt, answer in right_answers("animals").items():
        animal = re.fullmatch(r"Is an? (\w+) a mammal.*", prompt)
        assert animal is not None
        assert answer.split()[-1] == f"{kinds[animal[1]]}."


def test_numbers_are_right() -> None:
    checked = 0
    for prompt, answer in right_answers("arithmetic").items():
        first, second = map(int, re.findall(r"\d+", prompt))
        told = int(re.findall(r"\d+", answer)[0])
        signs = {"plus": first + second, "minus": first - second, "times": first * second}
        word = next((word for word in signs if word in prompt), None)
        assert told == (max(first, second) if word is None else signs[word]), prompt
        checked += 1
    assert checked == MOST_PER_SKILL


def test_the_answer_of_a_reading_stands_in_its_text() -> None:
    for prompt, answer in right_answers("reading").items():
        facts = {name: (colour, thing) for name, colour, thing in re.findall(r"(\w+) has a (\w+) (\w+)\.", prompt)}
        assert len(facts) == 3
        if "Who has" in prompt:
            thing = re.search(r"Who has the (\w+)\?", prompt)
            assert thing is not None
            assert facts[answer.split()[0]][1] == thing[1]
        else:
            thing, colour = answer.split()[1], answer.split()[3].rstrip(".")
            assert (colour, thing) in facts.values()


def test_a_scrambled_sentence_has_the_same_words_in_another_order() -> None:
    sentence = "The old man walked slowly down the street."
    found = made.scrambled(sentence, random.Random(0), count=3)
    assert len(set(found)) == 3
    for one in found:
        assert sorted(one.split()) == sorted(sentence.split())
        assert one != sentence
        assert one.startswith("The ")
        assert one.endswith(" street.")


def test_agreement_keeps_the_number_of_its_subject() -> None:
    plural = {"are", "were", "have", "look"}
    for prompt, answer in right_answers("agreement").items():
        begun = prompt.split('"')[1].removesuffix(" ...")
        verb = answer.removeprefix(begun).split()[0]
        many = begun.split()[1].endswith("s") or begun.split()[1] in ("children", "men")
        assert (verb in plural) == many, answer


def test_exact_answers_are_accepted_with_and_without_stop_capital_and_quotes() -> None:
    assert set(made.accepted("lamp")) == {"lamp", "lamp.", "Lamp", "Lamp.", '"lamp"', '"lamp."', '"Lamp"', '"Lamp."'}


def test_the_general_material_is_there() -> None:
    assert len(general_prompts()) == len(set(general_prompts())) == 64
    sentences = sum(len(re.findall(r"[.!?]", text)) for text in general_texts())
    assert sentences >= 150
    assert len(set(general_texts())) == len(general_texts())
    assert len(set(lines_of("sentences.txt"))) == len(lines_of("sentences.txt"))


def test_chance_is_one_over_the_choices() -> None:
    assert ProbeItem("s", ("?",), ("a", "b", "c", "d"), 0).chance == 0.25
    assert ProbeItem("s", ("?",), ("a",), None).chance == 0.0
