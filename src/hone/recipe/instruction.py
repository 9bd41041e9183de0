"""The instruction of the prompted arm: the user's own, or one made from the training rows, the same every time.

It says what a person would write after looking at the data: the form of the answers, and three short rows as examples.
"""

from __future__ import annotations

import json
import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from hone.evaluation.answer_scores import parse_json_answer
from hone.evaluation.shape import TaskShape
from hone.recipe.rows import last_user_text
from hone.types import Example, Message

__all__ = ["derive_instruction", "with_instruction"]

_EXAMPLES = 3
_MOST_LABELS = 100
_LONGEST_EXAMPLE_WORDS = 120
_COMMON_KEY_SHARE = 0.25


def derive_instruction(examples: Sequence[Example], shape: TaskShape) -> str:
    """Say in words what the answers look like, and show a few.

    Args:
        examples: the training rows; at least one.
        shape: of their answers.
    """
    answers = [example.answer for example in examples]
    form = _form(answers, shape)
    shown = _typical(examples)
    if not shown:
        return form
    rows = [f"Input: {last_user_text(example)}\nAnswer: {example.answer}" for example in shown]
    return "\n\n".join([form, "Examples:", *rows])


def with_instruction(messages: Sequence[Message], instruction: str) -> tuple[Message, ...]:
    """The same conversation with an instruction at the end of its system message, or as one.

    Args:
        messages: the turns before the answer.
        instruction: what to say.
    """
    if messages and messages[0].role == "system":
        return (replace(messages[0], content=f"{messages[0].content}\n\n{instruction}"), *messages[1:])
    return (Message("system", instruction), *messages)


def _form(answers: Sequence[str], shape: TaskShape) -> str:
    words = round(statistics.median(len(answer.split()) for answer in answers))
    if shape.kind == "labels" and len(shape.labels) <= _MOST_LABELS:
        return f"Answer with exactly one of these labels and nothing else: {', '.join(shape.labels)}."
    if shape.kind == "json":
        keys = _common_keys(answers)
        fields = f" Its fields are: {', '.join(keys)}." if keys else ""
        return f"Answer with JSON alone, without any text around it.{fields}"
    if shape.kind == "code":
        return "Answer with the code or command alone, without explanation and without a code fence."
    if shape.kind == "short":
        return f"Answer in a few words, about {max(1, words)}, without a sentence around them."
    lines = round(statistics.median(len(answer.strip().splitlines()) for answer in answers))
    shape_of_text = f" in {lines} lines" if lines > 1 else ""
    verb = "Summarise" if shape.kind == "summary" else "Answer"
    return f"{verb}{shape_of_text} with about {max(1, words)} words, in the manner of the examples."


def _common_keys(answers: Sequence[str]) -> list[str]:
    counts: Counter[str] = Counter()
    for answer in answers:
        value = parse_json_answer(answer)
        counts.update(value.keys() if isinstance(value, dict) else ())
    return [json.dumps(key, ensure_ascii=False) for key, n in counts.items() if n >= _COMMON_KEY_SHARE * len(answers)]


def _typical(examples: Sequence[Example]) -> list[Example]:
    """Up to three rows of middling length with different answers; none where rows are too long to be shown."""
    plain = [one for one in examples if last_user_text(one).strip() and one.answer.strip()]
    lengths = {id(one): len(last_user_text(one).split()) + len(one.answer.split()) for one in plain}
    short = [one for one in plain if lengths[id(one)] <= _LONGEST_EXAMPLE_WORDS]
    if not short:
        return []
    middle = statistics.median(lengths[id(one)] for one in short)
    chosen: list[Example] = []
    for one in sorted(short, key=lambda one: (abs(lengths[id(one)] - middle), one.row)):
        if len(chosen) < _EXAMPLES and one.answer.strip() not in {other.answer.strip() for other in chosen}:
            chosen.append(one)
    return chosen
