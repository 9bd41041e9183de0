"""Label Studio's tasks for its Pairwise tag: two texts, of which an annotator chooses ``left`` or ``right``.

A task is {"data": {"prompt", "text1", "text2"}, "annotations": [{"completed_by", "created_at", "lead_time",
"was_cancelled", "result": [{"from_name": "pw", "to_name": "text1,text2", "type": "pairwise", "value":
{"selected": "left"}}]}]}. ``text1`` is on the left. ``created_at`` is when it was submitted, ``lead_time`` the seconds
that it took. The tag has no tie: an annotation without a result says that neither was chosen, and is read and written
as one.

Source: https://labelstud.io/guide/task_format.html, https://www.labelstud.io/templates/pairwise_comparison,
https://labelstud.io/tags/pairwise.html, and the tag's source (``Pairwise.js``: left, right, or no result).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from hone.data.compared import (
    CompareTask,
    GivenRanking,
    as_exported,
    exported_votes,
    place_of,
    plain_prompt,
    prompt_turns,
    seconds_of,
    utc_time,
)
from hone.errors import DataError
from hone.types import JsonDict

__all__ = ["LABELING_CONFIG", "from_label_studio", "to_label_studio"]

LABELING_CONFIG = """<View>
  <Text name="prompt" value="$prompt"/>
  <Pairwise name="pw" toName="text1,text2"/>
  <Text name="text1" value="$text1"/>
  <Text name="text2" value="$text2"/>
</View>
"""
"""The labeling configuration that shows the tasks of :func:`to_label_studio`."""

_RANKS = {"left": (1, 2), "right": (2, 1)}
_TIE = (1, 1)
_PAIRS_OF_TEXTS = (("text1", "text2"), ("answer1", "answer2"))


def to_label_studio(tasks: Sequence[CompareTask]) -> list[JsonDict]:
    """Tasks to import into a project with :data:`LABELING_CONFIG`; nothing in them says who wrote an answer.

    Args:
        tasks: of two answers each.

    Raises:
        DataError: a task has another number of answers.
    """
    odd = next((one for one in tasks if len(one.answers) != 2), None)
    if odd is not None:
        raise DataError(
            f"Label Studio's Pairwise tag compares two answers, and a prompt here has {len(odd.answers)}",
            where="--format",
            remedy="export to argilla, which ranks any number",
        )
    return [_task(one) for one in tasks]


def from_label_studio(rows: Sequence[Mapping[str, Any]], source: str) -> list[CompareTask]:
    """Tasks as Label Studio exports them (JSON); cancelled annotations are skipped prompts.

    Args:
        rows: the tasks.
        source: the file's name, for messages.

    Raises:
        DataError: a task has no two texts, or an annotation is not of the Pairwise tag.
    """
    return [_read(row, source, place_of(row, number, "task")) for number, row in enumerate(rows, start=1)]


def _task(task: CompareTask) -> JsonDict:
    (first, text1), (second, text2) = task.answers
    data = {"prompt": plain_prompt(task.prompt), "text1": text1, "text2": text2}
    # text, because Label Studio may turn what it shows into columns
    own = {"item": task.id, "answers": [first, second], "prompt": [dict(turn) for turn in task.prompt],
           "votes": exported_votes(task)}  # fmt: skip
    data["hone"] = json.dumps(own, ensure_ascii=False)
    return {"data": data, "annotations": [_annotation(one) for one in task.rankings]}


def _annotation(ranking: GivenRanking) -> JsonDict:
    found: JsonDict = {"was_cancelled": ranking.ranks is None, "lead_time": ranking.seconds, "result": []}
    if ranking.voted_at is not None:
        found["created_at"] = ranking.voted_at
    if ranking.ranks is not None and ranking.ranks != _TIE:
        selected = "left" if ranking.ranks[0] < ranking.ranks[1] else "right"
        found["result"] = [
            {"from_name": "pw", "to_name": "text1,text2", "type": "pairwise", "value": {"selected": selected}}
        ]
    return found | {"completed_by": {"email": ranking.rater}}


def _read(row: Mapping[str, Any], source: str, place: str) -> CompareTask:
    where = f"{source}: {place}"
    data = row.get("data")
    if not isinstance(data, Mapping):
        raise DataError("has no data, as Label Studio's tasks have", where=where, remedy="export the project as JSON")
    texts = next(([data[one], data[other]] for one, other in _PAIRS_OF_TEXTS if one in data and other in data), None)
    if texts is None or not all(isinstance(text, str) for text in texts):
        raise DataError("has no two texts to compare (text1 and text2, or answer1 and answer2)", where=where)
    own = _own(data.get("hone"))
    prompt = own["prompt"] if own else prompt_turns(data.get("prompt"), where)
    ids = own["answers"] if own else ["", ""]
    rankings = []
    for annotation in row.get("annotations") or []:
        if not isinstance(annotation, Mapping):
            raise DataError("has an annotation that is no object", where=where)
        rankings.append(as_exported(_ranking(annotation, where), own and own.get("votes"), count=2))
    answers = tuple(zip(ids, texts, strict=True))
    return CompareTask(own["item"] if own else "", prompt, answers, tuple(rankings), place)


def _own(text: object) -> JsonDict | None:
    """What hone wrote into the task, where it did."""
    try:
        found: Any = json.loads(text) if isinstance(text, str) else None
    except (ValueError, RecursionError):
        return None
    if not isinstance(found, dict) or not isinstance(found.get("item"), str):
        return None
    answers, prompt = found.get("answers"), found.get("prompt")
    return found if isinstance(prompt, list) and isinstance(answers, list) and len(answers) == 2 else None


def _ranking(annotation: Mapping[str, Any], where: str) -> GivenRanking:
    by = annotation.get("completed_by")
    if isinstance(by, Mapping):
        by = by.get("email") or by.get("id")
    rater = "annotator" if by is None else str(by)
    seconds, voted_at = seconds_of(annotation.get("lead_time")), utc_time(annotation.get("created_at"))
    if annotation.get("was_cancelled"):
        return GivenRanking(rater, None, seconds, voted_at)
    results = [one for one in annotation.get("result") or [] if isinstance(one, Mapping)]
    chosen = [one.get("value", {}).get("selected") for one in results if one.get("type") == "pairwise"]
    if not results:
        return GivenRanking(rater, _TIE, seconds, voted_at)
    if len(chosen) != 1 or chosen[0] not in _RANKS:
        raise DataError(
            f"an annotation of {rater} has no pairwise result of left or right",
            where=where,
            remedy="label it with the Pairwise tag, as docs/rank.md shows",
        )
    return GivenRanking(rater, _RANKS[chosen[0]], seconds, voted_at)
