"""What a data set covers: answers, lengths, languages, openings, kinds of prompts; and what stands out of it.

Counts are exact; languages, openings and kinds of prompts are told from a sample of the rows with the smallest hashes,
which no order of the file changes. Memory is bounded whatever the number of rows.
"""

from __future__ import annotations

import heapq
import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from hone.data.audit.clusters import odd_prompts, prompt_groups
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
_WORDS_TOLD = 3
_GROUPS = 3
_GROUP_SHARE = 0.1
_SHOWN_CHARACTERS = 60
# A language is the file's where this share of the texts is in it; of fewer texts than these nothing is said.
_LANGUAGE_SHARE = 0.95
_TEXTS_TO_SPEAK_OF = 20


@dataclass(frozen=True, slots=True)
class _Sampled:
    """A row of the sample: where it stands, and the beginnings of its texts."""

    place: Place
    asked: str
    answer: str


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
        # A heap of the smallest hashes, the largest of them on top: (-hash, -row, row of the sample).
        self._heap: list[tuple[int, int, _Sampled]] = []

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
        asked, short = judged.asked[:_SAMPLE_CHARACTERS], answer[:_SAMPLE_CHARACTERS]
        key = -text_hash(asked + short)
        if len(self._heap) < _SAMPLE or key > self._heap[0][0]:
            _keep(self._heap, (key, -place[0], _Sampled(place, asked, short)), _SAMPLE)

    @cached_property
    def _sample(self) -> list[_Sampled]:
        """The sampled rows in the order of their hashes; read when all rows were added."""
        return [row for _, _, row in sorted(self._heap, key=lambda one: (-one[0], -one[1]))]

    @property
    def labels(self) -> Counter[str] | None:
        """The answers as labels, where they are few and frequent; else None."""
        if not self._labels or len(self._labels) < 2:
            return None
        distinct = len(self._labels)
        few = distinct <= max(_FEW_LABELS, self.rows / _ROWS_PER_LABEL_SHARE)
        return self._labels if few and self.rows >= _ROWS_PER_LABEL * distinct else None

    def faults(self) -> Iterator[Fault]:
        """Class imbalance; answers many times as long as the others (at most 100); among the sample, odd rows."""
        yield from self._odd_languages()
        for index, words in odd_prompts([row.asked for row in self._sample]):
            row, line, offset = self._sample[index].place
            told = ", ".join(words[:_WORDS_TOLD])
            message = f"of {len(self._sample):,} prompts looked at no other has any of its words, as {told}"
            yield Fault.of("odd_prompt", message, row=row, line=line, offset=offset)
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

    def _odd_languages(self) -> Iterator[Fault]:
        """Prompts, and answers, that are clearly in another language than nearly all others."""
        for what, texts in (
            ("prompt", [row.asked for row in self._sample]),
            ("answer", [row.answer for row in self._sample]),
        ):
            told = [language_of(text, sure=True) for text in texts]
            counts = Counter(name for name in told if name != "other")
            if sum(counts.values()) < _TEXTS_TO_SPEAK_OF:
                continue
            main, count = counts.most_common(1)[0]
            share = count / sum(counts.values())
            if share < _LANGUAGE_SHARE:
                continue
            for row, name in zip(self._sample, told, strict=True):
                if name not in (main, "other"):
                    number, line, offset = row.place
                    message = f"its {what} reads as {name}, where {int(100 * share)}% of the {what}s read as {main}"
                    yield Fault.of("odd_language", message, row=number, line=line, offset=offset)

    def _groups(self) -> list[JsonDict]:
        groups = prompt_groups([row.asked for row in self._sample], least_share=_GROUP_SHARE, most=_GROUPS)
        return [
            {
                "share": round(len(group.members) / len(self._sample), 4),
                "line": self._sample[group.centre].place[1],
                "prompt": hidden(_shown(self._sample[group.centre].asked)),
                "words": [hidden(word) for word in group.words],
            }
            for group in groups
        ]

    def to_json(self) -> JsonDict:
        """What the data covers.

        Returns:
            ``prompt_characters`` and ``answer_characters`` (least, median, p95, most); ``refusals``; ``labels`` with
            their counts, or None; ``languages`` and ``openings`` as shares of ``sampled`` rows, the most frequent
            first; ``groups`` of prompts that are alike, each with its ``share`` of the sampled rows, the ``line`` and
            the beginning of the ``prompt`` that the others are like, and the ``words`` that mark it.
        """
        languages = Counter(language_of(f"{row.asked}\n{row.answer}") for row in self._sample)
        openings = Counter(" ".join(row.asked.split()[:_OPENING_WORDS]) for row in self._sample)
        labels = self.labels
        return {
            "prompt_characters": self._prompts.to_json(),
            "answer_characters": self._answers.to_json(),
            "refusals": self._refusals,
            "labels": {hidden(label): count for label, count in labels.most_common()} if labels else None,
            "sampled": len(self._sample),
            "languages": _shares(languages, 5),
            "openings": _shares(openings, 5),
            "groups": self._groups(),
        }


def _shown(text: str) -> str:
    plain = " ".join(text.split())
    return repr(plain if len(plain) <= _SHOWN_CHARACTERS else plain[: _SHOWN_CHARACTERS - 3] + "...")


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
