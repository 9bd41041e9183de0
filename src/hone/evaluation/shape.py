"""What kind of answer a task wants, found from its reference answers alone.

The shape decides the metrics, so each rule is a share of *all* answers with a stated threshold; the
:class:`TaskShape` carries the sentence that says which rule held. In order of the tests:

    ======  ==========================================================================================
    json    at least 90 % of the answers parse as a JSON object or array
    labels  at least 4 answers; each distinct one occurs 3 times on average, at least 80 % of the answers
            are ones that occur twice or more, and all are one line of at most 8 words and 60 characters
    code    at least 80 % read as SQL, shell, a program or markup (``code_shape.py``)
    short   the median answer has at most 6 words and 60 characters
    text    everything else
    ======  ==========================================================================================
"""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from hone.evaluation.answer_scores import parse_json_answer
from hone.evaluation.code_shape import looks_like_code
from hone.evaluation.text_scores import split_words
from hone.types import JsonDict

__all__ = ["ShapeKind", "TaskShape", "detect_shape"]

ShapeKind = Literal["labels", "json", "code", "short", "summary", "text"]

JSON_SHARE = 0.90
CODE_SHARE = 0.80
LABEL_ROWS = 4
LABEL_REPEATS = 3.0
LABEL_REPEATED_SHARE = 0.80
LABEL_WORDS = 8
LABEL_CHARACTERS = 60
SHORT_WORDS = 6
SHORT_CHARACTERS = 60
SUMMARY_SHARE = 0.5


@dataclass(frozen=True, slots=True)
class TaskShape:
    """The kind of answers that a task wants.

    Args:
        kind: labels, json, code, short, summary or text.
        labels: for kind labels the distinct answers, sorted; empty otherwise.
        reason: one sentence that says which rule decided, with its figures.
    """

    kind: ShapeKind
    labels: tuple[str, ...]
    reason: str

    def to_json(self) -> JsonDict:
        """The shape as plain JSON values."""
        return {"kind": self.kind, "labels": list(self.labels), "reason": self.reason}


def detect_shape(references: Sequence[str], prompts: Sequence[str] = ()) -> TaskShape:
    """Recognise the shape of a task from its reference answers.

    Args:
        references: the answers of the training rows (better) or of the held-out rows; empty ones
            are left out of the count.
        prompts: the last user text of each row; without them a summary cannot be told from other text.

    Returns:
        The shape; ``text`` where there is nothing to judge by.
    """
    answers = [reference.strip() for reference in references if reference.strip()]
    if not answers:
        return TaskShape("text", (), "there are no answers to judge by")
    shape = _as_json(answers) or _as_labels(answers) or _as_code(answers) or _as_short_or_text(answers)
    return _as_summary(references, prompts) or shape if shape.kind == "text" else shape


def _as_json(answers: list[str]) -> TaskShape | None:
    parsed = sum(1 for answer in answers if parse_json_answer(answer) is not None)
    if parsed < JSON_SHARE * len(answers):
        return None
    return TaskShape("json", (), f"{parsed} of {len(answers)} answers are a JSON object or array")


def _as_labels(answers: list[str]) -> TaskShape | None:
    counts = Counter(answers)
    repeated = sum(count for count in counts.values() if count >= 2)
    brief = all(
        "\n" not in answer and len(answer) <= LABEL_CHARACTERS and len(split_words(answer)) <= LABEL_WORDS
        for answer in counts
    )
    if (
        not brief
        or len(answers) < LABEL_ROWS
        or len(answers) < LABEL_REPEATS * len(counts)
        or repeated < LABEL_REPEATED_SHARE * len(answers)
    ):
        return None
    plural = "" if len(counts) == 1 else "s"
    reason = f"{len(answers)} answers repeat {len(counts)} distinct short one{plural}"
    return TaskShape("labels", tuple(sorted(counts)), reason)


def _as_code(answers: list[str]) -> TaskShape | None:
    families = Counter(family for family in map(looks_like_code, answers) if family is not None)
    found = sum(families.values())
    if found < CODE_SHARE * len(answers):
        return None
    family = families.most_common(1)[0][0]
    return TaskShape("code", (), f"{found} of {len(answers)} answers read as code, mostly {family}")


def _as_short_or_text(answers: list[str]) -> TaskShape:
    words = statistics.median(len(split_words(answer)) for answer in answers)
    characters = statistics.median(len(answer) for answer in answers)
    size = f"the median answer has {words:g} words and {characters:g} characters"
    if words <= SHORT_WORDS and characters <= SHORT_CHARACTERS:
        return TaskShape("short", (), size)
    return TaskShape("text", (), size)


def _as_summary(references: Sequence[str], prompts: Sequence[str]) -> TaskShape | None:
    """Text that condenses its prompt; ROUGE was made for it (Lin 2004), and length alone earns less than under chrF."""
    shares = [
        len(reference.strip()) / len(prompt.strip())
        for reference, prompt in zip(references, prompts, strict=False)
        if reference.strip() and prompt.strip()
    ]
    if not shares or statistics.median(shares) > SUMMARY_SHARE:
        return None
    return TaskShape("summary", (), f"the median answer has {statistics.median(shares):.0%} of its prompt's length")
