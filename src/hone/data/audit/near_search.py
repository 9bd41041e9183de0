"""Near copies among prompts of any number: candidates by MinHash and banding, each verified as ``near.py`` does.

Everything that grows with the file is on disk: the prompts, a key for each band, and a key for each word that may hold
a typing error. In memory are 8 bytes a distinct prompt, one of 64 parts of a table at a time, and what was read last.

What differs from ``near.py``, which compares all pairs: a pair of similarity 0.85 is missed in 1 of 5,000 cases; which
trigrams are template is told from the 4,000 prompts with the smallest hashes; of prompts that share a band each is
compared with the first four and the four before it, and of the candidates of one prompt the eight most alike are
verified, so that time grows with the rows and not with their square; typing errors are looked for in prompts of up to
200 words.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hone.data.audit.sketches import Numbers, TokenHashes, band_keys, distances, signatures, trigrams
from hone.data.audit.spill import NumberTable, StoredText, TextTable
from hone.data.near_rules import (
    BELOW_EQUAL,
    NEAR_THRESHOLD,
    SLOT_FILLERS,
    Prompt,
    can_hold_typo,
    joined,
    numbers_agree,
    template_count,
    typos_in_slot,
    words_of,
)

__all__ = ["NearSearch", "Twin"]

_SAMPLE = 4000
_SAMPLE_CHARACTERS = 8 << 20
_BATCH_CHARACTERS = 1 << 20
_CACHED_CHARACTERS = 4 << 20
# Of 64 bits 59 agree on average at a similarity of 0.85, with a standard deviation of 2.1.
_MOST_DISTANT = 13
_COMPARED_FIRST = 4
_COMPARED_BEFORE = 4
_COMPARED_HELD_OUT = 8
_MOST_VERIFIED = 8
# With more trigrams than this a changed word leaves the trigrams alike enough, and banding finds the pair.
_TYPO_MOST_TRIGRAMS = 40
_TYPO_MOST_WORDS = 200
_MOST_IN_SLOT = 64
_BANDED, _TYPO, _EQUAL = 0, 1, 2
_KIND = 3
_MASK = (1 << 64) - 1
_UNITS = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Twin:
    """A prompt and the one most like it.

    Args:
        text: the prompt, with the numbers it was added with.
        other: the earlier or the held-out one, with its numbers.
        similarity: up to 1, which is equal but for punctuation, case and white space.
    """

    text: StoredText
    other: StoredText
    similarity: float


@dataclass(frozen=True, slots=True)
class _Read:
    """What is compared of a prompt: its words, and its trigrams without template."""

    words: tuple[str, ...]
    content: Numbers


class NearSearch:
    """Collects prompts, then finds the near copies among them and of held-out ones."""

    def __init__(self) -> None:
        self._texts = TextTable()
        self._firsts = NumberTable(2)
        self._keys = NumberTable(3)
        self._pairs = NumberTable(3)
        self._found = NumberTable(4)
        self._hashes = TokenHashes()
        self._template: Numbers = np.array([], dtype=np.uint64)
        # Where the prompts of each held-out file begin; those before are the prompts added.
        self._begins: list[int] = []
        self._cache: dict[int, _Read] = {}
        self._cached_characters = 0

    def close(self) -> None:
        """Remove what was put on disk."""
        self._texts.close()
        for table in (self._firsts, self._keys, self._pairs, self._found):
            table.__exit__(None, None, None)

    def add(self, numbers: tuple[int, int, int], text: str, text_hash: int) -> None:
        """Add a prompt; of those with one hash the first is compared."""
        self._firsts.add((text_hash, self._texts.add(numbers, text)))

    def run(self, held_out: Sequence[Sequence[tuple[int, str]]]) -> None:
        """Find everything; called once, after all prompts were added.

        Args:
            held_out: for each file of held-out prompts its different ones, with a number to tell each by.
        """
        apart = []
        for prompts in held_out:
            self._begins.append(self._texts.end)
            apart += [self._texts.add((number, 0, 0), text) for number, text in prompts]
        distinct, sample = self._distinct()
        if not len(distinct):
            return
        self._template = self._template_of(sample)
        boundary = self._begins[0] if self._begins else self._texts.end
        for places in self._batches([*distinct.tolist(), *apart]):
            self._note_keys(places)
        for rows in self._keys.parts():
            self._pair_up(rows, boundary)
        for rows in self._pairs.parts():
            self._verify(rows)

    def near(self, held_out: int | None = None) -> Iterator[Twin]:
        """The prompts near an earlier one, or near one of a held-out file (its index): each with the most alike."""
        wanted = 0 if held_out is None else held_out + 1
        for rows in self._found.parts():
            rows = rows[rows[:, 1] == wanted]
            best = np.r_[True, rows[1:, 0] != rows[:-1, 0]][: len(rows)]
            for place, _, unlike, other in rows[best].tolist():
                yield Twin(self._texts.read(place), self._texts.read(other), 1 - unlike / _UNITS)

    def _distinct(self) -> tuple[Numbers, Numbers]:
        """Places of the first of equal prompts, in order; and of the sample."""
        places = []
        lowest = np.empty((0, 2), dtype=np.uint64)
        for rows in self._firsts.parts():
            firsts = rows[np.r_[True, rows[1:, 0] != rows[:-1, 0]]]
            places.append(firsts[:, 1])
            lowest = np.concatenate([lowest, firsts])
            lowest = lowest[np.argsort(lowest[:, 0])[:_SAMPLE]]
        every = np.concatenate(places) if places else np.array([], dtype=np.uint64)
        return np.sort(every), lowest[:, 1]

    def _template_of(self, sample: Numbers) -> Numbers:
        """The trigrams that stand in too many prompts to tell anything, sorted."""
        words: list[tuple[str, ...]] = []
        characters = 0
        for place in sample.tolist():
            text = self._texts.read(place)[3]
            characters += len(text)
            if words and characters > _SAMPLE_CHARACTERS:
                break
            words.append(words_of(text))
        values, counts = np.unique(trigrams(words, self._hashes)[0], return_counts=True)
        return values[counts > template_count(len(words))]

    def _batches(self, places: Sequence[int]) -> Iterator[list[tuple[int, tuple[str, ...]]]]:
        batch: list[tuple[int, tuple[str, ...]]] = []
        characters = 0
        for place in places:
            text = self._texts.read(place)[3]
            batch.append((place, words_of(text)))
            characters += len(text)
            if characters >= _BATCH_CHARACTERS:
                yield batch
                batch, characters = [], 0
        if batch:
            yield batch

    def _note_keys(self, batch: Sequence[tuple[int, tuple[str, ...]]]) -> None:
        """Put the keys of a batch of prompts into the table: (key with its kind, place, sketch)."""
        places = np.array([place for place, _ in batch], dtype=np.uint64)
        values, owners = trigrams([words for _, words in batch], self._hashes)
        kept = ~np.isin(values, self._template)
        values, owners = values[kept], owners[kept]
        counts = np.bincount(owners, minlength=len(batch))
        told = np.flatnonzero(counts)
        if len(told):
            signature = signatures(values, (np.cumsum(counts > 0) - 1)[owners], len(told))
            keys, sketch = band_keys(signature)
            self._add_keys(keys.ravel(), _BANDED, *(np.repeat(one, keys.shape[1]) for one in (places[told], sketch)))
        equal = np.array([self._hashes_of_text(joined(words)) for _, words in batch], dtype=np.uint64)
        self._add_keys(equal, _EQUAL, places, np.zeros(len(places), np.uint64))
        typos = [
            (key, place)
            for (place, words), count in zip(batch, counts.tolist(), strict=True)
            if count <= _TYPO_MOST_TRIGRAMS and len(words) <= _TYPO_MOST_WORDS
            for key in self._typo_keys(words)
        ]
        if typos:
            rows = np.array(typos, dtype=np.uint64)
            self._add_keys(rows[:, 0], _TYPO, rows[:, 1], np.zeros(len(rows), np.uint64))

    def _hashes_of_text(self, text: str) -> int:
        value = self._hashes.__missing__(text)
        del self._hashes[text]
        return value

    def _add_keys(self, keys: Numbers, kind: int, places: Numbers, sketches: Numbers) -> None:
        self._keys.extend(np.column_stack([(keys & ~np.uint64(_KIND)) | np.uint64(kind), places, sketches]))

    def _typo_keys(self, words: Sequence[str]) -> Iterator[int]:
        """For each word that may hold a typing error a key that all prompts have which differ there alone."""
        weighted = [self._hashes[word] * (2 * place + 3) for place, word in enumerate(words)]
        total = sum(weighted) + len(words)
        for place, word in enumerate(words):
            if can_hold_typo(word):
                yield (total - weighted[place] + (place << 40)) * 0x9E3779B97F4A7C15 & _MASK

    def _pair_up(self, rows: Numbers, boundary: int) -> None:
        """Note the candidates among one part of the table of keys."""
        kinds = rows[:, 0] & np.uint64(_KIND)
        for kind, first, before, apart in (
            (_BANDED, _COMPARED_FIRST, _COMPARED_BEFORE, _COMPARED_HELD_OUT),
            (_EQUAL, 1, 0, 1),
        ):
            some = rows[kinds == kind]
            for one, other in _partners(
                some[:, 0], some[:, 1] >= boundary, first=first, before=before, apart_most=apart
            ):
                away = distances(some[one, 2], some[other, 2])
                near = away <= _MOST_DISTANT
                self._pairs.extend(
                    np.column_stack([some[one[near], 1], away[near].astype(np.uint64), some[other[near], 1]])
                )
        typos = rows[kinds == _TYPO]
        starts = np.flatnonzero(np.r_[True, typos[1:, 0] != typos[:-1, 0]][: len(typos)])
        ends = np.r_[starts[1:], len(typos)]
        for start, end in zip(starts[ends - starts > 1], ends[ends - starts > 1], strict=True):
            if end - start <= _MOST_IN_SLOT:
                self._note_typos(typos[start:end, 1].tolist(), boundary)

    def _note_typos(self, places: Sequence[int], boundary: int) -> None:
        members: dict[tuple[str, ...], list[int]] = {}
        for place in places:
            members.setdefault(self._read(place).words, []).append(place)
        prompts = [Prompt(index, words) for index, words in enumerate(members)]
        if not 1 < len(prompts) <= SLOT_FILLERS or len({len(words) for words in members}) > 1:
            return
        columns = enumerate(zip(*members, strict=True))
        slot = next(place for place, words in columns if len(set(words)) > 1)
        for one, other in typos_in_slot(prompts, slot):
            similarity = 1 - 1 / max(len(joined(one.tokens)), len(joined(other.tokens)))
            for this in members[one.tokens]:
                for that in members[other.tokens]:
                    later, earlier = (this, that) if (this > that) != (max(this, that) >= boundary) else (that, this)
                    if later < boundary:
                        self._note(later, earlier, similarity)

    def _note(self, later: int, earlier: int, similarity: float) -> None:
        self._found.add((later, bisect_right(self._begins, earlier), round((1 - similarity) * _UNITS), earlier))

    def _verify(self, rows: Numbers) -> None:
        """Compare the candidates of each prompt, the most alike first, and note those that are near copies."""
        last, kinds, seen = -1, [0] * (len(self._begins) + 1), set[int]()
        for later, _, earlier in rows.tolist():
            if later != last:
                last, kinds, seen = later, [0] * (len(self._begins) + 1), set()
            kind = bisect_right(self._begins, earlier)
            if earlier in seen or kinds[kind] >= _MOST_VERIFIED:
                continue
            seen.add(earlier)
            kinds[kind] += 1
            similarity = _similarity(self._read(later), self._read(earlier))
            if similarity >= NEAR_THRESHOLD:
                self._note(later, earlier, similarity)

    def _read(self, place: int) -> _Read:
        known = self._cache.get(place)
        if known is None:
            text = self._texts.read(place)[3]
            words = words_of(text)
            values, _ = trigrams([words], self._hashes)
            if self._cached_characters > _CACHED_CHARACTERS:
                self._cache.clear()
                self._cached_characters = 0
            self._cached_characters += len(text)
            known = self._cache[place] = _Read(words, values[~np.isin(values, self._template)])
        return known


def _partners(
    keys: Numbers, apart: NDArray[np.bool_], *, first: int, before: int, apart_most: int = 0
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Pairs of rows with one key, as arrays of indices, of which the first is not set apart.

    Args:
        keys: sorted.
        apart: which rows are held-out prompts; behind the others of their key.
        first: with how many of the first of its key each row is paired.
        before: with how many of those right before it.
        apart_most: with how many of those set apart.
    """
    index = np.arange(len(keys))
    fresh = np.r_[True, keys[1:] != keys[:-1]][: len(keys)]
    start = np.maximum.accumulate(np.where(fresh, index, 0)) if len(keys) else index
    own = ~apart
    for step in range(first):
        here = own & (start + step < index)
        yield index[here], (start + step)[here]
    for step in range(1, before + 1):
        here = own & (index - step >= start)
        yield index[here], (index - step)[here]
    # those set apart stand at the end of their key: the first of them is as far from the start as there are others
    groups = np.cumsum(fresh) - 1
    sizes, owns = np.bincount(groups), np.bincount(groups, weights=own).astype(np.int64)
    for step in range(apart_most):
        here = own & (owns + step < sizes)[groups] if len(keys) else own
        yield index[here], (start + owns[groups] + step)[here]


def _similarity(one: _Read, other: _Read) -> float:
    if joined(one.words) == joined(other.words):
        return 1.0
    shared = len(np.intersect1d(one.content, other.content, assume_unique=True))
    every = len(one.content) + len(other.content) - shared
    if not every or not numbers_agree(one.words, other.words):
        return 0.0
    return min(shared / every, BELOW_EQUAL)
