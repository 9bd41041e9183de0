"""Texts as words for searching, and as sentences for cutting: no language model, no word lists but a few stop words."""

from __future__ import annotations

import re
import unicodedata

__all__ = ["STOP_WORDS", "search_words", "sentence_spans"]

# Words of English that say nothing about a text's subject; other languages are left to the weights of BM25.
# fmt: off
STOP_WORDS = frozenset({
    "a", "about", "after", "all", "also", "am", "an", "and", "any", "are", "as", "at", "be", "because", "been",
    "before", "being", "but", "by", "can", "could", "did", "do", "does", "doing", "down", "during", "each", "few",
    "for", "from", "further", "had", "has", "have", "having", "he", "her", "here", "hers", "him", "his", "how", "i",
    "if", "in", "into", "is", "it", "its", "itself", "just", "me", "more", "most", "my", "no", "nor", "not", "now",
    "of", "off", "on", "once", "only", "or", "other", "our", "out", "over", "own", "same", "she", "should", "so",
    "some", "such", "than", "that", "the", "their", "theirs", "them", "then", "there", "these", "they", "this",
    "those", "through", "to", "too", "under", "until", "up", "very", "was", "we", "were", "what", "when", "where",
    "which", "while", "who", "whom", "why", "will", "with", "would", "you", "your", "yours",
})
# fmt: on
# Scripts that put no spaces between words; two neighbouring characters make a word there.
_UNSPACED = r"\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_WORD = re.compile(rf"\d+(?:[.,:]\d+)*|[{_UNSPACED}]+|(?:(?![{_UNSPACED}\d_])\w)+")
_UNSPACED_RUN = re.compile(rf"[{_UNSPACED}]+")
# A full stop after one of these, or after a single letter, ends no sentence.
_ABBREVIATION = re.compile(
    r"(?:\b(?:[A-Za-z]|Mr|Mrs|Ms|Dr|Prof|St|No|Nos|vs|etc|Inc|Ltd|Co|Fig|approx|e\.g|i\.e|cf|al|Jan|Feb|Mar|Apr|Jun|Jul"
    r"|Aug|Sep|Sept|Oct|Nov|Dec))\.$"
)
_BREAK = re.compile(r"(?<=[.!?])[\"'”’)\]]*\s+|(?<=[。\uff01\uff1f])|\n\s*\n|\n(?=\s*(?:[-*•|]|\d+[.)])\s)")


def search_words(text: str) -> list[str]:
    """Cut a text into words that a search compares: caseless, without accents, English plurals as singulars.

    Numbers stay whole ("3.90", "9:00"). Where a script has no spaces, each two neighbouring characters are a word.
    Plurals are taken off by the S-stemmer (Harman 1991, "How effective is suffixing?"), which joins "lamps" with
    "lamp" and leaves all else alone.
    """
    plain = unicodedata.normalize("NFKD", unicodedata.normalize("NFKC", text).casefold())
    letters = unicodedata.normalize("NFC", "".join(one for one in plain if not _is_accent(one)))
    words: list[str] = []
    for found in _WORD.findall(letters):
        if _UNSPACED_RUN.fullmatch(found):
            words += [found[at : at + 2] for at in range(max(1, len(found) - 1))]
        else:
            words.append(_singular(found))
    return words


def sentence_spans(text: str) -> list[tuple[int, int]]:
    """Where the sentences of a text stand, as (start, end) without the white space around them.

    An empty line, and a line that begins an item of a list or a row of a table, also begin a sentence.
    """
    spans: list[tuple[int, int]] = []
    start = 0
    for found in _BREAK.finditer(text):
        before = text[start : found.start()].rstrip("\"'”’)]")
        if "\n" not in found[0] and _ABBREVIATION.search(before):
            continue
        spans.append((start, found.end()))
        start = found.end()
    spans.append((start, len(text)))
    trimmed = [_trimmed(text, *span) for span in spans]
    return [(first, last) for first, last in trimmed if first < last]


def _is_accent(one: str) -> bool:
    # only those of Latin, Greek and Cyrillic: in other scripts combining marks are letters
    return "\u0300" <= one <= "\u036f"


def _singular(word: str) -> str:
    if len(word) <= 3 or not word.endswith("s") or word.endswith(("ss", "us")):
        return word
    if word.endswith("ies") and not word.endswith(("eies", "aies")):
        return word[:-3] + "y"
    return word[:-1]


def _trimmed(text: str, start: int, end: int) -> tuple[int, int]:
    piece = text[start:end]
    return start + len(piece) - len(piece.lstrip()), start + len(piece.rstrip())
