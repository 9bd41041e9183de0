"""What makes two prompts near copies of one another: the rules of ``near.py``, pair by pair.

Kept apart from the search for pairs, of which there are two: ``near.py`` misses none and holds all prompts in memory,
``audit/near_search.py`` works on files of any size.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

__all__ = [
    "BELOW_EQUAL",
    "NEAR_THRESHOLD",
    "SLOT_FILLERS",
    "Prompt",
    "can_hold_typo",
    "joined",
    "numbers_agree",
    "template_count",
    "typos_in_slot",
    "words_of",
]

NEAR_THRESHOLD = 0.85
BELOW_EQUAL = 0.999
"""Similarity 1 is kept for prompts that are equal once normalised."""
SLOT_FILLERS = 20
"""More prompts than this that differ in the same place only fill a slot ("Spell the word ..."); not compared."""
_TEMPLATE_SHARE = 0.5
_TEMPLATE_MIN_PROMPTS = 5
_NUMBERS_COUNT_BELOW_WORDS = 50
_TYPO_MIN_LETTERS = 4
_DIGIT = re.compile(r"\d")

# Numbers, a minus before a digit, runs of letters, single letters of scripts written without spaces, other symbols.
_TOKEN = re.compile(
    r"\d+(?:[.,:]\d+)*"
    r"|(?<![^\W\d_])[-−](?=\s?\d)"
    r"|[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff]"
    r"|[^\W\d_\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff]+"
    # all but the punctuation of prose: ASCII's, dashes, quotation marks, dots, and that of East Asian scripts
    r"|[^\w\s.,;:!?'\"()\[\]{}`\-\u2010-\u2027\u2039\u203a\u00a1\u00ab\u00b7\u00bb\u00bf\u3001-\u303f]"
)


@dataclass(frozen=True, slots=True)
class Prompt:
    """A distinct text: its index, and its words, numbers and symbols."""

    index: int
    tokens: tuple[str, ...]


def words_of(text: str) -> tuple[str, ...]:
    """The words, numbers and symbols of a text that count, in order; never empty."""
    plain = unicodedata.normalize("NFKC", text).casefold()
    # A text of punctuation alone is still a text of its own.
    return tuple(_TOKEN.findall(plain)) or (plain.strip(),)


def joined(tokens: Sequence[str]) -> str:
    """Words in one text without spaces, two numbers kept apart: equal results are equal prompts."""
    plain = "".join(tokens)
    if not _DIGIT.search(plain):
        return plain
    parts: list[str] = []
    for token in tokens:
        if parts and parts[-1][-1:].isdecimal() and token[:1].isdecimal():
            parts.append(" ")
        parts.append(token)
    return "".join(parts)


def template_count(num_prompts: int) -> float:
    """What stands in more prompts than this tells nothing about any of them."""
    return _TEMPLATE_SHARE * num_prompts if num_prompts >= _TEMPLATE_MIN_PROMPTS else num_prompts


def numbers_agree(one: Sequence[str], other: Sequence[str]) -> bool:
    """Whether two prompts have the same numbers, or so many words that another number makes no other question."""
    if min(len(one), len(other)) >= _NUMBERS_COUNT_BELOW_WORDS:
        return True
    return Counter(filter(_is_number, one)) == Counter(filter(_is_number, other))


def can_hold_typo(word: str) -> bool:
    """Whether a word is long enough for one differing letter to be a typing error rather than another word."""
    return len(word) >= _TYPO_MIN_LETTERS and word.isalpha()


def typos_in_slot(same: Sequence[Prompt], place: int) -> list[tuple[Prompt, Prompt]]:
    """The typing errors among prompts that differ at ``place`` only, unless other words stand there too.

    Typing errors of one word hang together; where most words at a place are others altogether ("house", "mouse",
    "apple", "chair"), it is a slot that is filled, and "house" and "mouse" are two words.
    """
    pairs = [(a, b) for a, b in combinations(same, 2) if _is_typo(a.tokens[place], b.tokens[place])]
    pairs = [(a, b) for a, b in pairs if _agree_but_at(a, b, place)]
    linked: set[int] = set()
    found: list[tuple[Prompt, Prompt]] = []
    for start in {a.index for a, _ in pairs}:
        if start in linked:
            continue
        together = {start}
        for _ in same:  # at most this many steps from one end to the other
            together |= {one.index for pair in pairs for one in pair if {pair[0].index, pair[1].index} & together}
        linked |= together
        if 2 * len(together) > len(same):
            found += [pair for pair in pairs if pair[0].index in together]
    return found


def _is_number(token: str) -> bool:
    return token[:1].isdigit()


def _agree_but_at(one: Prompt, other: Prompt, place: int) -> bool:
    return one.tokens[:place] == other.tokens[:place] and one.tokens[place + 1 :] == other.tokens[place + 1 :]


def _is_typo(one: str, other: str) -> bool:
    """Whether one letter inserted, left out, exchanged, or swapped with its neighbour makes one word of the other."""
    short, long = sorted((one, other), key=len)
    if len(short) < _TYPO_MIN_LETTERS or len(long) - len(short) > 1:
        return False
    start = next((at for at, (a, b) in enumerate(zip(short, long, strict=False)) if a != b), len(short))
    if len(short) < len(long):
        return short[start:] == long[start + 1 :]
    if short[start + 1 :] == long[start + 1 :]:
        return True
    swapped = short[start + 1 : start + 2] + short[start : start + 1]
    return swapped == long[start : start + 2] and short[start + 2 :] == long[start + 2 :]
