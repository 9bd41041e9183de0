"""Answers to one prompt, packed so that they share it: what preference training computes at once.

An answer set is a row: every answer rendered after the same prompt, and which of them are better than which. A batch
of sets is a packed batch in which each prompt stands once (``pack.py``), with the comparisons beside it.

Shape legend: S supervised tokens of a batch, B answers, P pairs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Protocol, TypeVar

from hone.data.pack import PackedBatch, pack
from hone.data.render import Rendered
from hone.errors import TemplateError
from hone.types import Example, Preference, TokenSequence

__all__ = [
    "AnswerBatch",
    "AnswerRenderer",
    "AnswerSet",
    "joined",
    "pack_answers",
    "pair_sets",
    "single_sets",
    "whole_batches",
]


class _Renders(Protocol):
    def render(self, example: Example) -> Rendered: ...


class _Set(Protocol):
    @property
    def sequences(self) -> tuple[TokenSequence, ...]: ...

    @property
    def ids(self) -> tuple[int, ...]: ...


_OneSet = TypeVar("_OneSet", bound=_Set)


class AnswerRenderer:
    """Renders every answer of a preference after its prompt; other rows as the renderer does.

    Args:
        renderer: of the base, or a plan's estimate of it.
    """

    def __init__(self, renderer: _Renders) -> None:
        self._renderer = renderer

    def render(self, example: Example) -> Rendered:
        """One sequence for each answer, the best first.

        Raises:
            TemplateError: as :meth:`hone.data.render.Renderer.render`; or an answer does not fit into the maximum
                length, so that it could not be compared.
        """
        if not isinstance(example, Preference):
            return self._renderer.render(example)
        sequences: list[TokenSequence] = []
        for answer in example.answers:
            one = Example((*example.prompt, answer), example.tools, example.row, example.line, example.source)
            rendered = self._renderer.render(one)
            if rendered.cut_tokens or len(rendered.sequences) != 1:
                raise TemplateError("an answer is longer than the maximum length, so it cannot be compared")
            sequences += rendered.sequences
        return Rendered(tuple(sequences), 0)


@dataclass(frozen=True, slots=True)
class AnswerSet:
    """The rendered answers of one row.

    Args:
        sequences: prompt and answer, each; the answer's tokens are supervised.
        pairs: indices of (better, worse).
        liked: of a single answer, whether it is as wanted; None where answers are compared.
        margin: by how much a better answer beats a worse one, in units of a reward.
        references: log-probability of each answer under the base, in nats; empty where no method asks.
        mismatched: for KTO, another row's answer after this prompt.
        mismatched_reference: its log-probability under the base.
    """

    sequences: tuple[TokenSequence, ...]
    pairs: tuple[tuple[int, int], ...] = ()
    liked: bool | None = None
    margin: float = 0.0
    references: tuple[float, ...] = ()
    mismatched: TokenSequence | None = None
    mismatched_reference: float = 0.0

    @property
    def row(self) -> int:
        """Ordinal of the input row."""
        return self.sequences[0].row

    @property
    def ids(self) -> tuple[int, ...]:
        """All tokens that are computed for it: the prompt once, then each answer."""
        return joined(self.sequences).ids

    @property
    def weight(self) -> int:
        """What it counts for in the step: its pairs, or one for a single answer."""
        return 1 if self.liked is not None else len(self.pairs)


@dataclass(frozen=True, slots=True)
class AnswerBatch(PackedBatch):
    """A packed batch of answer sets.

    Args:
        better_P: for each pair, the sequence that is better.
        worse_P: the one that is worse.
        margins_P: by how much.
        liked_B: for single answers, whether each is liked; empty where answers are compared.
        references_B: log-probability of each answer under the base; empty where no method asks.
        divergence: for KTO, the estimated divergence from the base in nats, of the whole step.
    """

    better_P: tuple[int, ...]
    worse_P: tuple[int, ...]
    margins_P: tuple[float, ...]
    liked_B: tuple[bool, ...]
    references_B: tuple[float, ...]
    divergence: float

    @property
    def weight(self) -> int:
        """Pairs, or single answers."""
        return len(self.better_P) or len(self.liked_B)

    @property
    def beside(self) -> tuple[AnswerBatch, ...]:
        """The batch itself: its comparisons are the objective's."""
        return (self,)


def pair_sets(examples: Sequence[Preference], sequences: Sequence[Sequence[TokenSequence]]) -> list[AnswerSet]:
    """A set for each row in which answers are compared; a row of one answer gives none.

    Args:
        examples: the rows.
        sequences: their rendered answers.
    """
    return [
        AnswerSet(tuple(rendered), example.pairs, None, example.margin)
        for example, rendered in zip(examples, sequences, strict=True)
        if example.pairs
    ]


