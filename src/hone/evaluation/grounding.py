"""What answers owe to the documents, by their words: how much of an answer its passages hold, and facts it got right.

Two measures, both lexical. They see words and numbers, not meaning: a sentence that turns "within 60 days" into "not
within 60 days" is fully supported, and a right paraphrase in other words is not.

    supported   of an answer's content words and numbers, the share that stands in its passages or in the question
    facts       of the facts of the reference that stand in the documents, the share that the answer has

A fact of a short answer is the whole of it; of a longer one, each of its numbers ("60", "3.90"; "five" counts as 5). A
fact counts only where some passage of the documents holds it and the question does not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from hone.evaluation.shape import TaskShape
from hone.evaluation.text_scores import normalise_short_answer
from hone.retrieval.passages import Passage
from hone.retrieval.words import STOP_WORDS, search_words
from hone.types import JsonDict

__all__ = ["facts_of", "measure_grounding", "supported_share"]

_NUMBER_WORDS = {
    word: str(number)
    for number, word in enumerate(
        ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"]
    )
}
_DECIMALS = 6


def supported_share(answer: str, passages: Sequence[Passage], question: str) -> float | None:
    """The share, 0 to 1, of an answer's content words that its passages or the question hold; None without any."""
    words = [word for word in _words(answer) if word not in STOP_WORDS]
    if not words:
        return None
    known = {word for text in (question, *(passage.searched for passage in passages)) for word in _words(text)}
    return sum(word in known for word in words) / len(words)


def facts_of(reference: str, question: str, passages: Sequence[Passage], *, is_short: bool) -> list[str]:
    """The facts of a reference that some passage holds and the question does not.

    Args:
        reference: the right answer.
        question: what was asked.
        passages: all passages of the documents.
        is_short: whether an answer is one fact as a whole.
    """
    if is_short:
        fact = normalise_short_answer(reference)
        held = fact and _holds_phrase(passages, fact) and not _has_phrase(question, fact)
        return [fact] if held else []
    asked = set(_numbers(question))
    known = {number for passage in passages for number in _numbers(passage.searched)}
    return [number for number in dict.fromkeys(_numbers(reference)) if number in known and number not in asked]


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
    facts = [
        facts_of(reference, question, passages, is_short=is_short)
        for reference, question in zip(references, questions, strict=True)
    ]
    with_facts = [row for row, wanted in enumerate(facts) if wanted]
    found = [all(_holds(given[row], fact, is_short) for fact in facts[row]) for row in with_facts]
    arms = {}
    for arm, texts in answers.items():
        shares = [supported_share(text, given[row], questions[row]) for row, text in enumerate(texts)]
        right = [_share_of_facts(texts[row], facts[row], is_short) for row in with_facts]
        arms[arm] = {"supported": _mean([share for share in shares if share is not None]), "facts": _mean(right)}
    return {
        "rows_with_facts": len(with_facts),
        "found": _mean([float(one) for one in found]),
        "arms": arms,
    }


def _share_of_facts(answer: str, facts: Sequence[str], is_short: bool) -> float:
    said = set(_numbers(answer))
    return sum(_has_phrase(answer, fact) if is_short else fact in said for fact in facts) / len(facts)


def _holds(passages: Sequence[Passage], fact: str, is_short: bool) -> bool:
    if is_short:
        return _holds_phrase(passages, fact)
    return any(fact in _numbers(passage.searched) for passage in passages)


def _holds_phrase(passages: Sequence[Passage], fact: str) -> bool:
    return any(_has_phrase(passage.searched, fact) for passage in passages)


def _has_phrase(text: str, fact: str) -> bool:
    return f" {fact} " in f" {normalise_short_answer(text)} "


def _words(text: str) -> list[str]:
    return [_NUMBER_WORDS.get(word, word) for word in search_words(text)]


def _numbers(text: str) -> list[str]:
    return [word for word in _words(text) if word[0].isdigit()]


def _mean(values: Sequence[float]) -> float | None:
    return round(sum(values) / len(values), _DECIMALS) if values else None
