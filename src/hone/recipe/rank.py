"""Collecting rankings: the prompts, the answers to them, and one session that holds both (``hone rank``).

session = open_rankings(config, home=home, recorder=recorder)     made, or found again by the same options
next_item, cast_vote, undo_vote                                   registry/votes.py, one call an answer
report_of(home, sessions)                                         what the votes say

No model is in memory while people compare.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from pathlib import Path

from hone.config.rank import RankConfig
from hone.data.compared import CompareTask, GivenRanking, prompt_turns
from hone.data.loader import load_examples
from hone.data.messages import message_to_openai, parse_messages
from hone.data.rows import RawRow
from hone.data.source import read_rows
from hone.engine.events import Event, Recorder
from hone.errors import ConfigError, DataError
from hone.evaluation.rankings import RankedAnswer, RankedPrompt, RankingReport, report_rankings
from hone.recipe.candidates import Contender, contenders_of, sample_answers, weights_of
from hone.recipe.finding import find_run
from hone.recipe.head_to_head import held_out_rows
from hone.registry.rankings import NewItem, RankingSession, create_session, find_session_of, list_sessions, spec_hash
from hone.registry.votes import Ranked, ranked_session
from hone.types import JsonDict

__all__ = ["compare_tasks", "open_rankings", "prompts_of", "report_of", "sessions_of"]

Note = Callable[[str], None]

_OFFERS = ("tools", "functions")


def open_rankings(config: RankConfig, *, home: Path, recorder: Recorder) -> RankingSession:
    """The session of these options: answers are written once, and the same options and weights find them again.

    Args:
        config: the options.
        home: hone's home folder.
        recorder: receives events.

    Raises:
        HoneError: there is no such version, no prompt that can be used, or nothing to compare.
    """

    def note(text: str) -> None:
        recorder.record(Event("note", {"text": text}))

    contenders = contenders_of(config, home=home, note=note)
    prompts = prompts_of(config, contenders, home=home, note=note)
    asked = _spec(config, contenders, prompts)
    spec = {**asked, "weights": [weights_of(one, home=home) for one in contenders]}
    known = find_session_of(home, spec) or _older_session(asked, contenders, home, note)
    if known is not None:
        return known
    turns = [parse_messages(prompt, supervise=False) for prompt in prompts]
    each = config.n // len(contenders)
    answered = [sample_answers(one, turns, each, config, home=home, recorder=recorder) for one in contenders]
    items = [
        NewItem(prompt, [answer for of_contender in found for answer in of_contender])
        for prompt, found in zip(prompts, zip(*answered, strict=True), strict=True)
        if all(found)
    ]
    if not any(len({answer.text for answer in item.answers}) > 1 for item in items):
        raise DataError(
            "there is nothing to compare: all answers to each prompt are the same, or no prompt could be asked",
            where=config.prompts or config.version,
            remedy="give higher --temperatures, or other prompts",
        )
    names = [one.name for one in contenders]
    return create_session(home, names[0], names, items, spec=spec, seed=config.seed)


def prompts_of(config: RankConfig, contenders: Sequence[Contender], *, home: Path, note: Note) -> list[list[JsonDict]]:
    """What is asked: turns in OpenAI's form, with the system message of the version's training where a row has none.

    Args:
        config: the options.
        contenders: the version first.
        home: hone's home folder.
        note: receives sentences for the user.

    Raises:
        DataError: the file cannot be read, a row of it offers tools, or the version has no held-out rows.
        ConfigError: a base has no held-out rows: prompts must be given.
    """
    path = config.prompts or _held_out(config, contenders[0], home, note)
    asked = _prompts_in(path, config.limit, note)
    system = contenders[0].system if config.system is None else config.system or None
    found: dict[str, list[JsonDict]] = {}
    for prompt in asked:
        has_system = prompt[0]["role"] in ("system", "developer")
        turns = prompt if has_system or not system else [{"role": "system", "content": system}, *prompt]
        found.setdefault(repr(turns), turns)
    if len(found) < len(asked):
        note(f"{len(asked) - len(found)} of {len(asked)} prompts stand twice and are asked once")
    return list(found.values())


def sessions_of(config: RankConfig, *, home: Path, note: Note) -> list[RankingSession]:
    """All sessions about a version; with ``against``, those in which one of these answers too.

    Raises:
        VersionError: there is no such version.
        ConfigError: there is no such session.
    """
    contender = contenders_of(config.model_copy(update={"against": ("none",)}), home=home, note=note)[0]
    found = _of_its_weights(list_sessions(home, version=contender.name), contender, home, note)
    if config.against is not None and config.against != ("none",):
        alone = [config.model_copy(update={"version": one, "against": ("none",)}) for one in config.against]
        named = {contenders_of(one, home=home, note=note)[0].name for one in alone}
        found = [one for one in found if named & set(one.contenders)]
    if not found:
        raise ConfigError(f"nobody has compared answers of {contender.name} yet", remedy=f"hone rank {contender.name}")
    return found


def report_of(home: Path, sessions: Sequence[RankingSession], *, seed: int = 0) -> RankingReport:
    """What the votes of some sessions say together; other weights of one name are told apart by their hash.

    Args:
        home: hone's home folder.
        sessions: about one version.
        seed: of the resamples.

    Raises:
        StorageError: the registry cannot be read.
    """
    labels = [_labels(session, sessions) for session in sessions]
    contenders = list(dict.fromkeys(label for of_session in labels for label in of_session.values()))
    prompts = [
        one
        for session, of_session in zip(sessions, labels, strict=True)
        for one in _judged(ranked_session(home, session.id), of_session)
    ]
    return report_rankings(prompts, contenders, seed=seed)


def compare_tasks(ranked: Ranked, *, with_votes: bool = True) -> list[CompareTask]:
    """A session's prompts that have two answers or more, as files and tools take them; the answers by their random ids.

    Args:
        ranked: the session.
        with_votes: whether what raters said goes with them.
    """
    tasks = []
    for item in ranked.items:
        answers = sorted(item.candidates, key=lambda one: one.id)
        if len(answers) < 2:
            continue
        places = {one.id: place for place, one in enumerate(answers)}
        rankings = []
        for vote in ranked.votes if with_votes else ():
            if vote.item_id == item.id:
                ranks = vote.rank_of()
                given = tuple(ranks[one.id] for one in answers) if ranks else None
                shown = tuple(places[one] for one in vote.shown)
                rankings.append(GivenRanking(vote.rater, given, vote.seconds, vote.voted_at, shown))
        texts = tuple((one.id, one.text) for one in answers)
        tasks.append(CompareTask(item.id, item.prompt, texts, tuple(rankings)))
    return tasks


def _older_session(asked: JsonDict, contenders: Sequence[Contender], home: Path, note: Note) -> RankingSession | None:
    """The session that a hone which did not write down weights made of these options, where it can be no other's."""
    found = find_session_of(home, asked)
    if found is None or all(one.registered for one in contenders):
        return found
    note(f"{found.id} was made with these options, but does not say of which weights; its votes stay there, and the "
         "answers are written anew")  # fmt: skip
    return None


