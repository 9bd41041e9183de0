"""Questions that follow from a rule: numbers, series, agreement, short readings, instructions with one right answer."""

from __future__ import annotations

import random
from collections.abc import Iterator

from hone.evaluation.probes.tables import lines_of

__all__ = ["Question", "accepted", "agreement", "arithmetic", "instructions", "reading", "scrambled", "sequences"]

Question = tuple[str, str, list[str]]
"""A prompt, its right answer and wrong ones; without wrong ones the right answer is to be given word for word."""

_DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
_MONTHS = (
    "January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November",
    "December",
)  # fmt: skip
_SUBJECTS = (
    ("The dog", "The dogs"), ("The child", "The children"), ("My friend", "My friends"), ("The book", "The books"),
    ("The man", "The men"), ("A bird", "Two birds"), ("The teacher", "The teachers"), ("Her sister", "Her sisters"),
)  # fmt: skip
_PLACES = ("in the garden", "near the window", "on the table", "behind the house", "at the station")
_PREDICATES = (
    ("is very old.", "are very old."), ("was here before.", "were here before."),
    ("has been there all day.", "have been there all day."), ("looks nice.", "look nice."),
)  # fmt: skip
_NAMES = ("Anna", "Ben", "Clara", "David", "Emma", "Frank", "Grace", "Henry")
_THINGS = ("book", "hat", "lamp", "ball", "cup", "bag")
_COLOURS = ("red", "blue", "green", "yellow", "white", "black")
_WORDS = (
    "river", "window", "garden", "lantern", "button", "carpet", "bottle", "market", "pencil", "silver", "mountain",
    "blanket", "castle", "winter", "candle",
)  # fmt: skip


def arithmetic(draw: random.Random) -> Iterator[Question]:
    """Sums, differences and products of small numbers, and which of two numbers is larger."""
    seen: set[str] = set()
    while True:
        kind = len(seen) % 4
        first, second = draw.randint(2, 9), draw.randint(2, 9)
        if kind == 0:
            question, value = f"What is {first} plus {second}?", first + second
        elif kind == 1:
            first += second
            question, value = f"What is {first} minus {second}?", first - second
        elif kind == 2:
            question, value = f"What is {first} times {second}?", first * second
        else:
            first, second = draw.sample(range(11, 100), 2)
            question, value = f"Which number is larger, {first} or {second}?", max(first, second)
        if question in seen:
            continue
        seen.add(question)
        near = {value - 2, value - 1, value + 1, value + 2, value + 10} - {value, -1, 0}
        wrong = [min(first, second)] if kind == 3 else draw.sample(sorted(near), 3)
        yield question, f"The answer is {value}.", [f"The answer is {one}." for one in wrong]


def sequences(draw: random.Random) -> Iterator[Question]:
    """What comes after: days, months, letters, steps of numbers."""
    series: list[tuple[str, str, list[str]]] = []
    for names, what in ((_DAYS, "day"), (_MONTHS, "month")):
        for place, name in enumerate(names):
            after = names[(place + 1) % len(names)]
            others = draw.sample([one for one in names if one not in (name, after)], 3)
            series.append((f"Which {what} comes after {name}?", after, others))
    for begin, step in ((2, 2), (5, 5), (10, 10), (3, 3), (1, 2), (4, 4), (20, 10), (1, 1), (6, 2), (7, 1), (30, 5)):
        shown = [begin + step * place for place in range(4)]
        following = shown[-1] + step
        wrong = [str(following + change) for change in (-1, 1, 7) if following + change not in shown]
        series.append((f"Which number comes next: {', '.join(map(str, shown))}?", str(following), wrong))
    for question, right, wrong in draw.sample(series, len(series)):
        yield question, f"It is {right}.", [f"It is {one}." for one in wrong]


def agreement(draw: random.Random) -> Iterator[Question]:
    """Whether the verb fits its subject, also where another noun stands between them."""
    every = [(subjects, place, predicates) for subjects in _SUBJECTS for place in _PLACES for predicates in _PREDICATES]
    for subjects, place, predicates in draw.sample(every, len(every)):
        number = draw.randrange(2)
        begun = f"{subjects[number]} {place}"
        right, wrong = (f"{begun} {predicates[one]}" for one in (number, 1 - number))
        yield f'Complete the sentence: "{begun} ..."', right, [wrong]


def reading(draw: random.Random) -> Iterator[Question]:
    """A fact that stands in the question's own text."""
    while True:
        names, things, colours = draw.sample(_NAMES, 3), draw.sample(_THINGS, 3), draw.sample(_COLOURS, 3)
        told = " ".join(
            f"{name} has a {colour} {thing}." for name, colour, thing in zip(names, colours, things, strict=True)
        )
        place = draw.randrange(3)
        if draw.random() < 0.5:
            right = f"{names[place]} has the {things[place]}."
            wrong = [f"{name} has the {things[place]}." for name in names if name != names[place]]
            yield f"{told} Who has the {things[place]}?", right, wrong
        else:
            right = f"The {things[place]} is {colours[place]}."
            wrong = [f"The {things[place]} is {colour}." for colour in colours if colour != colours[place]]
            yield f"{told} What colour is the {things[place]}?", right, wrong


def instructions(draw: random.Random) -> Iterator[Question]:
    """Things to do word for word; the answer is checked exactly, but for its capital, its full stop and quotes."""
    tasks = [(f"Repeat this word: {word}", word) for word in _WORDS]
    sentences = draw.sample(lines_of("sentences.txt"), len(_WORDS))
    tasks += [(f"Copy this sentence: {sentence}", sentence) for sentence in sentences]
    for prompt, answer in draw.sample(tasks, len(tasks)):
        yield prompt, answer, []


def accepted(answer: str) -> tuple[str, ...]:
    """The forms of an exact answer that are right."""
    bare = answer.removesuffix(".")
    forms = [form for text in (bare, bare[0].upper() + bare[1:]) for form in (text, f"{text}.")]
    return tuple(dict.fromkeys(form for text in forms for form in (text, f'"{text}"')))


def scrambled(sentence: str, draw: random.Random, *, count: int) -> list[str]:
    """The same words in wrong orders; the first and the last keep their places, capital and full stop with them.

    Args:
        sentence: of at least five words.
        draw: the source of the orders.
        count: how many.
    """
    first, *middle, last = sentence.split()
    found: list[str] = []
    while len(found) < count:
        words = draw.sample(middle, len(middle))
        moved = sum(one != other for one, other in zip(words, middle, strict=True))
        text = " ".join([first, *words, last])
        if moved >= min(4, len(middle)) and text not in found:
            found.append(text)
    return found
