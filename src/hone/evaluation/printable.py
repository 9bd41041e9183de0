"""Text as a page may hold it."""

from __future__ import annotations

import re

__all__ = ["printable"]

# Characters that no page may hold, that turn the reading direction around, or that are half of a surrogate pair.
_UNPRINTABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]")


def printable(text: object) -> str:
    """The text with U+FFFD in place of each character that HTML and XML refuse, or that would reorder what is read.

    Source: XML 1.0, 2.2 (Characters); Unicode Standard Annex 9 (explicit directional formatting).
    """
    return _UNPRINTABLE.sub("\ufffd", str(text))