def _of_its_weights(
    sessions: Sequence[RankingSession], contender: Contender, home: Path, note: Note
) -> list[RankingSession]:
    """Those of sessions with the contender's name that are about its weights, or do not say about which."""
    known = [_weights_in(session).get(contender.name) for session in sessions]
    if contender.registered or not any(known):
        return list(sessions)
    own = _identity(weights_of(contender, home=home))
    others = [session.id for session, weights in zip(sessions, known, strict=True) if weights not in (None, own)]
    if others:
        note(f"left out, as other weights of the name {contender.name} answered there: {', '.join(others)}; "
             "`hone rankings show` shows each")  # fmt: skip
    return [session for session in sessions if session.id not in others]


def _labels(session: RankingSession, among: Sequence[RankingSession]) -> dict[str, str]:
    """Each contender's name, with the first digits of its hash where other weights have that name in other sessions."""
    own = _weights_in(session)
    return {
        name: f"{name} ({own[name][:8]})"
        if name in own and len({found[name] for found in map(_weights_in, among) if name in found}) > 1
        else name
        for name in session.contenders
    }


def _weights_in(session: RankingSession) -> dict[str, str]:
    """What tells a session's contenders apart; empty where it was made without: elsewhere, or by an older hone."""
    if "weights" not in session.spec or "contenders" not in session.spec:
        return {}
    named = zip(session.spec["contenders"], session.spec["weights"], strict=True)
    return {name: _identity(weights) for (name, _), weights in named}


