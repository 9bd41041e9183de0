"""Right or wrong answers as sums over rows: labels, exact matches, JSON.

``*_statistics`` gives one vector per row, [rows, k]; ``*_aggregate`` turns summed vectors [..., k] into scores [...]
from 0 to 100 (``sums.py``); where there is no aggregate of its own, it is the mean.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from hone.evaluation.sums import FloatArray, mean_statistics

__all__ = [
    "accuracy_statistics",
    "exact_match_statistics",
    "json_f1_aggregate",
    "json_f1_statistics",
    "json_match_statistics",
    "json_valid_statistics",
    "label_normaliser",
    "macro_f1_aggregate",
    "macro_f1_statistics",
    "parse_json_answer",
    "unknown_label_statistics",
]

_CODE_FENCE = re.compile(r"^```[\w-]*\s*\n(.*?)\n?\s*```$", re.DOTALL)
_TRAILING = ".!?,;:"
_DEEPEST = 64


def label_normaliser(labels: Sequence[str]) -> Callable[[str], str]:
    """How a label is read: trimmed, caseless, single spaces, without trailing ``. ! ? , ; :``.

    Nothing more is forgiven: "The label is spam" is not the label "spam". Where the task's own labels differ
    in nothing but that punctuation, or consist of it ("C." and "C,", or "!" and "?"), it is kept.

    Args:
        labels: the task's labels.
    """

    def caseless(text: str) -> str:
        return " ".join(text.casefold().split())

    def loose(text: str) -> str:
        return caseless(text).rstrip(_TRAILING).rstrip()

    distinct = {caseless(label) for label in labels}
    forms = {loose(label) for label in distinct}
    return loose if len(forms) == len(distinct) and "" not in forms else caseless


def accuracy_statistics(predictions: Sequence[str], references: Sequence[str], labels: Sequence[str]) -> FloatArray:
    """Whether the label is right: (0 or 1, 1), [rows, 2]."""
    read = label_normaliser([*labels, *references])
    return mean_statistics([read(p) == read(r) for p, r in zip(predictions, references, strict=True)])


def unknown_label_statistics(
    predictions: Sequence[str], references: Sequence[str], labels: Sequence[str]
) -> FloatArray:
    """Whether the answer is none of the task's labels: (0 or 1, 1), [rows, 2]."""
    read = label_normaliser([*labels, *references])
    known = {read(label) for label in (*labels, *references)}
    return mean_statistics([read(prediction) not in known for prediction in predictions])


def macro_f1_statistics(predictions: Sequence[str], references: Sequence[str], labels: Sequence[str]) -> FloatArray:
    """Per label (right, predicted, expected), [rows, 3 * labels]; labels in sorted order of their normal form."""
    read = label_normaliser([*labels, *references])
    index = {label: at for at, label in enumerate(sorted({read(label) for label in (*labels, *references)}))}
    counts = np.zeros((len(references), len(index), 3))
    for row, (prediction, reference) in enumerate(zip(predictions, references, strict=True)):
        expected, predicted = index[read(reference)], index.get(read(prediction))
        counts[row, expected, 2] = 1
        if predicted is not None:
            counts[row, predicted, 1] = 1
            counts[row, predicted, 0] = float(predicted == expected)
    return counts.reshape(len(references), -1)


def macro_f1_aggregate(sums: FloatArray) -> FloatArray:
    """Mean F1 over the labels that occur among the references of the (resampled) rows; [..., 3 * labels]."""
    counts = sums.reshape(*sums.shape[:-1], -1, 3)
    right, predicted, expected = counts[..., 0], counts[..., 1], counts[..., 2]
    occurs = expected > 0
    f1 = np.where(occurs, 2.0 * right / np.maximum(predicted + expected, 1e-9), 0.0)
    mean: FloatArray = 100.0 * f1.sum(axis=-1) / np.maximum(occurs.sum(axis=-1), 1)
    return mean


