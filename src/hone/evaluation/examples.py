"""Rows to look at: every row with all its answers, and those on which the tuned model gained and lost most."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from hone.evaluation.sums import FloatArray
from hone.types import JsonDict

__all__ = ["answers_by_row", "pick_examples"]

SHOWN = 5
DECIMALS = 6


def answers_by_row(
    row_numbers: Iterable[int],
    prompts: Sequence[str],
    references: Sequence[str],
    predictions: Mapping[str, Sequence[str]],
    stopped: Mapping[str, Sequence[bool]],
    scores: Mapping[str, FloatArray],
) -> list[JsonDict]:
    """Put each row's prompt, reference and answers side by side.

    Args:
        row_numbers: ordinals of the rows in their file.
        prompts: the last user text of each row.
        references: the right answers.
        predictions: by arm, its answer to each row.
        stopped: by arm, whether it ended each answer by itself.
        scores: by arm, the primary metric of each row by itself, [rows].

    Returns:
        One dict a row: ``row``, ``prompt``, ``reference``, and by arm ``answers``, ``stopped``, ``scores``.
    """
    return [
        {
            "row": int(number),
            "prompt": prompts[at],
            "reference": references[at],
            "answers": {arm: texts[at] for arm, texts in predictions.items()},
            "stopped": {arm: bool(ends[at]) for arm, ends in stopped.items()},
            "scores": {arm: round(float(by_row[at]), DECIMALS) for arm, by_row in scores.items()},
        }
        for at, number in enumerate(row_numbers)
    ]


def pick_examples(
    answers: Sequence[JsonDict], arm: str, against: str | None, *, higher_is_better: bool = True
) -> dict[str, list[JsonDict]]:
    """Choose the rows on which ``arm`` gained most and lost most; no row stands in both lists.

    Args:
        answers: as :func:`answers_by_row` gives them.
        arm: the arm to look at.
        against: the arm it is held against; None takes the arm's own best and worst rows.
        higher_is_better: which way the metric runs.

    Returns:
        ``best`` and ``worst``, up to five rows each, most telling first. Each row also has ``difference``: the score
        of ``arm`` minus that of ``against``, in the metric's unit, or None. Among equal differences ``best`` prefers
        the rows that score best, ``worst`` those that score worst. With few gains or losses the last rows of a
        list may be unchanged, or even run the other way: the difference says so.
    """
    sign = 1.0 if higher_is_better else -1.0

    def gain(row: JsonDict) -> tuple[float, float]:
        own = sign * row["scores"][arm]
        return (own - sign * row["scores"][against] if against else own), own

    shown = [
        {
            **row,
            "difference": round(row["scores"][arm] - row["scores"][against], DECIMALS) if against else None,
        }
        for row in sorted(answers, key=gain, reverse=True)
    ]
    count = min(SHOWN, (len(shown) + 1) // 2)
    best, others = shown[:count], shown[count:]
    # Sorted once more: among equals the first row of the file comes first in this list too.
    return {"best": best, "worst": sorted(sorted(others, key=lambda row: row["row"]), key=gain)[:SHOWN]}
