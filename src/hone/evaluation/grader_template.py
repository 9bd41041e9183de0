"""The places of a grader's templates: ``{{ sample.output_text }}``, ``{{ sample.output_json.KEY }}``,
``{{ item.KEY }}``; nothing else of a template language is there.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

__all__ = ["fill_template", "missing_of_item", "unreadable_places"]

_PLACE = re.compile(r"\{\{\s*([\w.\[\]-]+)\s*\}\}")
_BRACES = re.compile(r"\{\{.*?\}\}|\{\{.{0,40}", re.DOTALL)
_READABLE = re.compile(r"item|sample(?:\.output_text|\.output_json)?|(?:item|sample\.output_json)[.\[].+")


def fill_template(template: str, scope: Mapping[str, Any]) -> tuple[str, list[str]]:
    """A template with its places filled.

    Args:
        template: text; braces that hold no place stay as they are.
        scope: {"sample": ..., "item": ...}.

    Returns:
        (text, missing): the places that are not there, which are empty in the text.
    """
    missing: list[str] = []

    def value(found: re.Match[str]) -> str:
        try:
            place = _looked_up(found[1], scope)
        except LookupError:
            missing.append(found[1])
            return ""
        return place if isinstance(place, str) else json.dumps(place, ensure_ascii=False)

    return _PLACE.sub(value, template), missing


def missing_of_item(template: str, item: Any) -> list[str]:
    """The places of a row that a template reads and that ``item`` lacks, as ``item.answer``."""
    missing = fill_template(template, {"item": item})[1]
    return [place for place in dict.fromkeys(missing) if re.match(r"item\b", place)]


def unreadable_places(template: str) -> list[str]:
    """What stands in double braces and is a place of no answer and no row: an expression, a mistyped name."""
    wrong = []
    for found in _BRACES.findall(template):
        place = _PLACE.fullmatch(found)
        if place is None or not _READABLE.fullmatch(place[1]):
            wrong.append(found)
    return list(dict.fromkeys(wrong))


def _looked_up(path: str, scope: Mapping[str, Any]) -> Any:
    """The value at ``item.a.b[0]``; a LookupError where there is none."""
    place: Any = scope
    for part in re.split(r"[.\[\]]+", path.rstrip("]")):
        if isinstance(place, Mapping) and part in place:
            place = place[part]
        elif isinstance(place, list) and part.isdecimal() and int(part) < len(place):
            place = place[int(part)]
        else:
            raise LookupError(path)
    return place
