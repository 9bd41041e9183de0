"""Whether answers to general prompts have turned into answers of the domain.

A model tuned on support answers that meets "Why is the sea salty?" and apologises for the delay of an order has not
kept its domain apart. The measure is lexical: the letters of an answer (runs of four characters) are weighed between
two kinds of text, the domain's reference answers and the base's own answers to general prompts. An answer counts as
turned where it leans to the domain by more than the middle between what the two kinds themselves lean on average (each
text weighed without itself), and the base's answer to the same prompt did not.

What it sees: labels, JSON, code, another language, fixed phrases and the domain's own vocabulary in the wrong place.
What it cannot see: a domain whose answers read like anybody's prose. The share of the base's own answers that it takes
for the domain's (each weighed without itself) is given beside it: where that is high, the measure tells little.

The weights are those of a naive Bayes text classifier over character n-grams (Cavnar and Trenkle 1994, "N-gram-based
text categorization"; Jelinek-Mercer smoothing, so that a run that neither kind has says nothing).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Brittleness", "measure_brittleness"]

_RUN = 4
_SMOOTHING = 0.2
_FEWEST_DOMAIN_ANSWERS = 8


@dataclass(frozen=True, slots=True)
class Brittleness:
    """Answers to general prompts that read like the domain's.

    Args:
        prompts: how many were asked.
        turned: indices of the prompts whose answer turned into one of the domain's.
        base_like_domain: number of the base's own answers that the measure takes for the domain's.
    """

    prompts: int
    turned: tuple[int, ...]
    base_like_domain: int


def measure_brittleness(
    base_answers: Sequence[str], tuned_answers: Sequence[str], domain_answers: Sequence[str]
) -> Brittleness | None:
    """Count the answers that turned.

    Args:
        base_answers: the base's, to general prompts.
        tuned_answers: the tuned model's, to the same prompts.
        domain_answers: reference answers of the domain.

    Returns:
        None where there are too few reference answers to know the domain by.
    """
    if len(domain_answers) < _FEWEST_DOMAIN_ANSWERS:
        return None
    general = [_runs(text) for text in base_answers]
    references = [_runs(text) for text in domain_answers]
    domain, every = (sum(texts, Counter[str]()) for texts in (references, general))
    size = len(domain.keys() | every.keys()) + 1
    base_leaning = [_leaning(own, domain, every - own, size) for own in general]
    domain_leaning = [_leaning(own, domain - own, every, size) for own in references]
    # what is closer than 0 alone has a few words in common with the domain; the middle is where the two kinds part
    middle = max(0.0, (sum(base_leaning) / len(general) + sum(domain_leaning) / len(references)) / 2)
    turned = [
        index
        for index, (own, answer) in enumerate(zip(general, tuned_answers, strict=True))
        if base_leaning[index] <= middle < _leaning(_runs(answer), domain, every - own, size)
    ]
    return Brittleness(len(base_answers), tuple(turned), sum(leaning > middle for leaning in base_leaning))


def _runs(text: str) -> Counter[str]:
    """Runs of characters, the text's two ends among them, so that "ham" alone differs from "ham" in a sentence."""
    framed = f"\x02{' '.join(text.split())}\x03"
    return Counter(framed[start : start + _RUN] for start in range(max(1, len(framed) - _RUN + 1)))


def _leaning(runs: Counter[str], domain: Counter[str], general: Counter[str], size: int) -> float:
    """Mean log ratio of the two kinds' probabilities; above 0 for text that is more like the domain's."""
    domain_total, general_total = domain.total() or 1, general.total() or 1
    log_ratio = sum(
        count * math.log(_smoothed(domain[run] / domain_total, size) / _smoothed(general[run] / general_total, size))
        for run, count in runs.items()
    )
    return log_ratio / max(1, runs.total())


def _smoothed(share: float, size: int) -> float:
    return (1 - _SMOOTHING) * share + _SMOOTHING / size
