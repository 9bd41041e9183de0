"""Argilla's records with a RankingQuestion: as ``dataset.records.to_json`` writes and ``from_json`` reads them.

A record is {"id", "fields": {"prompt", "response-1", ...}, "metadata", "suggestions", "vectors", "responses":
{"ranking": [{"value": [{"value": "response-1", "rank": 1}, ...], "user_id": "..."}]}}; equal ranks are ties.
The question is ``rg.RankingQuestion(name="ranking", values=["response-1", ...])``. Argilla's JSON says neither when a
response was given nor how long it took.

Source: https://docs.argilla.io/latest/reference/argilla/records/records, and Argilla's own source for the JSON
(``records/_resource.py``: ``Record.to_dict`` and ``from_dict``; ``_io/_json.py``: an array of records).
"""

from __future__ import annotations

import json
import uuid
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
)
from hone.errors import DataError
from hone.types import JsonDict

__all__ = ["from_argilla", "to_argilla"]

_QUESTION = "ranking"
_PROMPTS = ("prompt", "instruction", "question")


def to_argilla(tasks: Sequence[CompareTask]) -> list[JsonDict]:
    """Records to log into a dataset; nothing in them says who wrote an answer.

    Argilla names users by UUID; a rater's is made from his name, and the names stand in the metadata ``hone``.

    Args:
        tasks: compared answers, of any number.
    """
    return [_record(one) for one in tasks]


def from_argilla(records: Sequence[Mapping[str, Any]], source: str) -> list[CompareTask]:
    """Records as Argilla exports them (``to_json``).

    Args:
        records: with a ranking question.
        source: the file's name, for messages.

    Raises:
        DataError: a record has no prompt, no two fields to rank, or a ranking of something else.
    """
    return [_read(one, source, place_of(one, number, "record")) for number, one in enumerate(records, start=1)]


def _user_id(rater: str) -> str:
    return str(uuid.uuid5(uuid.NAMESPACE_OID, f"hone-rater/{rater}"))


def _record(task: CompareTask) -> JsonDict:
    names = [f"response-{place}" for place in range(1, len(task.answers) + 1)]
    texts = {name: text for name, (_, text) in zip(names, task.answers, strict=True)}
    own = {
        "item": task.id,
        "answers": [identity for identity, _ in task.answers],
        "prompt": [dict(turn) for turn in task.prompt],
        "raters": {_user_id(one.rater): one.rater for one in task.rankings},
        "votes": exported_votes(task),
    }
    responses = [
        {
            "value": [{"value": name, "rank": rank} for name, rank in zip(names, one.ranks, strict=True)],
            "user_id": _user_id(one.rater),
        }
        for one in task.rankings
        if one.ranks is not None
    ]
    return {
        "id": task.id,
        "fields": {"prompt": plain_prompt(task.prompt), **texts},
        "metadata": {"hone": json.dumps(own, ensure_ascii=False)},
        "suggestions": {},
        "responses": {_QUESTION: responses} if responses else {},
        "vectors": {},
    }


def _read(record: Mapping[str, Any], source: str, place: str) -> CompareTask:
    where = f"{source}: {place}"
    fields, responses = record.get("fields"), record.get("responses") or {}
    if not isinstance(fields, Mapping) or not isinstance(responses, Mapping):
        raise DataError("has no fields, as Argilla's records have", where=where, remedy="export with records.to_json")
    own = _own(record.get("metadata"))
    given = [one for answers in responses.values() if isinstance(answers, list) for one in answers]
    ranked = [one for one in given if isinstance(one, Mapping) and _is_ranking(one.get("value"))]
    if len(ranked) < len(given):
        raise DataError("has an answer that is no ranking", where=where, remedy="export the ranking question alone")
    names = [one["value"] for one in ranked[0]["value"]] if ranked else _response_fields(fields)
    names.sort(key=list(fields).index if all(name in fields for name in names) else None)
    missing = [name for name in names if not isinstance(fields.get(name), str)]
    if len(names) < 2 or missing:
        named = ", ".join(missing) or "response-1 and response-2"
        raise DataError(f"has no text in the fields to rank: {named}", where=where)
    prompt = own.get("prompt") or prompt_turns(next((fields[key] for key in _PROMPTS if key in fields), None), where)
    ids = own.get("answers") or [""] * len(names)
    if len(ids) != len(names):
        raise DataError(f"has {len(names)} answers, and its metadata {len(ids)}", where=where)
    answers = tuple((identity, str(fields[name])) for identity, name in zip(ids, names, strict=True))
    found = (_ranking(one, names, own.get("raters") or {}, where) for one in ranked)
    rankings = tuple(as_exported(one, own.get("votes"), count=len(names)) for one in found)
    return CompareTask(str(own.get("item") or ""), prompt, answers, rankings, place)


def _own(metadata: object) -> JsonDict:
    """What hone wrote into the record; empty where it did not."""
    text = metadata.get("hone") if isinstance(metadata, Mapping) else None
    try:
        found = json.loads(text) if isinstance(text, str) else {}
    except (ValueError, RecursionError):
        return {}
    whole = isinstance(found, dict) and isinstance(found.get("answers"), list) and isinstance(found.get("prompt"), list)
    return found if whole else {}


def _response_fields(fields: Mapping[str, Any]) -> list[str]:
    return [name for name in fields if name.startswith("response")]


def _is_ranking(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(one, Mapping) and "value" in one for one in value)


def _ranking(response: Mapping[str, Any], names: Sequence[str], raters: Mapping[str, str], where: str) -> GivenRanking:
    ranks = {one["value"]: one.get("rank") for one in response["value"]}
    user = str(response.get("user_id") or "annotator")
    whole = sorted(map(str, ranks)) == sorted(names)
    if not whole or not all(isinstance(rank, int) and not isinstance(rank, bool) for rank in ranks.values()):
        raise DataError(f"the ranking of {user} does not rank each of {', '.join(names)}", where=where)
    return GivenRanking(str(raters.get(user, user)), tuple(ranks[name] for name in names))