def exact_match_statistics(
    predictions: Sequence[str], references: Sequence[str], normalise: Callable[[str], str] | None = None
) -> FloatArray:
    """Whether the texts are equal after ``normalise`` (runs of white space made one): (0 or 1, 1), [rows, 2]."""
    read = normalise or _single_spaces
    return mean_statistics([read(p) == read(r) for p, r in zip(predictions, references, strict=True)])


def parse_json_answer(text: str) -> dict[str, Any] | list[Any] | None:
    """Parse an answer as a JSON object or array.

    One Markdown code fence around the whole answer is taken off; NaN and Infinity are not JSON.

    Returns:
        The value, or None where it does not parse, is a bare string, number, true, false or null, or is nested more
        than 64 deep (a model that repeats brackets must not exhaust the stack).
    """
    fenced = _CODE_FENCE.match(text.strip())
    try:
        value = json.loads(fenced.group(1) if fenced else text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict | list) and _is_shallow(value) else None


def json_valid_statistics(predictions: Sequence[str], references: Sequence[str]) -> FloatArray:
    """Whether the answer parses as an object or array: (0 or 1, 1), [rows, 2]."""
    return mean_statistics([parse_json_answer(prediction) is not None for prediction in predictions])


def json_match_statistics(predictions: Sequence[str], references: Sequence[str]) -> FloatArray:
    """Whether the parsed values are equal, whatever the order of keys: (0 or 1, 1), [rows, 2].

    A reference that is no JSON is matched as text.
    """
    return mean_statistics([_json_key(p) == _json_key(r) for p, r in zip(predictions, references, strict=True)])


def json_f1_statistics(predictions: Sequence[str], references: Sequence[str]) -> FloatArray:
    """Leaves (path and value) in common: (matched, predicted, expected), [rows, 3].

    Elements of an array of plain values count whatever their order; elements of other arrays by position.
    """
    rows = []
    for prediction, reference in zip(predictions, references, strict=True):
        expected = _leaves_of(reference, parsed_only=False)
        predicted = _leaves_of(prediction, parsed_only=parse_json_answer(reference) is not None)
        rows.append([(predicted & expected).total(), predicted.total(), expected.total()])
    return np.asarray(rows, dtype=np.float64).reshape(-1, 3)


def json_f1_aggregate(sums: FloatArray) -> FloatArray:
    """Micro F1 of summed leaf counts [..., 3]."""
    score: FloatArray = 200.0 * sums[..., 0] / np.maximum(sums[..., 1] + sums[..., 2], 1e-9)
    return score


def _single_spaces(text: str) -> str:
    return " ".join(text.split())


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not JSON")


def _is_shallow(value: Any) -> bool:
    level = [value]
    for _ in range(_DEEPEST):
        nested = [item for item in level if isinstance(item, dict | list)]
        level = [child for item in nested for child in (item.values() if isinstance(item, dict) else item)]
        if not level:
            return True
    return False


def _json_key(text: str) -> str:
    value = parse_json_answer(text)
    return "text:" + _single_spaces(text) if value is None else "json:" + _canonical(value)


def _canonical(value: Any) -> str:
    """One spelling per JSON value; Python alone would hold true equal to 1, and 1 unequal to 1.0 as text."""
    return json.dumps(_whole_numbers(value), sort_keys=True, ensure_ascii=False)


def _whole_numbers(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _whole_numbers(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_whole_numbers(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _leaves_of(text: str, *, parsed_only: bool) -> Counter[tuple[str, str]]:
    value = parse_json_answer(text)
    if value is None:
        return Counter() if parsed_only else Counter([("", _single_spaces(text))])
    return Counter(_leaves(value, ""))


def _leaves(value: Any, path: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, dict) and value:
        for key, item in value.items():
            # JSON-quoted, so that a dot inside a key cannot pass for a level.
            yield from _leaves(item, f"{path}.{json.dumps(key, ensure_ascii=False)}")
    elif isinstance(value, list) and value:
        plain = not any(isinstance(item, dict | list) for item in value)
        for at, item in enumerate(value):
            yield from _leaves(item, f"{path}[]" if plain else f"{path}[{at}]")
    else:
        yield path, _canonical(value)
