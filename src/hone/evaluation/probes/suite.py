"""hone's own probe suite: questions of eighteen skills, made from small tables and rules by a seeded generator.

Questions are easy on purpose. What a small model cannot do it cannot forget, and a hard question tells nothing of it.
No question is taken from a benchmark. Each skill has an equal number of questions; the same arguments always give
the same suite, and a smaller one is the beginning of a larger one.
"""

from __future__ import annotations

import functools
import random
from collections.abc import Callable, Iterator, Sequence

from hone.evaluation.probes import made
from hone.evaluation.probes.item import ProbeItem
from hone.evaluation.probes.tables import lines_of, table_of

__all__ = ["MOST_PER_SKILL", "SKILLS", "general_prompts", "general_texts", "probe_suite"]

MOST_PER_SKILL = 30
_CHOICES = 4
_CONTINENTS = ("Africa", "Asia", "Europe", "North America", "Oceania", "South America")
_CLASSES = ("bird", "fish", "insect", "mammal", "reptile")


def probe_suite(per_skill: int = MOST_PER_SKILL, *, seed: int = 0) -> list[ProbeItem]:
    """The suite.

    Args:
        per_skill: questions of each skill, at most ``MOST_PER_SKILL``.
        seed: of the order, the distractors and the numbers.

    Returns:
        Questions, skill by skill; no question stands twice.
    """
    assert 0 <= per_skill <= MOST_PER_SKILL, "there are not more questions"
    return [item for skill in SKILLS for item in _whole_skill(skill, seed)[:per_skill]]


@functools.cache
def _whole_skill(skill: str, seed: int) -> tuple[ProbeItem, ...]:
    # a generator of its own for each skill: another table does not change the questions of this one
    draw = random.Random(f"hone-probes-{seed}-{skill}")
    questions = SKILLS[skill](draw)
    return tuple(_item(skill, next(questions), draw) for _ in range(MOST_PER_SKILL))


def _item(skill: str, question: made.Question, draw: random.Random) -> ProbeItem:
    prompt, right, wrong = question
    if not wrong:
        return ProbeItem(skill, (prompt,), made.accepted(right), None)
    answers = [right, *wrong]
    draw.shuffle(answers)
    return ProbeItem(skill, (prompt,), tuple(answers), answers.index(right))


def general_prompts() -> list[str]:
    """64 things that somebody might ask an assistant, none of them in a special domain."""
    return lines_of("prompts.txt")


def general_texts() -> list[str]:
    """Short passages of ordinary prose, of some two hundred sentences in all."""
    return lines_of("general_text.txt")


def _shuffled(rows: Sequence[tuple[str, ...]], draw: random.Random) -> list[tuple[str, ...]]:
    return draw.sample(list(rows), len(rows))


def _others(right: str, pool: Sequence[str], draw: random.Random) -> list[str]:
    return draw.sample(sorted(set(pool) - {right}), _CHOICES - 1)


def _capitals(draw: random.Random) -> Iterator[made.Question]:
    rows = _shuffled(table_of("countries.tsv"), draw)
    pool = [capital for _, capital, _ in rows]
    for country, capital, _ in rows:
        answers = [f"The capital of {country} is {one}." for one in (capital, *_others(capital, pool, draw))]
        yield f"What is the capital of {country}?", answers[0], answers[1:]


def _continents(draw: random.Random) -> Iterator[made.Question]:
    for country, _, continent in _shuffled(table_of("countries.tsv"), draw):
        answers = [f"{country} is in {one}." for one in (continent, *_others(continent, _CONTINENTS, draw))]
        yield f"On which continent is {country}?", answers[0], answers[1:]


def _elements(draw: random.Random) -> Iterator[made.Question]:
    rows = _shuffled(table_of("elements.tsv"), draw)
    pool = [symbol for _, symbol in rows]
    for name, symbol in rows:
        answers = [f"The chemical symbol of {name} is {one}." for one in (symbol, *_others(symbol, pool, draw))]
        yield f"What is the chemical symbol of {name}?", answers[0], answers[1:]


