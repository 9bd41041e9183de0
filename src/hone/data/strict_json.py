"""JSON read strictly: what other readers mend or lose in silence is named here.

Python's parser accepts NaN, keeps the last of two equal keys, and lets half of a UTF-16 pair through, which then
fails deep inside a tokenizer. Each of these is a fault of the one row that has it.

Source: RFC 8259, sections 4 (names unique), 6 (numbers) and 8.2 (lone surrogates).
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from typing import Any

from hone.data.ledger import RowError

__all__ = ["MAX_NESTING", "UNREADABLE", "breaks_off", "decode_json", "decode_prefix", "skip_whitespace"]

MAX_NESTING = 64
# Faults after which it is unknown where the value ends.
UNREADABLE = frozenset({"json_comment", "not_json", "python_repr", "trailing_comma", "truncated"})
_ESCAPED_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
# What Python's "surrogateescape" makes of bytes that are not UTF-8.
_UNDECODABLE = re.compile("[\udc80-\udcff]")
_CUT_ESCAPE = re.compile(r"-|\.|[eE][-+]?|\\?(?:u[0-9a-fA-F]{0,3})?")
_WHITESPACE = re.compile(r"[ \t\n\r]*")


def decode_json(text: str) -> Any:
    """The value of one JSON text.

    Args:
        text: decoded with ``errors="surrogateescape"``, so that bytes that are not UTF-8 can be told.

    Returns:
        The value.

    Raises:
        RowError: the text is not JSON, or has a fault that is not to be trained on.
    """
    if "\0" in text:
        raise RowError("nul_byte", f"a NUL byte at character {text.index(chr(0)) + 1}")
    start = skip_whitespace(text, 0)
    value, end, fault = decode_prefix(text, start)
    if fault is not None:
        raise fault
    rest = skip_whitespace(text, end)
    if rest != len(text):
        raise RowError("not_json", f"not JSON: more text after the value's end, at character {rest + 1}")
    return value


def skip_whitespace(text: str, start: int) -> int:
    """The index of the first character from ``start`` on that is not JSON's white space."""
    match = _WHITESPACE.match(text, start)
    return match.end() if match else start


def decode_prefix(text: str, start: int) -> tuple[Any, int, RowError | None]:
    """The JSON value that begins at ``start``, and the first fault within it.

    A fault that leaves the text readable (equal keys, NaN) is returned, so that a reader can go on behind the value.

    Args:
        text: as for :func:`decode_json`.
        start: index of the value's first character.

    Returns:
        (value, index behind the value, fault or None).

    Raises:
        RowError: the text at ``start`` is not JSON, so that where the value ends is unknown.
    """
    faults: list[RowError] = []
    decoder = json.JSONDecoder(
        object_pairs_hook=lambda pairs: _unique(pairs, faults),
        parse_constant=lambda name: _not_finite(name, faults),
        parse_float=lambda digits: _finite(digits, faults),
    )
    try:
        value, end = decoder.raw_decode(text, start)
    except json.JSONDecodeError as error:
        undecodable = _undecodable(text, start, len(text))
        raise undecodable or _explain(error, start) from error
    except RecursionError as error:
        raise RowError("too_deep", f"nested more than {MAX_NESTING} levels deep") from error
    except ValueError as error:  # an integer of more digits than Python converts
        raise RowError("not_finite", f"a number too long to read: {error}") from error
    fault = _undecodable(text, start, end) or _lone_surrogate(text, start, end, value)
    fault = fault or _nesting(text, start, end, value) or (faults[0] if faults else None)
    return value, end, fault


def breaks_off(error: json.JSONDecodeError) -> bool:
    """Whether the text ends before its value does, so that more text might mend it."""
    # an escape or a literal that is not all there is reported where it begins
    left = error.doc[error.pos :].rstrip(" \t\n\r")
    cut_word = any(word.startswith(left) for word in ("true", "false", "null")) or _CUT_ESCAPE.fullmatch(left)
    return error.msg.startswith("Unterminated string") or bool(cut_word)


def _unique(pairs: list[tuple[str, Any]], faults: list[RowError]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        twice, _ = Counter(key for key, _ in pairs).most_common(1)[0]
        faults.append(RowError("duplicate_keys", f"the key {_quoted(twice)} stands twice in one object"))
    return value


def _quoted(key: str) -> str:
    return json.dumps(key, ensure_ascii=False)


def _not_finite(name: str, faults: list[RowError]) -> float:
    faults.append(RowError("not_finite", f"{name} is not JSON"))
    return math.nan


def _finite(digits: str, faults: list[RowError]) -> float:
    number = float(digits)
    if not math.isfinite(number):
        faults.append(RowError("not_finite", f"{digits} is too large for a number"))
    return number


def _undecodable(text: str, start: int, end: int) -> RowError | None:
    found = _UNDECODABLE.search(text, start, end)
    if found is None:
        return None
    byte = ord(found.group()) - 0xDC00
    return RowError("invalid_utf8", f"byte 0x{byte:02X} at character {found.start() - start + 1} is not UTF-8")


def _lone_surrogate(text: str, start: int, end: int, value: Any) -> RowError | None:
    if _ESCAPED_SURROGATE.search(text, start, end) is None:
        return None
    try:
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError as error:
        half = error.object[error.start]
        return RowError("lone_surrogate", f"\\u{ord(half):04x} is half of a pair, and no character by itself")
    return None


def _nesting(text: str, start: int, end: int, value: Any) -> RowError | None:
    if text.count("{", start, end) + text.count("[", start, end) <= MAX_NESTING:
        return None
    level = [value]
    for _ in range(MAX_NESTING):
        level = [child for parent in level for child in _children(parent)]
    if any(isinstance(node, dict | list) for node in level):
        return RowError("too_deep", f"nested more than {MAX_NESTING} levels deep")
    return None


def _children(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return list(value.values())
    return value if isinstance(value, list) else []


def _explain(error: json.JSONDecodeError, start: int) -> RowError:
    text = error.doc[start : start + 4096]
    behind = error.doc[start : error.pos].rstrip()[-1:]
    at = error.doc[error.pos : error.pos + 2]
    reason = f"not JSON: {error.msg[0].lower()}{error.msg[1:]}, at character {error.pos - start + 1}"
    if re.match(r"[\[{]\s*'", text):
        reason += "; single quotes are Python's way of printing, not JSON: write rows with json.dumps"
        return RowError("python_repr", reason)
    if at[:1] in ("}", "]") and behind == ",":
        return RowError("trailing_comma", f"{reason}; JSON has no comma before a closing bracket")
    if at.startswith(("//", "/*", "#")):
        return RowError("json_comment", f"{reason}; JSON has no comments")
    if text[:1] in ("{", "[") and breaks_off(error):
        return RowError("truncated", f"{reason}; the row breaks off there")
    return RowError("not_json", reason)