def single_sets(examples: Sequence[Preference], sequences: Sequence[Sequence[TokenSequence]]) -> list[AnswerSet]:
    """A set for each answer that is liked or not, each with an answer to another prompt after its own.

    Of compared answers those count as liked that win more often than they lose, and as not liked that lose more often;
    the others are left out.

    Args:
        examples: the rows.
        sequences: their rendered answers.
    """
    found: list[AnswerSet] = []
    for example, rendered in zip(examples, sequences, strict=True):
        if example.liked is not None:
            found.append(AnswerSet(tuple(rendered), liked=example.liked))
            continue
        for index, sequence in enumerate(rendered):
            balance = sum((better == index) - (worse == index) for better, worse in example.pairs)
            if balance:
                found.append(AnswerSet((sequence,), liked=balance > 0))
    if len(found) < 2:
        return found
    longest = max(len(one.sequences[0].ids) for one in found)
    prompts = [_prompt_of(one.sequences[0]) for one in found]
    mismatched = []
    for index, prompt in enumerate(prompts):
        # the nearest before it, cyclically, to another prompt; where all answer one prompt, the one before
        places = ((index - step) % len(found) for step in range(1, len(found)))
        place = next((place for place in places if prompts[place] != prompt), index - 1)
        answer = _answer_of(found[place].sequences[0])[: max(1, longest - len(prompt))]
        flags = (False,) * len(prompt) + (True,) * len(answer)
        mismatched.append(TokenSequence((*prompt, *answer), flags, found[index].row))
    return [
        AnswerSet(one.sequences, liked=one.liked, mismatched=other)
        for one, other in zip(found, mismatched, strict=True)
    ]


def joined(sequences: Sequence[TokenSequence]) -> TokenSequence:
    """Answers as one row, the prompt once: as many tokens as are computed for them, for plans and estimates."""
    first, *others = sequences
    ids, supervised = list(first.ids), list(first.supervised)
    for other in others:
        shared = 0
        for one, two in zip(first.ids, other.ids, strict=False):
            if one != two:
                break
            shared += 1
        ids += other.ids[shared:]
        supervised += other.supervised[shared:]
    return TokenSequence(tuple(ids), tuple(supervised), first.row)


def pack_answers(sets: Sequence[AnswerSet], *, max_tokens: int, divergence: float = 0.0) -> list[AnswerBatch]:
    """Pack answer sets into micro-batches of at most ``max_tokens`` tokens, each set whole.

    Args:
        sets: of one optimizer step.
        max_tokens: tokens computed at once, each prompt counted once; a larger set stands alone.
        divergence: see :class:`AnswerBatch`.
    """
    return [_packed(batch, divergence) for batch in whole_batches(sets, max_tokens=max_tokens)]


def whole_batches(sets: Sequence[_OneSet], *, max_tokens: int) -> list[list[_OneSet]]:
    """Batches of at most ``max_tokens`` tokens, each set of answers whole, neighbours with a common beginning together.

    Args:
        sets: answers to one prompt each; ``ids`` counts the prompt once.
        max_tokens: tokens computed at once; a larger set stands alone.
    """
    batches: list[list[_OneSet]] = []
    used = 0
    # neighbours share system prompts
    for one in sorted(sets, key=lambda one: one.sequences[0].ids):
        tokens = len(one.ids)
        if not batches or used + tokens > max_tokens:
            batches.append([])
            used = 0
        batches[-1].append(one)
        used += tokens
    return batches


def _packed(sets: Sequence[AnswerSet], divergence: float) -> AnswerBatch:
    batch = pack([sequence for one in sets for sequence in one.sequences])
    better, worse, margins, starts = [], [], [], 0
    for one in sets:
        better += [starts + pair[0] for pair in one.pairs]
        worse += [starts + pair[1] for pair in one.pairs]
        margins += [one.margin] * len(one.pairs)
        starts += len(one.sequences)
    return AnswerBatch(
        **{field.name: getattr(batch, field.name) for field in fields(PackedBatch)},
        better_P=tuple(better),
        worse_P=tuple(worse),
        margins_P=tuple(margins),
        liked_B=tuple(one.liked for one in sets if one.liked is not None),
        references_B=tuple(reference for one in sets for reference in one.references),
        divergence=divergence,
    )


def _answer_of(sequence: TokenSequence) -> tuple[int, ...]:
    return tuple(token for token, flag in zip(sequence.ids, sequence.supervised, strict=True) if flag)


def _prompt_of(sequence: TokenSequence) -> tuple[int, ...]:
    return sequence.ids[: sequence.supervised.index(True)]