def _animals(draw: random.Random) -> Iterator[made.Question]:
    for animal, kind in _shuffled(table_of("animals.tsv"), draw):
        of = {one: f"{_with_article(animal)} is {_with_article(one).lower()}." for one in _CLASSES}
        wrong = [of[one] for one in _others(kind, _CLASSES, draw)]
        yield f"Is {_with_article(animal).lower()} a mammal, a bird, a fish, a reptile or an insect?", of[kind], wrong


def _kinds(draw: random.Random) -> Iterator[made.Question]:
    rows = table_of("kinds.tsv")
    names = [kind for kind, *_ in rows]
    members = [(member, kind) for kind, *listed in rows for member in listed]
    for member, kind in _shuffled(members, draw):
        listed = (kind, *_others(kind, names, draw))
        answers = [f"The word {member} names {_with_article(one).lower()}." for one in listed]
        yield f'What does the word "{member}" name?', answers[0], answers[1:]


def _opposites(draw: random.Random) -> Iterator[made.Question]:
    rows = _shuffled(table_of("opposites.tsv"), draw)
    pool = [word for row in rows for word in row]
    for word, opposite in rows:
        wrong = _others(opposite, [one for one in pool if one != word], draw)
        answers = [f'The opposite of "{word}" is "{one}".' for one in (opposite, *wrong)]
        yield f'What is the opposite of "{word}"?', answers[0], answers[1:]


def _past_tense(draw: random.Random) -> Iterator[made.Question]:
    for verb, past, regular in _shuffled(table_of("verbs.tsv"), draw):
        answers = [f'The past tense of "{verb}" is "{one}".' for one in (past, regular, verb)]
        yield f'What is the past tense of "{verb}"?', answers[0], answers[1:]


def _plurals(draw: random.Random) -> Iterator[made.Question]:
    for noun, plural, regular in _shuffled(table_of("plurals.tsv"), draw):
        answers = [f'The plural of "{noun}" is "{one}".' for one in (plural, regular)]
        yield f'What is the plural of "{noun}"?', answers[0], answers[1:]


def _spelling(draw: random.Random) -> Iterator[made.Question]:
    for row in _shuffled(table_of("spellings.tsv"), draw):
        listed = draw.sample(row, len(row))
        answers = [f'The right spelling is "{one}".' for one in row]
        question = f'Which spelling is right: "{listed[0]}", "{listed[1]}" or "{listed[2]}"?'
        yield question, answers[0], answers[1:]


def _choices_of(name: str, question: str) -> Callable[[random.Random], Iterator[made.Question]]:
    """Questions of a table of (subject, right answer, wrong answers)."""

    def questions(draw: random.Random) -> Iterator[made.Question]:
        for subject, right, *wrong in _shuffled(table_of(name), draw):
            answers = [one[0].upper() + one[1:].rstrip(".") + "." for one in (right, *wrong)]
            yield question.format(subject), answers[0], answers[1:]

    return questions


def _word_order(draw: random.Random) -> Iterator[made.Question]:
    for sentence in draw.sample(lines_of("sentences.txt"), len(lines_of("sentences.txt"))):
        yield "Write a correct English sentence.", sentence, made.scrambled(sentence, draw, count=_CHOICES - 1)


def _with_article(word: str) -> str:
    return f"{'An' if word[0] in 'aeiou' else 'A'} {word}"


SKILLS: dict[str, Callable[[random.Random], Iterator[made.Question]]] = {
    "capitals": _capitals,
    "continents": _continents,
    "elements": _elements,
    "animals": _animals,
    "kinds": _kinds,
    "everyday_facts": _choices_of("properties.tsv", "{}"),
    "tools": _choices_of("uses.tsv", "What do people use to {}?"),
    "causes": _choices_of("causes.tsv", "{} What happened?"),
    "opposites": _opposites,
    "past_tense": _past_tense,
    "plurals": _plurals,
    "spelling": _spelling,
    "word_order": _word_order,
    "agreement": made.agreement,
    "arithmetic": made.arithmetic,
    "sequences": made.sequences,
    "reading": made.reading,
    "instructions": made.instructions,
}
