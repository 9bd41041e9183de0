"""What answers owe to the documents, by their words: how much of an answer its passages hold, and facts it got right.

Two measures, both lexical. They see words and numbers, not meaning: a sentence that turns "within 60 days" into "not
within 60 days" is fully supported, and a right paraphrase in other words is not.

    supported   of an answer's content words and numbers, the share that stands in its passages or in the question
    facts       of the facts of the reference that stand in the documents, the share that the answer has

A fact of a short answer is the whole of it; of a longer one, each of its numbers ("60", "3.90"; "five" counts as 5). A
fact counts only where some passage of the documents holds it and the question does not.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from hone.evaluation.shape import TaskShape
from hone.evaluation.text_scores import normalise_short_answer
from hone.retrieval.passages import Passage
from hone.retrieval.words import STOP_WORDS, search_words
from hone.types import JsonDict

__all__ = ["measure_grounding", "supported_share"]

# fmt: off
_NUMBER_WORDS = {
    "zero": "0", "one": "1", "two": "2", "three": "3", "four": "4", "five": "5", "six": "6", "seven": "7", "eight": "8",
    "nine": "9", "ten": "10", "eleven": "11", "twelve": "12",
}
# fmt: on
_DECIMALS = 6


def supported_share(answer: str, passages: Sequence[Passage], question: str) -> float | None:
    """The share, 0 to 1, of an answer's content words that its passages or the question hold; None without any."""
    words = [word for word in _words(answer) if word not in STOP_WORDS]
    if not words:
        return None
    known = {word for text in (question, *(passage.searched for passage in passages)) for word in _words(text)}
    return sum(word in known for word in words) / len(words)


@dataclass(frozen=True, slots=True)
class _Known:
    """Texts ready to be asked what they hold: numbers, and texts in the normal form of short answers."""

    numbers: frozenset[str]
    phrases: tuple[str, ...]

    @classmethod
    def of(cls, texts: Iterable[str], *, is_short: bool) -> _Known:
        listed = list(texts)
        if is_short:
            return cls(frozenset(), tuple(f" {normalise_short_answer(text)} " for text in listed))
        return cls(frozenset(number for text in listed for number in _numbers(text)), ())

    def holds(self, fact: str) -> bool:
        return fact in self.numbers or any(f" {fact} " in phrase for phrase in self.phrases)


def _facts(reference: str, question: str, documents: _Known, *, is_short: bool) -> list[str]:
    """The facts of a reference that the documents hold and the question does not."""
    candidates = [normalise_short_answer(reference)] if is_short else list(dict.fromkeys(_numbers(reference)))
    asked = _Known.of([question], is_short=is_short)
    return [fact for fact in candidates if fact and documents.holds(fact) and not asked.holds(fact)]


def measure_grounding(
    shape: TaskShape,
    questions: Sequence[str],
    references: Sequence[str],
    answers: Mapping[str, Sequence[str]],
    passages: Sequence[Passage],
    given: Sequence[Sequence[Passage]],
) -> JsonDict:
    """Measure every arm by the same passages, those that retrieval found for each row.

    Args:
        shape: of the task; facts of ``short`` and ``labels`` are whole answers.
        questions: the last user text of each row.
        references: the right answers.
        answers: by arm, one a row.
        passages: all passages of the documents.
        given: by row, what retrieval found.

    Returns:
        ``rows_with_facts``; ``found``, the share of those rows for which retrieval found a passage with each fact;
        and ``arms``: by name ``supported`` and ``facts``, shares from 0 to 1, null where there is nothing to share.
    """
    is_short = shape.kind in ("short", "labels")
    known = _Known.of((passage.searched for passage in passages), is_short=is_short)
    facts = [
        _facts(reference, question, known, is_short=is_short)
        for reference, question in zip(references, questions, strict=True)
    ]
    with_facts = [row for row, wanted in enumerate(facts) if wanted]
    in_given = {row: _Known.of((one.searched for one in given[row]), is_short=is_short) for row in with_facts}
    found = [all(in_given[row].holds(fact) for fact in facts[row]) for row in with_facts]
    arms = {}
    for arm, texts in answers.items():
        shares = [supported_share(text, given[row], questions[row]) for row, text in enumerate(texts)]
        said = {row: _Known.of([texts[row]], is_short=is_short) for row in with_facts}
        right = [sum(map(said[row].holds, facts[row])) / len(facts[row]) for row in with_facts]
        arms[arm] = {"supported": _mean([share for share in shares if share is not None]), "facts": _mean(right)}
    return {
        "rows_with_facts": len(with_facts),
        "found": _mean([float(one) for one in found]),
        "arms": arms,
    }


def _words(text: str) -> list[str]:
    return [_NUMBER_WORDS.get(word, word) for word in search_words(text)]


def _numbers(text: str) -> list[str]:
    return [word for word in _words(text) if word[0].isdigit()]


def _mean(values: Sequence[float]) -> float | None:
    return round(sum(values) / len(values), _DECIMALS) if values else None
