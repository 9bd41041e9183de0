"""The gate of an alias: what a version must show before it takes the place of another.

proof       every invariant holds
evaluation  not worse beyond chance than what stands there now, on that one's held-out rows; where that is the base,
            on the version's own
retention   within the bounds that its run was given, where it was measured
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hone.engine.events import Event, Recorder
from hone.errors import BadInputError, ProofError, StorageError, TrainingError
from hone.evaluation.head_to_head import HeadToHead
from hone.evaluation.preferences import PREFERENCE_ACCURACY
from hone.evaluation.rewards import REWARD
from hone.recipe.head_to_head import answer_rows, compare_on_rows, held_out_rows
from hone.registry.proven import require_proven
from hone.registry.versions import Version
from hone.types import JsonDict

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
    """Whether it is no worse than another version on that one's held-out rows; both answer them now.

    What cannot be measured does not hold: nobody then knows.

    Args:
        version: that is to take the place.
        current: that stands there.
        home: hone's home folder.
        recorder: receives events.
        options: device, dtype and so on of the evaluation, where they are given.
    """
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
        why = f"it could not be compared with {current.reference}"
        return Figure("evaluation", False, why, tuple(error.render().splitlines()))
    left_out = f"; {compared.trained_on} rows left out, because it was trained on them" if compared.trained_on else ""
    if compared.found is None or not compared.found.is_judged:
        few = f"too few rows to compare it with {current.reference}{left_out}"
        return Figure("evaluation", False, few, numbers=compared.to_json())
    word = "worse" if compared.found.is_worse else "not worse"
    text = f"{word} than {current.reference} on {compared.found.rows} of its held-out rows: {in_words(compared.found)}"
    return Figure("evaluation", not compared.found.is_worse, text + left_out, numbers=compared.to_json())


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
