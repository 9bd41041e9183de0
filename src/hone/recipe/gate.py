"""The gate of an alias: what a version must show before it takes the place of another.

proof       every invariant holds
evaluation  not worse beyond chance than what stands there now, on that one's held-out rows; where that is the base,
            on the version's own. Reward models write nothing: they score the answers of those rows
retention   within the bounds that its run was given, where it was measured
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hone.data.answers import AnswerRenderer
from hone.data.loader import load_examples
from hone.data.manifest import example_hash
from hone.data.split import prompt_key
from hone.engine.events import Event, Recorder
from hone.errors import BadInputError, HoneError, ProofError, StorageError, TemplateError, TrainingError
from hone.evaluation.head_to_head import HeadToHead
from hone.evaluation.preferences import PREFERENCE_ACCURACY, ArmMargins, JudgedPair, compare_preferences
from hone.evaluation.rewards import REWARD
from hone.recipe.head_to_head import answer_rows, compare_on_rows, held_out_rows
from hone.recipe.inference import is_reward_model, load_answerer
from hone.recipe.reward import answer_scores
from hone.recipe.rows import last_user_text, shape_of_answers
from hone.registry.proven import require_proven
from hone.registry.versions import Version
from hone.types import JsonDict, Preference, TokenSequence

__all__ = [
    "Figure",
    "evaluation_against",
    "evaluation_against_base",
    "in_words",
    "proof_figure",
    "retention_figure",
]


@dataclass(frozen=True, slots=True)
class Figure:
    """One thing that the gate looks at.

    Args:
        name: proof, evaluation or retention.
        holds: whether it lets the version pass; None where it was not measured, which lets it pass and is said.
        found: what was measured, in a sentence.
        details: further sentences, as the invariants that do not hold.
        numbers: the figures as JSON values.
    """

    name: str
    holds: bool | None
    found: str
    details: tuple[str, ...] = ()
    numbers: JsonDict | None = None

    def to_json(self) -> JsonDict:
        """All fields."""
        return {
            "name": self.name,
            "holds": self.holds,
            "found": self.found,
            "details": list(self.details),
            "numbers": self.numbers,
        }


def proof_figure(version: Version) -> Figure:
    """Whether its proof holds."""
    try:
        require_proven(version, accept_unproven=False, action="promote")
    except ProofError as error:
        return Figure("proof", False, f"{version.reference} is unproven", error.details)
    return Figure("proof", True, f"all {len(version.proof or [])} invariants hold")


def retention_figure(version: Version) -> Figure:
    """Whether what the run measured of the base's general ability is within its bounds."""
    found = _stored(version.run_folder / "evaluation.json").get("retention")
    if not isinstance(found, dict) or "kept" not in found:
        return Figure("retention", None, "not measured: what the model forgot outside of its task is not known")
    if found["kept"] is None:
        return Figure("retention", None, "measured, but not judged: the run was told to keep nothing (--keep off)")
    losses = tuple(str(one) for one in found.get("losses") or ())
    if not found["kept"]:
        return Figure("retention", False, "more of the base's general ability was lost than its bounds allow", losses)
    return Figure("retention", True, "within its bounds")


def evaluation_against_base(version: Version) -> Figure:
    """Whether it is no worse than its base, as its run measured."""
    differences = (version.evaluation or {}).get("differences") or []
    found = next((one for one in differences if (one["arm"], one["against"]) == ("tuned", "base")), None)
    if version.evaluation is None or found is None:
        return Figure("evaluation", False, f"{version.reference} was never compared with its base")
    metric = version.evaluation["metrics"][version.evaluation["metric"]]
    worse = found["different"] and (found["difference"] > 0) != metric["higher_is_better"]
    scores = [version.evaluation["arms"][arm]["score"] for arm in ("tuned", "base")]
    text = (
        f"{'worse' if worse else 'not worse'} than its base on {version.evaluation['rows']} held-out rows of its own: "
        f"{metric['title']} {scores[0]:.2f} against {scores[1]:.2f}{_interval(found['difference'], found['interval'])}"
    )
    return Figure("evaluation", not worse, text, numbers=dict(found))


def evaluation_against(
    version: Version, current: Version, *, home: Path, recorder: Recorder, options: Mapping[str, Any]
) -> Figure:
    """Whether it is no worse than another version on that one's held-out rows; both answer, or score, them now.

    What cannot be measured does not hold: nobody then knows.

    Args:
        version: that is to take the place.
        current: that stands there.
        home: hone's home folder.
        recorder: receives events.
        options: device, dtype and so on of the evaluation, where they are given.
    """
    scoring = [one.reference for one in (version, current) if is_reward_model(one.run_folder)]
    if len(scoring) == 1:
        return Figure(
            "evaluation", False, f"{scoring[0]} is a reward model and the other is none: one scores, the other answers",
            ("train it under another --name, so that each name is of one kind; --force puts it there all the same",),
        )  # fmt: skip
    if scoring:
        return _judges_compared(version, current, home=home, recorder=recorder, options=options)
    judged_by = (current.evaluation or {}).get("metric")
    if judged_by in (PREFERENCE_ACCURACY.name, REWARD.name):
        return Figure(
            "evaluation", False, f"{current.reference} was judged by {judged_by}, which compares no two versions",
            (f"compare their answers with `hone rank {version.reference} --against {current.reference}`; --force then "
             "promotes what people prefer",),
        )  # fmt: skip
    try:
        path = held_out_rows(current)
        recorder.record(Event("stage", {"name": "gate", "detail": f"{current.reference} on its held-out rows"}))
        # as long as its run let it answer; the rows are then judged as they were
        asked = (_stored(current.run_folder / "result.json").get("generation") or {}).get("max_new_tokens")
        old = answer_rows(current.reference, path, home=home, recorder=recorder, options=options, max_new_tokens=asked)
        recorder.record(Event("stage", {"name": "gate", "detail": f"{version.reference} on the same rows"}))
        new = answer_rows(
            version.reference, path, home=home, recorder=recorder, options=options, max_new_tokens=old.max_new_tokens
        )
        compared = compare_on_rows(
            path, f"the held-out rows of {current.reference}", old=old, new=new, trained=[version, current], metric=None
        )
    except (BadInputError, StorageError, TrainingError) as error:
        return _not_compared(current, error)
    left_out = _left_out(compared.trained_on)
    if compared.found is None or not compared.found.is_judged:
        few = f"too few rows to compare it with {current.reference}{left_out}"
        return Figure("evaluation", False, few, numbers=compared.to_json())
    word = "worse" if compared.found.is_worse else "not worse"
    text = f"{word} than {current.reference} on {compared.found.rows} of its held-out rows: {in_words(compared.found)}"
    return Figure("evaluation", not compared.found.is_worse, text + left_out, numbers=compared.to_json())


