"""The JSON family: one row's text -> its value, and every fault within it.

Nearly every row is read by :func:`quick_value`, at the speed of the standard library's scanner; only what that refuses
is looked at closely. Measured on rows of 650 bytes, the strict scanner reads as fast as orjson with the checks that it
lacks (equal keys, integers that it rounds), so there is no need for it (benchmarks/audit.py).
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from typing import Any

from hone.data.faults import Finding, pointer_to
from hone.data.ledger import RowError
from hone.data.strict_json import MAX_NESTING, UNREADABLE, decode_json

__all__ = ["quick_value", "read_value"]

# Integers that a 64-bit float cannot tell from their neighbours (RFC 8259, section 6).
_SAFE_INTEGER = 2**53
_SAFE_DIGITS = 15


class _NeedsLook(Exception):
    """The quick reading came upon something that is not plain."""


class _Twice(dict[str, Any]):
    """An object in which a key stands twice; ``key`` is the first such."""

    key: str = ""


class _NotFinite(float):
    """NaN, an infinity, or what became one; ``written`` is how it stands in the text."""

    written: str = ""


def quick_value(data: bytes) -> Any:
    """The value of a line of JSON that is plain in every respect; None where it must be looked at closely.

    Args:
        data: one line, without a byte order mark.
    """
    try:
        text = data.decode("utf-8")
        if (text.count("{") + text.count("[") > MAX_NESTING) or "\\ud" in text or "\\uD" in text:
            return None
        return _STRICT.decode(text)
    except (ValueError, RecursionError, _NeedsLook):
        return None


def read_value(text: str) -> tuple[Any, list[Finding]]:
    """The value of a row's text, and every fault of its JSON.

    Args:
        text: decoded with ``errors="surrogateescape"``.

    Returns:
        (value, findings); the value is None where the text cannot be read.
    """
    try:
        value = decode_json(text)
    except RowError as error:
        if error.code in UNREADABLE or error.code in {"invalid_utf8", "nul_byte"}:
            return None, [(error.code, "", error.reason)]
        return None, list(_located(text)) or [(error.code, "", error.reason)]
    return value, [finding for pointer, leaf in _leaves(value) for finding in _huge(pointer, leaf)]


def _plain_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise _NeedsLook
    return value


def _plain_float(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        raise _NeedsLook
    return number


def _plain_integer(digits: str) -> int:
    if len(digits) > _SAFE_DIGITS:
        raise _NeedsLook
    return int(digits)


def _no_constant(name: str) -> float:
    raise _NeedsLook


_STRICT = json.JSONDecoder(
    object_pairs_hook=_plain_object, parse_float=_plain_float, parse_int=_plain_integer, parse_constant=_no_constant
)


def _located(text: str) -> Iterator[Finding]:
    """The faults that leave a text readable, each with its pointer."""
    decoder = json.JSONDecoder(object_pairs_hook=_marked_object, parse_constant=_marked, parse_float=_marked)
    try:
        value, _ = decoder.raw_decode(text.strip())
    except (ValueError, RecursionError):
        return
    for pointer, leaf in _leaves(value):
        if isinstance(leaf, _Twice):
            yield "duplicate_keys", pointer, f"the key {json.dumps(leaf.key, ensure_ascii=False)} stands twice"
        elif isinstance(leaf, _NotFinite):
            yield "not_finite", pointer, f"{leaf.written} is no finite number"
        elif isinstance(leaf, str) and (half := next((c for c in leaf if "\ud800" <= c <= "\udfff"), None)):
            yield "lone_surrogate", pointer, f"\\u{ord(half):04x} is half of a pair, and no character by itself"
        else:
            yield from _huge(pointer, leaf)


def _huge(pointer: str, leaf: Any) -> Iterator[Finding]:
    if isinstance(leaf, int) and not isinstance(leaf, bool) and abs(leaf) > _SAFE_INTEGER:
        yield "huge_integer", pointer, f"{leaf if abs(leaf) < 10**40 else str(leaf)[:40] + '...'} is beyond 2^53"


def _marked_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) == len(pairs):
        return value
    keys = [key for key, _ in pairs]
    marked = _Twice(pairs)
    marked.key = next(key for key in keys if keys.count(key) > 1)
    return marked


def _marked(written: str) -> float:
    number = float(written)  # float() reads NaN and Infinity as JSON's extensions write them
    if math.isfinite(number):
        return number
    marked = _NotFinite(number)
    marked.written = written
    return marked


def _leaves(value: Any) -> Iterator[tuple[str, Any]]:
    """Texts, numbers, keys (with the pointer of their object) and marked objects, in the order of the text."""
    stack: list[tuple[str, Any]] = [("", value)]
    while stack:
        pointer, item = stack.pop()
        if isinstance(item, dict):
            if isinstance(item, _Twice):
                yield pointer, item
            yield from ((pointer, key) for key in item)
            stack += [(pointer + pointer_to(key), inner) for key, inner in reversed(item.items())]
        elif isinstance(item, list):
            stack += [(pointer + pointer_to(index), inner) for index, inner in reversed(list(enumerate(item)))]
        else:
            yield pointer, item
