"""What a data set covers: answers, lengths, languages, openings; and what stands out of it.

Counts are exact; languages and openings are told from a sample of the rows with the smallest hashes, which no order
of the file changes. Memory is bounded whatever the number of rows.
"""

from __future__ import annotations

import heapq
import math
from collections import Counter
from collections.abc import Iterator

from hone.data.audit.copies import Place, text_hash
from hone.data.audit.judge import Judged
from hone.data.audit.languages import language_of
from hone.data.audit.secrets import hidden
from hone.data.audit.texts import is_refusal
from hone.data.faults import Fault
from hone.types import JsonDict

__all__ = ["Balance"]

_MOST_LABELS = 2000
_LONGEST_LABEL = 64
_SAMPLE = 2000
_SAMPLE_CHARACTERS = 2000
_LONGEST_KEPT = 100
_BINS_PER_DOUBLING = 16
_OUTLIER_TIMES = 20
_OUTLIER_CHARACTERS = 1000
_IMBALANCE_TIMES = 20
_FEW_LABELS = 20
_ROWS_PER_LABEL_SHARE = 5
_ROWS_PER_LABEL = 3
_OPENING_WORDS = 3


class _Lengths:
    """A histogram of lengths in characters, in bins that each span 4%."""

    def __init__(self) -> None:
        self.bins: Counter[int] = Counter()
        self.least, self.most = 0, 0

    def add(self, length: int) -> None:
        self.least = min(self.least, length) if self.bins else length
        self.most = max(self.most, length)
        self.bins[_bin(length)] += 1

    def at(self, share: float) -> int:
        """About the length that this share of the rows does not exceed."""
        left = share * sum(self.bins.values())
        for number in sorted(self.bins):
            left -= self.bins[number]
            if left <= 0:
                return min(max(_length(number), self.least), self.most)
        return self.most

    def above(self, length: float) -> int:
        """How many lie in bins above that of ``length``."""
        return sum(count for number, count in self.bins.items() if number > _bin(length))

    def to_json(self) -> JsonDict:
        return {"least": self.least, "median": self.at(0.5), "p95": self.at(0.95), "most": self.most}


class Balance:
    """Counts over the usable rows of a file."""

    def __init__(self) -> None:
        self.rows = 0
        self._refusals = 0
        self._labels: Counter[str] | None = Counter()
        self._prompts = _Lengths()
        self._answers = _Lengths()
        self._longest: list[tuple[int, int, Place]] = []
        # A heap of the smallest hashes, the largest of them on top: (-hash, prompt, answer).
        self._sample: list[tuple[int, str, str]] = []

    def add(self, judged: Judged, place: Place) -> None:
        """Count one usable row."""
        self.rows += 1
        answer = judged.answer.strip()
        self._refusals += is_refusal(answer)
        if self._labels is not None:
            if len(answer) <= _LONGEST_LABEL:
                self._labels[answer] += 1
            if len(answer) > _LONGEST_LABEL or len(self._labels) > _MOST_LABELS:
                self._labels = None
        self._prompts.add(len(judged.asked))
        self._answers.add(len(answer))
        _keep(self._longest, (len(answer), -place[0], place), _LONGEST_KEPT)
        key = -text_hash(judged.asked[:_SAMPLE_CHARACTERS] + answer[:_SAMPLE_CHARACTERS])
        if len(self._sample) < _SAMPLE or key > self._sample[0][0]:
            _keep(self._sample, (key, judged.asked[:_SAMPLE_CHARACTERS], answer[:_SAMPLE_CHARACTERS]), _SAMPLE)

    @property
    def labels(self) -> Counter[str] | None:
        """The answers as labels, where they are few and frequent; else None."""
        if not self._labels or len(self._labels) < 2:
            return None
        distinct = len(self._labels)
        few = distinct <= max(_FEW_LABELS, self.rows / _ROWS_PER_LABEL_SHARE)
        return self._labels if few and self.rows >= _ROWS_PER_LABEL * distinct else None

    def faults(self) -> Iterator[Fault]:
        """Class imbalance, and the answers that are many times as long as the others (at most 100, the longest)."""
        if labels := self.labels:
            (most, many), (least, few) = labels.most_common(1)[0], min(labels.items(), key=lambda one: (one[1], one[0]))
            if many >= _IMBALANCE_TIMES * few:
                yield Fault.of("class_imbalance", f"{most!r} stands in {many} rows, {least!r} in {few}")
            return
        least_long = max(_OUTLIER_TIMES * self._answers.at(0.5), _OUTLIER_CHARACTERS)
        for length, _, (row, line, offset) in sorted(self._longest, key=lambda one: one[2]):
            if length > least_long:
                message = f"an answer of {length} characters, where half have {self._answers.at(0.5)} at most"
                yield Fault.of("length_outlier", message, row=row, line=line, offset=offset)

    def to_json(self) -> JsonDict:
        """What the data covers.

        Returns:
            ``prompt_characters`` and ``answer_characters`` (least, median, p95, most); ``refusals``; ``labels`` with
            their counts, or None; ``languages`` and ``openings`` as shares of ``sampled`` rows, the most frequent
            first.
        """
        languages = Counter(language_of(f"{asked}\n{answer}") for _, asked, answer in self._sample)
        openings = Counter(" ".join(asked.split()[:_OPENING_WORDS]) for _, asked, _ in self._sample)
        labels = self.labels
        return {
            "prompt_characters": self._prompts.to_json(),
            "answer_characters": self._answers.to_json(),
            "refusals": self._refusals,
            "labels": {hidden(label): count for label, count in labels.most_common()} if labels else None,
            "sampled": len(self._sample),
            "languages": _shares(languages, 5),
            "openings": _shares(openings, 5),
        }


def _bin(length: float) -> int:
    return int(_BINS_PER_DOUBLING * math.log2(length + 1))


def _length(number: int) -> int:
    return math.ceil(2 ** (number / _BINS_PER_DOUBLING)) - 1


def _keep(heap: list[tuple[int, object, object]] | list, item: tuple, most: int) -> None:  # type: ignore[type-arg]
    if len(heap) < most:
        heapq.heappush(heap, item)
    elif item > heap[0]:
        heapq.heapreplace(heap, item)


def _shares(counts: Counter[str], most: int) -> dict[str, float]:
    total = sum(counts.values())
    ordered = sorted(counts.items(), key=lambda one: (-one[1], one[0]))
    return {hidden(name): round(count / total, 4) for name, count in ordered[:most]}