def _not_compared(current: Version, error: HoneError) -> Figure:
    why = f"it could not be compared with {current.reference}"
    return Figure("evaluation", False, why, tuple(error.render().splitlines()))


def _left_out(num_rows: int) -> str:
    return f"; {num_rows} rows left out, because it was trained on them" if num_rows else ""


def _judges_compared(
    version: Version, current: Version, *, home: Path, recorder: Recorder, options: Mapping[str, Any]
) -> Figure:
    """Whether a reward model finds the better answer no less often than another one, on that one's held-out pairs."""
    try:
        rows = load_examples(str(held_out_rows(current)), preferences=True).examples
        seen = {
            row["sha256"]
            for one in (version, current)
            for part in ("train", "validation")
            for row in one.data_manifest[part]
        }
        pairs = [one for one in rows if isinstance(one, Preference) and one.pairs]
        usable = [one for one in pairs if example_hash(one) not in seen]
        old, new = ({}, {}) if not usable else (
            _leads(one.reference, usable, home=home, recorder=recorder, options=options) for one in (current, version)
        )  # fmt: skip
    except (BadInputError, StorageError, TrainingError) as error:
        return _not_compared(current, error)
    left_out = _left_out(len(pairs) - len(usable))
    both = [key for key in old if key in new]
    few = f"too few pairs to compare it with {current.reference}{left_out}"
    if not both:
        return Figure("evaluation", False, few)
    by_row = {one.row: one for one in usable}
    found, _ = compare_preferences(
        [JudgedPair(row, prompt_key(by_row[row]), 0, 0) for row, _, _ in both],
        [
            ArmMargins("base", [old[key] for key in both], "score"),
            ArmMargins("tuned", [new[key] for key in both], "score"),
        ],
        shape=shape_of_answers(usable),
        prompts={row: last_user_text(one) for row, one in by_row.items()},
        references={row: one.answer for row, one in by_row.items()},
    )
    difference = found.differences[0].to_json()
    if difference["interval"] is None:
        return Figure("evaluation", False, few)
    worse = difference["different"] and difference["difference"] < 0
    text = (
        f"{'worse' if worse else 'not worse'} than {current.reference} on {len(both)} pairs of its held-out rows: "
        f"{PREFERENCE_ACCURACY.title} {found.arms['tuned'].score:.2f} against {found.arms['base'].score:.2f}"
        f"{_interval(difference['difference'], difference['interval'])}{left_out}"
    )
    return Figure("evaluation", not worse, text, numbers={**difference, "arm": version.reference,
                                                          "against": current.reference})  # fmt: skip


def _leads(
    reference: str, rows: Sequence[Preference], *, home: Path, recorder: Recorder, options: Mapping[str, Any]
) -> dict[tuple[int, int, int], float]:
    """By how much a reward model scores the better answer of each (row, better, worse) above the worse one.

    Rows that its template or its length cannot take are not there.
    """
    recorder.record(Event("stage", {"name": "gate", "detail": f"{reference} scores the held-out pairs"}))
    judge = load_answerer(
        reference, home=home, device=options.get("device"), dtype=options.get("dtype"),
        note=lambda text: recorder.record(Event("note", {"text": text})),
    )  # fmt: skip
    renderer = AnswerRenderer(judge.renderer)
    starts: dict[int, int] = {}
    sequences: list[TokenSequence] = []
    for one in rows:
        try:
            rendered = renderer.render(one).sequences
        except TemplateError:
            continue
        starts[one.row] = len(sequences)
        sequences += rendered
    scores = answer_scores(judge, sequences)
    return {
        (one.row, better, worse): scores[starts[one.row] + better] - scores[starts[one.row] + worse]
        for one in rows
        if one.row in starts
        for better, worse in one.pairs
    }


def in_words(found: HeadToHead) -> str:
    """The scores and their difference."""
    new, old = found.scores[1], found.scores[0]
    text = f"{found.metric.title} {new:.2f} against {old:.2f}"
    return text + _interval(found.comparison.difference, found.comparison.interval)


def _interval(difference: float, interval: Any) -> str:
    if interval is None:
        return ""
    return f" (difference {difference:+.2f}, 95% interval {interval[0]:+.2f} to {interval[1]:+.2f})"


def _stored(path: Path) -> JsonDict:
    """A JSON object of the run's folder; empty where it is not there, for the folder is the user's."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
