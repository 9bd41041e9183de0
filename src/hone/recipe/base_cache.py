"""Figures of a base that do not change: measured once, and read from the home folder afterwards.

The key holds all that they depend on: hashes of base, tokenizer and template, device, type and the questions' own text.
A file that is damaged, or that somebody changed, is measured again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path

from hone.files import write_json
from hone.types import JsonDict

__all__ = ["cached_figures"]


def cached_figures(home: Path, key: Sequence[object], measure: Callable[[], JsonDict]) -> JsonDict:
    """What ``measure`` gives, from the cache where it was measured before.

    Args:
        home: hone's home folder.
        key: everything that the figures depend on; each has a ``repr`` of its own.
        measure: gives them as plain JSON values.

    Raises:
        StorageError: the cache cannot be written.
    """
    path = home / "cache" / "base" / f"{_sum(repr(list(key)))}.json"
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        stored = None
    if isinstance(stored, dict) and stored.get("sha256") == _sum(_text(stored.get("figures"))):
        figures: JsonDict = stored["figures"]
        return figures
    found = measure()
    write_json(path, {"figures": found, "sha256": _sum(_text(found))})
    return found


def _text(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, sort_keys=True)


def _sum(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
