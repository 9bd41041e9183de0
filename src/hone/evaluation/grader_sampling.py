"""What ``sampling_params`` of a score_model grader may hold.

Source: the OpenAI API reference, "Score Model Grader".
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import Any

__all__ = ["is_number", "sampling_fault"]


def is_number(value: object) -> bool:
    """Whether a JSON value is a finite number."""
    largest = sys.float_info.max
    return isinstance(value, int | float) and not isinstance(value, bool) and -largest <= value <= largest


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


_PARAMETERS: Mapping[str, tuple[str, Callable[[Any], bool]]] = {
    "max_completions_tokens": ("a whole number from 1 up", lambda value: _is_whole(value) and value >= 1),
    "reasoning_effort": ("a text", lambda value: isinstance(value, str)),
    "seed": ("a whole number", _is_whole),
    "temperature": ("a number from 0 to 2", lambda value: is_number(value) and 0 <= value <= 2),
    "top_p": ("a number above 0 and at most 1", lambda value: is_number(value) and 0 < value <= 1),
}


def sampling_fault(sampling: object) -> tuple[str, str] | None:
    """What is wrong with sampling parameters: (field, sentence); None where nothing is. One that is null is not given.

    Args:
        sampling: as they stand in a grader.
    """
    if sampling is None:
        return None
    if not isinstance(sampling, dict):
        return "sampling_params", 'sampling_params is an object, as {"temperature": 0}.'
    for name, value in sampling.items():
        if name not in _PARAMETERS:
            return f"sampling_params.{name}", f"sampling_params has no {name!r}; it has {', '.join(_PARAMETERS)}."
        words, holds = _PARAMETERS[name]
        if value is not None and not holds(value):
            return f"sampling_params.{name}", f"{name} is {words}, and not {value!r}."
    return None
