"""Compared answers on their way out of hone and back: rows to train on, and what tools for annotation read and write.

CompareTask       a prompt, its answers, and what raters said: what every format here is made from, or read as
training_rows     hone's own preference rows (``preferences.py``)
label_studio.py   tasks of Label Studio's Pairwise tag
argilla.py        records of Argilla's RankingQuestion

Ranks are 1 for the best; equal ones were not told apart.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from hone.data.ledger import RowError
from hone.data.messages import parse_messages
from hone.errors import DataError
from hone.types import JsonDict

__all__ = [
    "CompareTask",
    "GivenRanking",
    "as_exported",
    "exported_votes",
    "place_of",
    "plain_prompt",
    "prompt_turns",
    "read_json_tasks",
    "seconds_of",
    "training_rows",
    "utc_time",
]


@dataclass(frozen=True, slots=True)
class GivenRanking:
    """What one rater said of a task's answers.

    Args:
        rater: who.
        ranks: of each answer in the task's order, 1 the best; None where the task was skipped.
        seconds: it took; None where nobody measured it.
        voted_at: UTC time as the registry writes it; None where the file does not say.
        shown: places of the task's answers, from 0, in the order in which the rater saw them; None for the task's own.
    """

    rater: str
    ranks: tuple[int, ...] | None
    seconds: float | None = None
    voted_at: str | None = None
    shown: tuple[int, ...] | None = None


@dataclass(frozen=True, slots=True)
class CompareTask:
    """A prompt with answers to compare.

    Args:
        id: of the prompt; empty where it came from elsewhere.
        prompt: turns in OpenAI's form.
        answers: (id, text); ids are empty where they came from elsewhere.
        rankings: what raters said.
        place: in the file that it was read from, for messages; empty where it came from none.
    """

    id: str
    prompt: Sequence[Mapping[str, Any]]
    answers: tuple[tuple[str, str], ...]
    rankings: tuple[GivenRanking, ...] = ()
    place: str = field(default="", compare=False)


def training_rows(tasks: Sequence[CompareTask], *, each_vote: bool = False) -> list[JsonDict]:
    """Rows that ``hone run`` learns preferences from, all of one format.

    What several raters said of a prompt becomes one row by the mean of their ranks. Empty answers, which nothing can be
    learnt from, and prompts whose answers all have one rank give no row.

    Args:
        tasks: compared answers.
        each_vote: a row for each rater's ranking in place of their mean.
    """
    found = []
    for task in tasks:
        given = [one.ranks for one in task.rankings if one.ranks is not None]
        mean = tuple(sum(ranks) / len(given) for ranks in zip(*given, strict=True))
        for ranks in given if each_vote else [mean] if given else []:
            kept = [(rank, text) for rank, (_, text) in zip(ranks, task.answers, strict=True) if text.strip()]
            if len({rank for rank, _ in kept}) > 1:
                found.append((task, sorted(kept, key=lambda one: one[0])))
    as_pairs = all(len(kept) == 2 for _, kept in found)
    rows = []
    for task, kept in found:
        answers = [[{"role": "assistant", "content": text}] for _, text in kept]
        row: JsonDict = {"prompt": [dict(turn) for turn in task.prompt]}
        if as_pairs:
            rows.append(row | {"chosen": answers[0], "rejected": answers[1]})
        else:
            rows.append(row | {"answers": answers, "ranks": [rank for rank, _ in kept]})
    return rows


def exported_votes(task: CompareTask) -> JsonDict:
    """A task's votes by their raters, for the text that hone writes beside a task: what a tool's own fields lose."""
    return {
        one.rater: {"ranks": one.ranks, "shown": one.shown, "seconds": one.seconds, "voted_at": one.voted_at}
        for one in task.rankings
    }


def as_exported(ranking: GivenRanking, votes: object, count: int) -> GivenRanking:
    """A ranking with the order and the time of the vote that hone exported, where it came back as it went.

    Args:
        ranking: as the tool's own fields tell it.
        votes: what :func:`exported_votes` gave, from JSON; whatever else a file has there changes nothing.
        count: answers of the task.
    """
    vote = votes.get(ranking.rater) if isinstance(votes, Mapping) else None
    ranks = None if ranking.ranks is None else list(ranking.ranks)
    if not isinstance(vote, Mapping) or "ranks" not in vote or vote["ranks"] != ranks:
        return ranking
    shown = vote.get("shown")
    if not isinstance(shown, list) or any(type(one) is not int for one in shown) or sorted(shown) != [*range(count)]:
        return ranking
    return replace(
        ranking,
        seconds=seconds_of(vote.get("seconds")),
        voted_at=utc_time(vote.get("voted_at")),
        shown=tuple(shown),
    )


def seconds_of(value: object) -> float | None:
    """A duration from JSON in seconds; None where it is none."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return None
    return float(value) if 0 <= value <= sys.float_info.max else None


def utc_time(value: object) -> str | None:
    """A time of ISO 8601 as the registry writes it, in UTC; None where it is none, or does not say its zone."""
    try:
        time = datetime.fromisoformat(value) if isinstance(value, str) else None
        if time is None or time.utcoffset() is None:
            return None
        return time.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
    except (ValueError, OverflowError):
        return None


def place_of(row: Mapping[str, Any], number: int, name: str) -> str:
    """A task's place in its file, as people find it: "task 3 (id 1001)".

    Args:
        row: as the tool exported it.
        number: its ordinal, from 1.
        name: what the tool calls it.
    """
    identity = row.get("id")
    told = isinstance(identity, str | int) and not isinstance(identity, bool) and identity != ""
    return f"{name} {number} (id {identity})" if told else f"{name} {number}"


def plain_prompt(prompt: Sequence[Mapping[str, Any]]) -> str:
    """A prompt as one text for people: a single user turn is its own text, others name their speaker."""
    if len(prompt) == 1 and prompt[0].get("role") == "user":
        return str(prompt[0].get("content", ""))
    return "\n\n".join(f"{str(turn.get('role', '')).capitalize()}: {turn.get('content') or ''}" for turn in prompt)


def prompt_turns(given: object, where: str) -> list[JsonDict]:
    """A prompt, text or turns, as turns in OpenAI's form.

    Args:
        given: from a file or a request.
        where: its place, for the message.

    Raises:
        DataError: it is neither, or empty.
    """
    if isinstance(given, str) and given.strip():
        return [{"role": "user", "content": given}]
    if isinstance(given, list) and given:
        try:
            turns = parse_messages(given, "prompt", supervise=False)
        except RowError as error:
            raise DataError(error.reason, where=where) from error
        if turns[-1].role in ("user", "tool"):
            return [dict(turn) for turn in given]
        raise DataError("the prompt does not end with a turn of the user", where=where)
    raise DataError("the prompt is neither text nor a list of turns, or is empty", where=where)


def read_json_tasks(path: Path) -> list[JsonDict]:
    """The objects of a JSON array, or of JSON Lines.

    Raises:
        DataError: the file cannot be read, or holds something else.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        said = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise DataError(f"cannot be read: {said}", where=str(path), remedy="check the name") from error
    try:
        whole = text.lstrip().startswith("[")
        # not splitlines: U+2028, U+2029 and U+0085 may stand in a JSON string
        found = json.loads(text) if whole else [json.loads(line) for line in text.split("\n") if line.strip()]
    except (ValueError, RecursionError) as error:
        raise DataError(f"is not JSON: {error}", where=str(path), remedy="export it again as JSON") from error
    if not found or not all(isinstance(one, dict) for one in found):
        raise DataError("holds no JSON objects", where=str(path), remedy="export it again as JSON")
    return list(found)
