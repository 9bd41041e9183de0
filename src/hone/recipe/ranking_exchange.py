"""Rankings to files and back: rows to train on, Label Studio's tasks, Argilla's records."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

from hone.data.argilla import from_argilla, to_argilla
from hone.data.compared import CompareTask, GivenRanking, read_json_tasks, training_rows
from hone.data.label_studio import from_label_studio, to_label_studio
from hone.errors import ConfigError, DataError
from hone.files import write_atomically
from hone.recipe.rank import compare_tasks
from hone.registry.rankings import (
    NewAnswer,
    NewItem,
    RankingItem,
    RankingSession,
    create_session,
    find_session_of,
    list_sessions,
)
from hone.registry.votes import Ranked, check_rater, dense_ranks, keep_vote, ranked_session
from hone.types import JsonDict

__all__ = ["ExchangeFormat", "Imported", "export_rankings", "exported_text", "import_rankings"]

ExchangeFormat = Literal["hone", "label-studio", "argilla"]
_READERS: Mapping[str, Callable[[Sequence[Mapping[str, Any]], str], list[CompareTask]]] = {
    "label-studio": from_label_studio,
    "argilla": from_argilla,
}


@dataclass(frozen=True, slots=True)
class Imported:
    """What a file of rankings became.

    Args:
        session: that the votes are in now.
        is_new: whether it was made from the file.
        votes: that were added, skipped prompts too.
        known: votes that were there already, as they are in the file, and were left.
        differing: votes of a rater who has another one that stands; they were left out.
    """

    session: RankingSession
    is_new: bool
    votes: int
    known: int
    differing: int


def exported_text(
    ranked: Sequence[Ranked], kind: str, *, each_vote: bool = False, with_votes: bool = True
) -> tuple[str, int]:
    """The text of a file, and how many rows, tasks or records are in it.

    Args:
        ranked: sessions.
        kind: one of :data:`ExchangeFormat`.
        each_vote: of ``hone``, a row for each rater's ranking in place of the mean of all.
        with_votes: of the others, whether what raters said goes with the answers.

    Raises:
        ConfigError: there is no such format.
        DataError: nothing would be in it, or the format cannot hold it.
    """
    tasks = [task for one in ranked for task in compare_tasks(one, with_votes=with_votes or kind == "hone")]
    if kind == "hone":
        rows = training_rows(tasks, each_vote=each_vote)
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    elif kind in _READERS:
        rows = to_argilla(tasks) if kind == "argilla" else to_label_studio(tasks)
        text = json.dumps(rows, ensure_ascii=False, indent=1) + "\n"
    else:
        raise _unknown(kind)
    if not rows:
        raise DataError(
            "there is nothing to export: no vote prefers one answer to another",
            where=", ".join(one.session.id for one in ranked),
            remedy=f"hone rank {ranked[0].session.version}" if ranked else None,
        )
    return text, len(rows)


def export_rankings(
    home: Path,
    session_ids: Sequence[str],
    path: Path,
    *,
    kind: str,
    each_vote: bool = False,
    with_votes: bool = True,
) -> int:
    """Write sessions as one file, whole or not at all; gives the number of its rows, tasks or records.

    Args:
        home: hone's home folder.
        session_ids: which.
        path: the file.
        kind: see :func:`exported_text`.
        each_vote: likewise.
        with_votes: likewise.

    Raises:
        VersionError: there is no such session.
        ConfigError, DataError: see :func:`exported_text`.
        StorageError: the file cannot be written.
    """
    ranked = [ranked_session(home, one) for one in session_ids]
    if kind in _READERS and len(ranked) > 1:
        raise ConfigError(
            f"{len(ranked)} sessions are exported to other tools one at a time, so that what comes back is told apart",
            details=list(session_ids),
            remedy=f"name one of them in place of the version: hone rankings export {session_ids[0]} FILE",
        )
    text, count = exported_text(ranked, kind, each_vote=each_vote, with_votes=with_votes)
    write_atomically(path, text)
    return count


def import_rankings(home: Path, path: Path, *, kind: str, name: str = "imported") -> Imported:
    """Take in what another tool collected: votes on answers that hone exported go to their session, others make one.

    A vote that stands here already is left as it is. Others keep the order in which the file has the answers, and its
    time and seconds; what it does not say stays unknown. The file is read whole before anything is written.

    Args:
        home: hone's home folder.
        path: the file.
        kind: ``label-studio`` or ``argilla``.
        name: who wrote the answers, where they came from elsewhere.

    Raises:
        ConfigError: there is no such format.
        DataError: the file cannot be read, or holds something else.
        StorageError: the registry cannot be written.
    """
    if kind not in _READERS:
        raise _unknown(kind, imported=True)
    tasks = _READERS[kind](read_json_tasks(path), path.name)
    _require(
        {task.place: found for task in tasks if (found := _twice([text.strip() for _, text in task.answers]))},
        "have the same answer twice", path, "compare different answers, or take the tasks out of the file",
    )  # fmt: skip
    tasks = _each_once(tasks)
    _require(
        {task.place: found for task in tasks if (found := _twice([check_rater(one.rater) for one in task.rankings]))},
        "were judged twice by one rater", path, "keep one ranking of each rater",
    )  # fmt: skip
    known = _session_for(home, tasks, path)
    if known is not None:
        _require(
            _other_answers(home, known, tasks), f"have other answers than {known.id}, which they were exported from",
            path, "put the answers back as they were exported, or take the tasks out of the file",
        )  # fmt: skip
    session, is_new = _new_session(home, tasks, name) if known is None else (known, False)
    return _add_votes(home, session, tasks, is_new=is_new)


def _require(problems: Mapping[str, Sequence[str]], what: str, path: Path, remedy: str) -> None:
    """Refuse a file for its tasks with problems, each named with the texts to blame.

    Raises:
        DataError: there is one.
    """
    if problems:
        details = [f"{place}: {', '.join(text[:80] for text in texts)}" for place, texts in problems.items()]
        raise DataError(f"{len(problems)} of its tasks {what}", where=str(path), details=details, remedy=remedy)


def _twice(texts: Sequence[str]) -> list[str]:
    return sorted({one for one in texts if texts.count(one) > 1})


def _other_answers(home: Path, session: RankingSession, tasks: Sequence[CompareTask]) -> dict[str, list[str]]:
    """By the place of each task whose answers are not those of its item: the answers that the item lacks."""
    items = {item.id: {one.text for one in item.candidates} for item in ranked_session(home, session.id).items}
    given = {task.place: (items[task.id], [text.strip() for _, text in task.answers]) for task in tasks}
    return {
        place: [text for text in texts if text not in known] or ["an answer is missing"]
        for place, (known, texts) in given.items()
        if known != set(texts)
    }


def _each_once(tasks: Sequence[CompareTask]) -> list[CompareTask]:
    """Tasks that stand twice as one, with the rankings of both."""
    found: dict[tuple[str, str], CompareTask] = {}
    for task in tasks:
        key = task.id, _content(task.prompt, [text for _, text in task.answers])
        known = found.get(key)
        if known is None:
            found[key] = task
            continue
        places = {text.strip(): place for place, (_, text) in enumerate(task.answers)}
        order = [places[text.strip()] for _, text in known.answers]
        further = (
            replace(
                one,
                ranks=None if one.ranks is None else tuple(one.ranks[place] for place in order),
                shown=tuple(order.index(place) for place in one.shown or range(len(order))),
            )
            for one in task.rankings
        )
        said = {(one.rater, one.ranks) for one in known.rankings}
        new = [one for one in further if (one.rater, one.ranks) not in said]
        found[key] = replace(known, rankings=(*known.rankings, *new))
    return list(found.values())


def _session_for(home: Path, tasks: Sequence[CompareTask], path: Path) -> RankingSession | None:
    ids = {task.id for task in tasks if task.id}
    if not ids:
        return None
    for session in list_sessions(home):
        found = ids & {item.id for item in ranked_session(home, session.id).items}
        if found == ids and len(tasks) == len(ids):
            return session
        if found:
            seen = [task.id for task in tasks]
            strange = [task.place for task in tasks if task.id not in found or seen.count(task.id) > 1]
            raise DataError(
                f"{len(strange)} of its {len(tasks)} tasks are not of {session.id}, as the others are, or stand twice "
                "with other answers",
                where=str(path),
                details=strange,
                remedy="import the file as it was exported, one session at a time",
            )
    return None


def _new_session(home: Path, tasks: Sequence[CompareTask], name: str) -> tuple[RankingSession, bool]:
    """A session of the tasks, and whether it is new: the same answers are not taken in twice."""
    items = [
        NewItem([dict(turn) for turn in task.prompt], [NewAnswer(text, name, {}) for _, text in task.answers])
        for task in tasks
    ]
    content = [_content(task.prompt, [text for _, text in task.answers]) for task in tasks]
    spec = {"imported": name, "tasks": content}
    known = find_session_of(home, spec)
    return known or create_session(home, name, [name], items, spec=spec, seed=0), known is None


def _add_votes(home: Path, session: RankingSession, tasks: Sequence[CompareTask], *, is_new: bool) -> Imported:
    ranked = ranked_session(home, session.id)
    by_id = {item.id: item for item in ranked.items}
    by_content = {_content(item.prompt, [one.text for one in item.candidates]): item for item in ranked.items}
    standing = {(vote.item_id, vote.rater): vote for vote in ranked.votes}
    waiting: list[tuple[str, GivenRanking, list[str], list[int] | None]] = []
    known = differing = 0
    for task in tasks:
        item = by_id.get(task.id) or by_content[_content(task.prompt, [text for _, text in task.answers])]
        for ranking in task.rankings:
            shown, ranks = _as_shown(item, task, ranking)
            before = standing.get((item.id, check_rater(ranking.rater)))
            if before is None:
                waiting.append((item.id, ranking, shown, ranks))
            else:
                same = before.rank_of() == ({} if ranks is None else dict(zip(shown, ranks, strict=True)))
                known += same
                differing += not same
    for item_id, ranking, shown, ranks in waiting:
        keep_vote(
            home, session.id, item_id, ranking.rater, ranks,
            shown=shown, seconds=ranking.seconds, voted_at=ranking.voted_at,
        )  # fmt: skip
    return Imported(session, is_new, len(waiting), known, differing)


def _as_shown(item: RankingItem, task: CompareTask, ranking: GivenRanking) -> tuple[list[str], list[int] | None]:
    """Ids of the item's answers in the order in which the rater saw the task's, and a rank without gaps for each."""
    texts = [text.strip() for _, text in task.answers]
    ids = {one.text: one.id for one in item.candidates}
    order = ranking.shown or range(len(texts))
    ranks = None if ranking.ranks is None else dense_ranks([ranking.ranks[place] for place in order], len(texts))
    return [ids[texts[place]] for place in order], ranks


def _content(prompt: Sequence[Mapping[str, Any]], texts: Sequence[str]) -> str:
    told: JsonDict = {"prompt": [dict(turn) for turn in prompt], "texts": sorted(text.strip() for text in texts)}
    return json.dumps(told, ensure_ascii=False, sort_keys=True)


def _unknown(kind: str, *, imported: bool = False) -> ConfigError:
    kinds = [one for one in get_args(ExchangeFormat) if not imported or one in _READERS]
    what = f"there is no format {kind!r}" if kind else "it is not said in which format the file is"
    return ConfigError(what, where="--format", remedy=f"give {', '.join(kinds)}")
