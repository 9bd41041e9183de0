"""Documents cut into passages: whole sentences, one heading, a size that several of fit into a prompt."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from hone.retrieval.documents import Document, Section
from hone.retrieval.words import sentence_spans

__all__ = ["PASSAGE_WORDS", "Passage", "cut_passages"]

PASSAGE_WORDS = 120
"""Words of a passage, at most: about 160 tokens, so that three of them leave room in a small model's context."""

_WORD = re.compile(r"\S+")


@dataclass(frozen=True, slots=True)
class Passage:
    """A piece of a document, and where it stands.

    Args:
        source: the document's path inside its folder.
        heading: the headings above it.
        start: where it begins in the document's text, in characters.
        end: where it ends.
        text: what stands there.
    """

    source: str
    heading: str
    start: int
    end: int
    text: str

    @property
    def searched(self) -> str:
        """What a search looks at: a heading often names what the sentences under it call "it"."""
        return f"{self.heading}\n{self.text}" if self.heading else self.text


def cut_passages(documents: Sequence[Document], *, most_words: int = PASSAGE_WORDS) -> list[Passage]:
    """Cut documents into passages.

    A passage holds whole sentences of one section, as many as fit; a next one begins with the last sentence of the one
    before it, so that what is said in two sentences stands together once. A sentence that is too long is cut by words.

    Args:
        documents: as they were read.
        most_words: upper bound of a passage, in words (runs without white space).
    """
    assert most_words > 0, "a passage holds words"
    return [
        Passage(document.source, section.heading, section.start + start, section.start + end, section.text[start:end])
        for document in documents
        for section in document.sections
        for start, end in _spans(section, most_words)
    ]


def _spans(section: Section, most_words: int) -> Iterator[tuple[int, int]]:
    pieces = [piece for span in sentence_spans(section.text) for piece in _short(section.text, span, most_words)]
    lengths = [len(section.text[start:end].split()) for start, end in pieces]
    first = 0
    while first < len(pieces):
        last, words = first, lengths[first]
        while last + 1 < len(pieces) and words + lengths[last + 1] <= most_words:
            last += 1
            words += lengths[last]
        yield pieces[first][0], pieces[last][1]
        if last + 1 == len(pieces):
            return
        # the overlap of one sentence, unless it would keep the next passage from going further than this one
        fits = last > first and lengths[last] + lengths[last + 1] <= most_words
        first = last if fits else last + 1


def _short(text: str, span: tuple[int, int], most_words: int) -> Iterator[tuple[int, int]]:
    words = [(found.start(), found.end()) for found in _WORD.finditer(text, *span)]
    for at in range(0, len(words), most_words):
        part = words[at : at + most_words]
        yield part[0][0], part[-1][1]
