"""A new version against an old one: both answer the same held-out rows now, and the difference is judged.

Rows that either version was trained on say nothing about it, and are left out; how many were is part of the result.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hone.config.schema import EvaluateConfig
from hone.data.loader import load_examples
from hone.data.manifest import example_hash
from hone.data.split import prompt_key
from hone.engine.events import Recorder
from hone.errors import DataError
from hone.evaluation.head_to_head import HeadToHead, compare_answers
from hone.evaluation.shape import TaskShape
from hone.recipe.evaluate import evaluate
from hone.recipe.rows import last_user_text
from hone.registry.versions import Version
from hone.types import JsonDict

__all__ = ["Answers", "HeldOutComparison", "answer_rows", "compare_on_rows", "held_out_rows", "shape_of_json"]


@dataclass(frozen=True, slots=True)
class Answers:
    """What one version, or its base, answered to a file of rows.

    Args:
        texts: its answers by row number.
        evaluation: the ``evaluation`` object, for shape and metric.
        max_new_tokens: the limit of its answers.
    """

    texts: Mapping[int, str]
    evaluation: JsonDict
    max_new_tokens: int


@dataclass(frozen=True, slots=True)
class HeldOutComparison:
    """A comparison on some rows.

    Args:
        rows: what they are, as ``the held-out rows of support@2``.
        found: the comparison; None where no row could be used.
        trained_on: rows left out because a version was trained on them.
    """

    rows: str
    found: HeadToHead | None
    trained_on: int

    def to_json(self) -> JsonDict:
        """As JSON values."""
        found = None if self.found is None else self.found.to_json()
        return {"of": self.rows, "rows_trained_on": self.trained_on, "comparison": found}


def held_out_rows(version: Version) -> Path:
    """The file of the rows that a version was judged on.

    Raises:
        DataError: it is not there.
    """
    path = version.run_folder / "held_out.jsonl"
    if not path.is_file():
        raise DataError(
            f"the held-out rows of {version.reference} are not there",
            where=str(path),
            why="without them nobody can tell whether another version is worse",
            remedy="restore the file from a copy",
        )
    return path


def answer_rows(
    reference: str,
    path: Path,
    *,
    home: Path,
    recorder: Recorder,
    options: Mapping[str, Any],
    max_new_tokens: int | None = None,
) -> Answers:
    """Let a version, or a base, answer a file of rows, greedily.

    Args:
        reference: of the version or base.
        path: the rows.
        home: hone's home folder.
        recorder: receives events.
        options: device and dtype, where they are given.
        max_new_tokens: longest answer in tokens; chosen where None.

    Raises:
        HoneError: as :func:`hone.recipe.evaluate.evaluate`.
    """
    tuned = "@" in reference
    config = EvaluateConfig.model_validate(
        # retention is the run's to measure
        {"version": reference, "data": str(path), "arms": ("tuned",) if tuned else ("base",), "probes": 0, **options}
        | ({} if max_new_tokens is None else {"max_new_tokens": max_new_tokens})
    )
    result = evaluate(config, home=home, recorder=recorder)
    arm = "tuned" if tuned else "base"
    texts = {int(row["row"]): str(row["answers"][arm]) for row in result.answers}
    return Answers(texts, result.evaluation, int(result.settings["max_new_tokens"]))


def compare_on_rows(
    path: Path, what: str, *, old: Answers, new: Answers, trained: Sequence[Version], metric: str | None, seed: int = 0
) -> HeldOutComparison:
    """Judge two sets of answers to the rows of a file.

    Args:
        path: the rows.
        what: what they are, in words.
        old: the old version's answers; its shape and metric decide.
        new: the new version's.
        trained: versions whose training rows are left out.
        metric: that decides; the old version's where None.
        seed: of the resamples.

    Raises:
        HoneError: the rows cannot be read.
    """
    seen = {row["sha256"] for one in trained for part in ("train", "validation") for row in one.data_manifest[part]}
    both = old.texts.keys() & new.texts.keys()
    examples = [one for one in load_examples(str(path)).examples if one.row in both]
    usable = [one for one in examples if example_hash(one) not in seen]
    if not usable:
        return HeldOutComparison(what, None, len(examples))
    found = compare_answers(
        shape_of_json(old.evaluation["shape"]),
        [last_user_text(one) for one in usable],
        [one.answer for one in usable],
        old=[old.texts[one.row] for one in usable],
        new=[new.texts[one.row] for one in usable],
        metric=metric or old.evaluation["metric"],
        clusters=[prompt_key(one) for one in usable],
        seed=seed,
    )
    return HeldOutComparison(what, found, len(examples) - len(usable))


def shape_of_json(stored: Mapping[str, Any]) -> TaskShape:
    """The shape that an evaluation stored."""
    return TaskShape(stored["kind"], tuple(stored["labels"]), stored["reason"])
