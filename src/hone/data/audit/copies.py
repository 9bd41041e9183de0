"""The family of faults that only other rows can show: copies, near copies, contradictions, and leaks into the test.

Rows are compared by 64-bit hashes of their texts (case and white space do not count), dealt out to disk where they are
many: among a million rows two different ones are taken for equal in 3 of 100 million files.

Near copies are those of ``data/near.py``, the rule that also keeps held-out rows apart: all pairs while the prompts are
at most :data:`MOST_COMPARED` and 8 MB, and beyond that by ``near_search.py``, which holds none in memory.

Source: Lee et al.: Deduplicating training data makes language models better (ACL 2022).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from hone.data.audit.judge import Judged
from hone.data.audit.near_search import NearSearch
from hone.data.audit.spill import NumberTable
from hone.data.faults import Fault
from hone.data.near import near_graph

__all__ = ["MOST_COMPARED", "CopyFinder", "HeldOut", "Place", "text_hash"]

MOST_COMPARED = 20_000
_MOST_CHARACTERS = 8 << 20
_NO_OFFSET = (1 << 64) - 1

Place = tuple[int, int, int | None]
"""Row, line and byte offset."""


@dataclass(frozen=True, slots=True)
class HeldOut:
    """Prompts that training rows must not repeat.

    Args:
        name: the file, for messages.
        code: the fault of a training row that repeats one: ``held_out_copy`` or ``probe_copy``.
        prompts: the texts of the user's turns.
        lines: where each stands in its file.
    """

    name: str
    code: str
    prompts: Sequence[str]
    lines: Sequence[int]


def text_hash(text: str) -> int:
    """A 64-bit hash of a text, equal for texts that differ in case and white space only."""
    plain = " ".join(text.split()).casefold()
    return int.from_bytes(hashlib.blake2b(plain.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")


class CopyFinder:
    """Collects what is needed to compare rows, one row at a time.

    Args:
        most_compared: prompts of which all pairs are compared; more are searched on disk.
    """

    def __init__(self, *, most_compared: int = MOST_COMPARED) -> None:
        self._most_compared = most_compared
        self._equal = NumberTable(6)
        self._prompts: list[str] = []
        self._places: list[Place] = []
        self._characters = 0
        self._search: NearSearch | None = None

    def close(self) -> None:
        """Remove what was put on disk."""
        self._equal.__exit__(None, None, None)
        if self._search is not None:
            self._search.close()

    @property
    def searched(self) -> bool:
        """Whether there are too many prompts to compare all pairs."""
        return self._search is not None

    def add(self, judged: Judged, place: Place) -> None:
        """Note one usable row."""
        row, line, offset = place
        asked = text_hash(judged.asked)
        # the context is seldom there, and then seldom long
        prompt = asked ^ text_hash(judged.context) if judged.context else asked
        where = _NO_OFFSET if offset is None else offset
        compared = judged.asked or judged.context
        compared_hash = asked if judged.asked else text_hash(compared)
        self._equal.add((prompt, text_hash(judged.answer), row, line, where, compared_hash))
        if self._search is not None:
            self._search.add((row, line, where), compared, compared_hash)
            return
        self._prompts.append(compared)
        self._places.append(place)
        self._characters += len(compared)
        if len(self._prompts) > self._most_compared or self._characters > _MOST_CHARACTERS:
            self._search = NearSearch()
            for text, (row, line, offset) in zip(self._prompts, self._places, strict=True):
                where = _NO_OFFSET if offset is None else offset
                self._search.add((row, line, where), text, text_hash(text))
            self._prompts, self._places = [], []

    def faults(self, held_out: Sequence[HeldOut] = ()) -> Iterator[Fault]:
        """Rows whose prompt is equal or nearly equal to a held-out one; copies and contradictions; near copies."""
        if self._search is not None:
            self._search.run([_distinct(one) for one in held_out])
        for index, one in enumerate(held_out):
            yield from self._leaks(one) if self._search is None else self._searched_leaks(one, self._search, index)
        for group in self._equal.groups():
            yield from _equal_faults([tuple(int(number) for number in row) for row in group])
        if self._search is None:
            yield from _near_faults(self._prompts, self._places)
            return
        for twin in self._search.near():
            row, line, where, _ = twin.text
            yield _near_fault((row, line, _offset(where)), twin.other[1], twin.similarity)

    def _leaks(self, held_out: HeldOut) -> Iterator[Fault]:
        graph = near_graph([*held_out.prompts, *self._prompts])
        count = len(held_out.prompts)
        for index, place in enumerate(self._places):
            own = graph.representative[count + index]
            alike = {own: 1.0, **graph.near.get(own, {})}
            best = max(((share, -other) for other, share in alike.items() if other < count), default=None)
            if best is not None:
                yield _leak(held_out, place, held_out.lines[-best[1]], best[0])

    def _searched_leaks(self, held_out: HeldOut, search: NearSearch, index: int) -> Iterator[Fault]:
        known = {text_hash(twin.text[3]): (twin.other[0], twin.similarity) for twin in search.near(index)}
        hashes = np.array(sorted(known), dtype=np.uint64)
        for rows in self._equal.parts():
            for _, _, row, line, where, compared in rows[np.isin(rows[:, 5], hashes)].tolist():
                number, similarity = known[compared]
                yield _leak(held_out, (row, line, _offset(where)), held_out.lines[number], similarity)


def _distinct(held_out: HeldOut) -> list[tuple[int, str]]:
    """The different prompts of a held-out file, each with the index of the first that has it."""
    firsts: dict[int, tuple[int, str]] = {}
    for index, prompt in enumerate(held_out.prompts):
        firsts.setdefault(text_hash(prompt), (index, prompt))
    return list(firsts.values())


def _leak(held_out: HeldOut, place: Place, twin: int, share: float) -> Fault:
    alike = "is equal" if share == 1 else f"is {_percent(share)} alike"
    row, line, offset = place
    return Fault.of(held_out.code, f"its prompt {alike} to {held_out.name}:{twin}", row=row, line=line, offset=offset)


def _offset(number: int) -> int | None:
    return None if number == _NO_OFFSET else number


def _equal_faults(group: Sequence[tuple[int, ...]]) -> Iterator[Fault]:
    """Faults of rows with one prompt: in the order of the file, each later one against the first like it."""
    first_prompt: tuple[int, int] | None = None
    first_of: dict[int, tuple[int, int]] = {}
    for _, answer, row, line, offset, _ in sorted(group, key=lambda one: one[2]):
        place = {"row": row, "line": line, "offset": _offset(offset)}
        if answer in first_of:
            yield Fault.of("duplicate", f"the same as {_named(first_of[answer], line)}", **place)  # type: ignore[arg-type]
            continue
        if first_prompt is not None:
            message = f"another answer than {_named(first_prompt, line)} gives to the same prompt"
            yield Fault.of("conflicting_answers", message, **place)  # type: ignore[arg-type]
        first_of[answer] = (row, line)
        first_prompt = (row, line) if first_prompt is None else first_prompt


def _named(first: tuple[int, int], line: int) -> str:
    """How a fault on ``line`` names an earlier row; rows of one JSON document may share a line."""
    row, its_line = first
    return f"line {its_line}" if its_line != line else f"row {row}"


def _near_faults(prompts: Sequence[str], places: Sequence[Place]) -> Iterator[Fault]:
    """One fault for each prompt that is near an earlier one; equal ones are told by their hashes."""
    graph = near_graph(prompts)
    exact: dict[int, int] = {}
    for index, prompt in enumerate(prompts):
        exact.setdefault(text_hash(prompt), index)
    for index, representative in enumerate(graph.representative):
        if exact[text_hash(prompts[index])] != index:
            continue
        alike = {representative: 1.0, **graph.near.get(representative, {})}
        twin = max(((share, -other) for other, share in alike.items() if other < index), default=None)
        if twin is not None:
            yield _near_fault(places[index], places[-twin[1]][1], twin[0])


def _near_fault(place: Place, other_line: int, similarity: float) -> Fault:
    row, line, offset = place
    message = f"its prompt is {_percent(similarity)} alike to line {other_line}"
    if similarity == 1:
        message = f"its prompt differs from line {other_line} in punctuation alone"
    return Fault.of("near_duplicate", message, row=row, line=line, offset=offset)


def _percent(similarity: float) -> str:
    """Rounded down: what is not equal is never 100% alike."""
    return f"{int(similarity * 100)}%"
