"""The family of faults that only other rows can show: copies, near copies, contradictions, and leaks into the test.

Rows are compared by 64-bit hashes of their texts (case and white space do not count), dealt out to disk where they are
many: among a million rows two different ones are taken for equal in 3 of 100 million files.

Near copies are those of ``data/near.py``, the rule that also keeps held-out rows apart, while the prompts are at most
:data:`MOST_COMPARED` and 8 MB. Beyond that only equal prompts are compared, and a note says so.

Source: Lee et al.: Deduplicating training data makes language models better (ACL 2022).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from hone.data.audit.judge import Judged
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
        read_row: reads a row again at its byte offset and gives its prompt, for verifying candidates in files of more
            than :data:`MOST_COMPARED` rows; None where rows cannot be read again, and near copies are then not looked
            for beyond that many.
    """

    def __init__(self, read_row: Callable[[int], str] | None = None) -> None:
        self._read_row = read_row
        self._equal = NumberTable(6)
        self._prompts: list[str] | None = []
        self._places: list[Place] = []
        self._characters = 0
        self.rows = 0

    def close(self) -> None:
        """Remove what was put on disk."""
        self._equal.__exit__(None, None, None)

    @property
    def compared_all(self) -> bool:
        """Whether near copies are looked for among all rows."""
        return self._prompts is not None

    def add(self, judged: Judged, place: Place) -> None:
        """Note one usable row."""
        self.rows += 1
        row, line, offset = place
        asked = text_hash(judged.asked)
        # the context is seldom there, and then seldom long
        prompt = asked ^ text_hash(judged.context) if judged.context else asked
        where = _NO_OFFSET if offset is None else offset
        self._equal.add((prompt, text_hash(judged.answer), row, line, where, asked))
        if self._prompts is None:
            return
        self._prompts.append(judged.asked or judged.context)
        self._places.append(place)
        self._characters += len(judged.asked)
        if len(self._prompts) > MOST_COMPARED or self._characters > _MOST_CHARACTERS:
            self._prompts, self._places = None, []

    def faults(self) -> Iterator[Fault]:
        """Copies and contradictions, then near copies."""
        for group in self._equal.groups():
            yield from _equal_faults([tuple(int(number) for number in row) for row in group])
        if self._prompts:
            yield from _near_faults(self._prompts, self._places)

    def leaks(self, held_out: HeldOut) -> Iterator[Fault]:
        """A fault for each row whose prompt is equal or nearly equal to a held-out one.

        In files of more than :data:`MOST_COMPARED` rows only equal prompts are found.
        """
        if self._prompts is None:
            known = {text_hash(prompt): line for prompt, line in zip(held_out.prompts, held_out.lines, strict=True)}
            for rows in self._equal.parts():
                for _, _, row, line, offset, asked in rows.tolist():
                    if asked in known:
                        yield _leak(held_out, (row, line, _offset(offset)), known[asked], 1.0)
            return
        graph = near_graph([*held_out.prompts, *self._prompts])
        count = len(held_out.prompts)
        for index, place in enumerate(self._places):
            own = graph.representative[count + index]
            alike = {own: 1.0, **graph.near.get(own, {})}
            best = max(((share, -other) for other, share in alike.items() if other < count), default=None)
            if best is not None:
                yield _leak(held_out, place, held_out.lines[-best[1]], best[0])


def _leak(held_out: HeldOut, place: Place, twin: int, share: float) -> Fault:
    alike = "is equal" if share == 1 else f"is {share:.0%} alike"
    row, line, offset = place
    return Fault.of(held_out.code, f"its prompt {alike} to {held_out.name}:{twin}", row=row, line=line, offset=offset)


def _offset(number: int) -> int | None:
    return None if number == _NO_OFFSET else number


def _equal_faults(group: Sequence[tuple[int, ...]]) -> Iterator[Fault]:
    """Faults of rows with one prompt: in the order of the file, each later one against the first like it."""
    first_prompt: int | None = None
    first_of: dict[int, int] = {}
    for _, answer, row, line, offset, _ in sorted(group, key=lambda one: one[2]):
        place = {"row": row, "line": line, "offset": _offset(offset)}
        if answer in first_of:
            yield Fault.of("duplicate", f"the same as line {first_of[answer]}", **place)  # type: ignore[arg-type]
            continue
        if first_prompt is not None:
            message = f"another answer than line {first_prompt} gives to the same prompt"
            yield Fault.of("conflicting_answers", message, **place)  # type: ignore[arg-type]
        first_of[answer] = line
        first_prompt = line if first_prompt is None else first_prompt


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
            row, line, offset = places[index]
            message = f"its prompt is {twin[0]:.0%} alike to line {places[-twin[1]][1]}"
            if twin[0] == 1:
                message = f"its prompt differs from line {places[-twin[1]][1]} in punctuation alone"
            yield Fault.of("near_duplicate", message, row=row, line=line, offset=offset)
