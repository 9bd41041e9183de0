"""Parts of the held-out rows on which base and tuned arms are compared by themselves: better overall can hide worse.

Rows are parted by what stands in the question, which is the same for every arm. Parts by the right answer are measured
for ``labels`` and shown, and decide nothing: an arm that always gives one label is right on all of that label's rows,
and any arm that has learnt to tell labels apart is worse there.
"""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

from hone.evaluation.correction import corrected
from hone.evaluation.scorers import Metric
from hone.evaluation.shape import TaskShape
from hone.evaluation.statistics import Comparison, PairedBootstrap
from hone.evaluation.sums import FloatArray
from hone.types import Example, JsonDict

__all__ = ["FEWEST_ROWS", "Slice", "SliceFound", "compare_on_slices", "slices_of"]

FEWEST_ROWS = 8
_MOST_VALUES = 12  # different system prompts or labels; beyond, each part is too small a share to be looked at
_SHOWN_CHARACTERS = 40


@dataclass(frozen=True, slots=True)
class Slice:
    """A part of the rows.

    Args:
        name: as people read it.
        rows: indices into the held-out rows, rising.
        decides: whether being worse here counts in the verdict.
    """

    name: str
    rows: tuple[int, ...]
    decides: bool = True


@dataclass(frozen=True, slots=True)
class SliceFound:
    """What the arms reach on a part, under the primary metric.

    Args:
        slice: which.
        scores: of the base and each tuned arm by name.
        against_base: of each tuned arm minus the base, corrected over all parts that decide, or over the others.
    """

    slice: Slice
    scores: Mapping[str, float]
    against_base: Mapping[str, Comparison]

    def is_worse(self, arm: str, *, higher_is_better: bool) -> bool:
        """Whether the arm is shown to be worse than the base on it.

        Args:
            arm: a tuned arm.
            higher_is_better: of the primary metric.
        """
        compared = self.against_base.get(arm)
        return compared is not None and compared.different and (compared.difference < 0) == higher_is_better

    def to_json(self) -> JsonDict:
        """The figures as plain JSON values."""
        return {
            "name": self.slice.name,
            "rows": len(self.slice.rows),
            "decides": self.slice.decides,
            "scores": {name: round(score, 6) for name, score in self.scores.items()},
            "against_base": {
                name: {
                    "difference": round(compared.difference, 6),
                    "interval": None if compared.interval is None else [round(one, 6) for one in compared.interval],
                    "p_adjusted": None if compared.p_adjusted is None else round(compared.p_adjusted, 6),
                    "different": compared.different,
                }
                for name, compared in self.against_base.items()
            },
        }


def slices_of(examples: Sequence[Example], shape: TaskShape) -> list[Slice]:
    """Part held-out rows by the length of their questions, their turns, system prompts and tools; labels by the answer.

    A part has at least ``FEWEST_ROWS`` rows, and leaves at least as many out.

    Args:
        examples: the held-out rows.
        shape: of the answers.
    """
    if not examples:
        return []
    lengths = [sum(len(turn.content) for turn in one.prompt if turn.role == "user") for one in examples]
    middle = statistics.median(lengths)
    asked = [sum(turn.role == "user" for turn in one.prompt) for one in examples]
    systems = ["\n".join(turn.content for turn in one.prompt if turn.role == "system") for one in examples]
    found = [
        *_parted(["shorter questions" if one <= middle else "longer questions" for one in lengths]),
        *_parted(["one question" if one < 2 else "several turns" for one in asked]),
        *_parted([f'system prompt "{_shown(one)}"' if one else "no system prompt" for one in systems]),
        *_parted(["with tools" if one.tools else "without tools" for one in examples]),
    ]
    if shape.kind == "labels":
        found += _parted([f'right answer "{_shown(one.answer)}"' for one in examples], decides=False)
    return found


def _shown(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _SHOWN_CHARACTERS else line[: _SHOWN_CHARACTERS - 3] + "..."


def _parted(names: Sequence[str], *, decides: bool = True) -> list[Slice]:
    counts = Counter(names)
    if not 2 <= len(counts) <= _MOST_VALUES:
        return []
    return [
        Slice(name, tuple(index for index, one in enumerate(names) if one == name), decides)
        for name, count in sorted(counts.items())
        if FEWEST_ROWS <= count <= len(names) - FEWEST_ROWS
    ]


def compare_on_slices(
    slices: Sequence[Slice],
    metric: Metric,
    sums: Mapping[str, FloatArray],
    *,
    like: PairedBootstrap,
    clusters: Sequence[Hashable] | None,
) -> list[SliceFound]:
    """Hold every tuned arm against the base on each part.

    Args:
        slices: as :func:`slices_of` gives them.
        metric: the primary one.
        sums: its sufficient statistics of each arm by name, [rows, k] each.
        like: of all rows; its seed and its confidence are taken.
        clusters: per row, what it belongs to; None: each row by itself.

    Returns:
        One for each part; none without a base and a tuned arm.
    """
    tuned = [name for name in sums if name.startswith("tuned")]
    if "base" not in sums or not tuned:
        return []
    of_arms = {name: sums[name] for name in ("base", *tuned)}
    families = [[part for part in slices if part.decides == decides] for decides in (True, False)]
    return [one for family in families for one in _family(family, metric, of_arms, like=like, clusters=clusters)]


def _family(
    slices: Sequence[Slice],
    metric: Metric,
    sums: Mapping[str, FloatArray],
    *,
    like: PairedBootstrap,
    clusters: Sequence[Hashable] | None,
) -> list[SliceFound]:
    """Parts that are corrected together."""
    tuned = [name for name in sums if name != "base"]
    compared = []
    for part in slices:
        at = list(part.rows)
        of_part = None if clusters is None else [clusters[index] for index in at]
        bootstrap = PairedBootstrap(len(at), seed=like.seed, confidence=like.confidence, clusters=of_part)
        compared += [
            bootstrap.compare(
                sums[name][at], sums["base"][at], metric.aggregate, higher_is_better=metric.higher_is_better,
                bounds=metric.bounds, row_scores=metric.row_aggregate,
            )
            for name in tuned
        ]  # fmt: skip
    judged = iter(corrected(compared))
    return [
        SliceFound(
            part,
            {name: float(metric.aggregate(one[list(part.rows)].sum(axis=0))) for name, one in sums.items()},
            {name: next(judged) for name in tuned},
        )
        for part in slices
    ]