def _identity(weights: JsonDict) -> str:
    return str(weights["adapter"] or weights["base"])


def _judged(ranked: Ranked, labels: Mapping[str, str]) -> list[RankedPrompt]:
    by_item: dict[str, dict[str, tuple[int, ...]]] = {item.id: {} for item in ranked.items}
    candidates = {item.id: item.candidates for item in ranked.items}
    for vote in ranked.votes:
        if ranks := vote.rank_of():
            by_item[vote.item_id][vote.rater] = tuple(ranks[one.id] for one in candidates[vote.item_id])
    return [
        RankedPrompt(
            repr(item.prompt),
            tuple(
                RankedAnswer(tuple(labels.get(name, name) for name in one.contenders), len(one.text))
                for one in item.candidates
            ),
            by_item[item.id],
        )
        for item in ranked.items
    ]


def _spec(config: RankConfig, contenders: Sequence[Contender], prompts: Sequence[Sequence[JsonDict]]) -> JsonDict:
    return {
        "contenders": [[one.name, one.arm] for one in contenders],
        "n": config.n,
        "temperatures": list(config.temperatures),
        "max_new_tokens": config.max_new_tokens,
        "seed": config.seed,
        "prompts": len(prompts),
        "prompts_sha256": spec_hash({"prompts": list(prompts)}),
    }


def _held_out(config: RankConfig, contender: Contender, home: Path, note: Note) -> str:
    version, folder = find_run(contender.reference, home, note)
    if version is not None:
        return str(held_out_rows(version))
    path = None if folder is None else folder / "held_out.jsonl"
    if path is None or not path.is_file():
        raise ConfigError(
            f"{config.version} has no held-out rows to take prompts from",
            where="--prompts",
            remedy="name a file of prompts, one a line: --prompts prompts.txt",
        )
    return str(path)


def _prompts_in(path: str, limit: int | None, note: Note) -> list[list[JsonDict]]:
    """The first prompts of a file: lines of text, rows with a prompt alone, or whole rows without their answers.

    Raises:
        DataError: the file cannot be read, or a row has no prompt or offers tools.
    """
    if path.lower().endswith(".txt"):
        try:
            # not splitlines: U+2028, U+2029 and U+0085 may stand in a prompt
            lines = Path(path).read_text(encoding="utf-8-sig").split("\n")
        except (OSError, UnicodeDecodeError) as error:
            said = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
            raise DataError(f"cannot be read: {said}", where=path, remedy="check the name after --prompts") from error
        found = [[{"role": "user", "content": line.strip()}] for line in lines if line.strip()]
        if not found:
            raise DataError("holds no prompt", where=path, remedy="write one a line")
        return found[:limit]
    rows = list(read_rows(path))
    first = next(islice((row.value for row in rows if row.value is not None), 1), None)
    if first is not None and set(first) <= {"prompt", "id", "row", *_OFFERS} and "prompt" in first:
        rows = rows[:limit]
        _refuse_tools([row.line for row in rows if any((row.value or {}).get(key) for key in _OFFERS)], path)
        return [_prompt_of(row, f"{path}:{row.line}") for row in rows]
    try:
        loaded = load_examples(path, tasks=True)  # rows may end with the user's turn
    except DataError:
        loaded = load_examples(path, preferences=True)
    if dropped := loaded.ledger.dropped_sentence("are not asked"):
        note(dropped)
    examples = loaded.examples[:limit]
    _refuse_tools([example.line for example in examples if example.tools], path)
    return [[message_to_openai(turn) for turn in example.prompt] for example in examples]


def _prompt_of(row: RawRow, where: str) -> list[JsonDict]:
    if row.value is None:
        raise DataError(row.error or "cannot be read", where=where, remedy="mend or remove the row")
    return prompt_turns(row.value.get("prompt"), where)


def _refuse_tools(lines: Sequence[int], path: str) -> None:
    if lines:
        raise DataError(
            f"{len(lines)} of its rows offer tools, and hone rank asks without any",
            where=path,
            details=[f"{path}:{line}" for line in lines],
            why="a model that misses its tools answers otherwise than it is used",
            remedy="give prompts without tools: --prompts FILE",
        )
