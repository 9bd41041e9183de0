"""Replay: rows outside of the domain that are trained on beside it, so that what the base could do is kept.

Unless the user has rows of their own, they are general prompts with the base's own answers, on which the model is held
to its base (``general_rows.py``); rehearsal of the model's own past goes back to Robins 1995, "Catastrophic forgetting,
rehearsal and pseudorehearsal". None of the prompts is one that retention is measured by.
"""

from __future__ import annotations

import contextlib
import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from hone.config.schema import TrainConfig
from hone.data.loader import load_examples
from hone.data.render import Renderer
from hone.data.replay_prompts import replay_prompts
from hone.data.split import near_copies
from hone.engine.events import Event, Recorder
from hone.engine.parallel import Parallel
from hone.errors import ConfigError, DataError, StorageError, TemplateError
from hone.files import write_atomically
from hone.model.generate import SamplingSettings, generate
from hone.model.load import LoadedModel
from hone.planning.choose import AS_BEGUN, Choice, choose_replay_rows
from hone.recipe.base_cache import cached_figures
from hone.recipe.general import base_key
from hone.recipe.rows import PreparedRows, RowRenderer
from hone.registry.runs import RunFolder
from hone.types import Example, JsonDict, Message, TokenSequence

__all__ = [
    "OWN_ANSWERS",
    "REPLAY_ANSWER_TOKENS",
    "Replay",
    "begin_replay",
    "choose_replay",
    "replay_file",
    "replay_stand_ins",
    "store_replay",
]

REPLAY_ANSWER_TOKENS = 32
"""Longest answer of the base that is replayed: long enough to hold its manner, short enough to cost little."""

OWN_ANSWERS = "the base's own answers to general prompts"
"""The source of general rows that are not the user's."""

_REPLAY_ROW = 0  # rows of the data are counted from 1


@dataclass(frozen=True, slots=True)
class Replay:
    """What is trained on beside the domain.

    Args:
        sequences: rendered rows.
        source: where they come from, for people.
        holds: whether the model is held to its base on them, and does not learn their answers.
    """

    sequences: tuple[TokenSequence, ...] = ()
    source: str = "none"
    holds: bool = False

    def to_json(self) -> JsonDict:
        """What a result says of it."""
        supervised = sum(sequence.num_supervised for sequence in self.sequences)
        return {"rows": len(self.sequences), "supervised_tokens": supervised, "source": self.source}


def replay_file(folder: RunFolder) -> Path:
    """The replayed rows of a run, readable, with the tokens that were trained on."""
    return folder.path / "replay.jsonl"


def begin_replay(
    config: TrainConfig,
    base: LoadedModel,
    renderer: Renderer,
    rows: PreparedRows,
    *,
    folder: RunFolder,
    home: Path,
    parallel: Parallel,
    sharded: bool,
    recorder: Recorder,
) -> tuple[TrainConfig, Replay]:
    """The rows to replay, and the options with their number; those of the run's folder where it was begun before.

    Args:
        config: the options.
        base: plain, on its own attention.
        renderer: of training.
        rows: of the domain; rows of ``general_data`` that repeat a held-out prompt are left out.
        folder: of the run.
        home: hone's home folder, where the base's answers are kept.
        parallel: the processes; the first one's rows are everybody's.
        sharded: whether the base is split over them, where its answers cannot be generated.
        recorder: receives progress.

    Raises:
        ConfigError: there are not so many general prompts, or the method has no general rows.
        DataError: rows of the user's cannot be read, or none of them can be rendered.
        StorageError: they cannot be kept, or those of the run are damaged.
    """

    def note(text: str) -> None:
        recorder.record(Event("note", {"text": text}))

    choice = choose_replay(config, len(rows.train))
    if folder.config.exists():
        choice = replace(choice, reason=AS_BEGUN)
    count = int(choice.value or 0)
    if count and config.general_data is None and sharded:
        _refuse_begun(folder, count)
        count = 0
        note("nothing is replayed: the base is split over the devices, where its answers cannot be generated")
    told = {"choice": choice.name, "value": f"{count}", "reason": choice.reason}
    recorder.record(Event("note", {"text": f"general_rows = {count} ({choice.reason})", **told}))
    config = config.model_copy(update={"general_rows": count})
    if not count or replay_file(folder).exists():
        return config, _stored(replay_file(folder)) if count else Replay()

    def told_progress(done: int) -> None:
        recorder.record(Event("progress", {"task": "base: answers to replay", "done": done, "total": count}))

    made = None
    if parallel.is_first:
        if config.general_data is None:
            made = _own_answers(count, base, renderer, home, told_progress)
        else:
            made = _users_rows(config.general_data, count, renderer, rows.held_out, seed=config.rows_seed, note=note)
    found = parallel.from_first(None if made is None else _to_rows(made))
    return config, _from_rows(found)


def _refuse_begun(folder: RunFolder, count: int) -> None:
    """Refuse to go on without the rows that the run was begun with."""
    if replay_file(folder).exists():
        raise ConfigError(
            f"the run was begun with {count} general rows, and the base's word on them cannot be asked of a base that "
            "is split over devices",
            where="--shard",
            why="without them the steps that are left would be others",
            remedy="resume with --shard off, so that every device holds the whole base",
        )


def replay_stand_ins(config: TrainConfig, renderer: RowRenderer, num_train: int) -> list[TokenSequence]:
    """Rows as long as those that a run would replay, for a plan: nothing is generated.

    Args:
        config: the options.
        renderer: of the plan.
        num_train: rows trained on.

    Raises:
        ConfigError: there are not so many general prompts.
        DataError: rows of the user's cannot be read.
    """
    count = int(choose_replay(config, num_train).value or 0)
    if config.general_data is not None:
        examples = list(load_examples(config.general_data).examples)[:count]
    else:
        answer = Message("assistant", " ".join(["word"] * REPLAY_ANSWER_TOKENS), supervised=True)
        asked = replay_prompts()[:count]
        examples = [Example((Message("user", text), answer), row=_REPLAY_ROW, line=0, source="") for text in asked]
    found: list[TokenSequence] = []
    for example in examples:
        with contextlib.suppress(TemplateError):  # a run leaves such rows out, and says so
            found += renderer.render(example).sequences
    return found


def choose_replay(config: TrainConfig, num_train: int) -> Choice:
    """How many rows are to be replayed.

    Args:
        config: the options.
        num_train: rows trained on.

    Raises:
        ConfigError: there are not so many general prompts.
    """
    if config.method not in (None, "sft"):
        if config.general_rows or config.general_data is not None:
            raise ConfigError(
                f"{config.method} has no general rows: they stand beside those of supervised fine-tuning",
                where="--general-rows" if config.general_rows else "--general-data",
                remedy="leave it out",
            )
        return Choice("general_rows", 0, "of supervised fine-tuning alone")
    if config.general_rows is None:
        return choose_replay_rows(num_train)
    known = len(replay_prompts())
    if config.general_data is None and config.general_rows > known:
        raise ConfigError(
            f"{config.general_rows} rows cannot be replayed: hone brings {known} general prompts",
            where="--general-rows",
            remedy=f"use at most {known}, or give rows of your own with --general-data",
        )
    return Choice("general_rows", config.general_rows, "as given")


def _own_answers(
    count: int, base: LoadedModel, renderer: Renderer, home: Path, on_done: Callable[[int], None]
) -> Replay:
    """General prompts with the base's greedy answers; an answer that was cut has no end to be learnt."""
    prompts = [renderer.prompt([Message("user", text)]) for text in replay_prompts()[:count]]
    room = base.context_length - REPLAY_ANSWER_TOKENS
    prompts = [ids for ids in prompts if len(ids) <= room]

    def answered() -> JsonDict:
        answers = generate(
            base.model, prompts, stop_ids=renderer.stop_ids, settings=SamplingSettings(REPLAY_ANSWER_TOKENS),
            on_done=on_done,
        )  # fmt: skip
        return {"answers": [[list(answer.ids), answer.stopped] for answer in answers]}

    key = ("replay", *base_key(base, renderer), REPLAY_ANSWER_TOKENS, prompts)
    found = cached_figures(home, key, answered)["answers"]
    end = tuple(renderer.stop_ids[:1])
    sequences = []
    for prompt, (ids, stopped) in zip(prompts, found, strict=True):
        answer = (*ids, *(end if stopped else ()))
        if answer:
            mask = (False,) * len(prompt) + (True,) * len(answer)
            sequences.append(TokenSequence((*prompt, *answer), mask, row=_REPLAY_ROW))
    return Replay(tuple(sequences), OWN_ANSWERS, holds=True)


def _users_rows(
    source: str,
    count: int,
    renderer: Renderer,
    held_out: Sequence[Example],
    *,
    seed: int,
    note: Callable[[str], None],
) -> Replay:
    """A sample of the user's own general rows, by the seed; none that is held out."""
    loaded = load_examples(source)
    chosen = list(loaded.examples)
    while held_out and (copies := near_copies(chosen, held_out)):
        gone = {index for index, _, _ in copies}
        chosen = [example for index, example in enumerate(chosen) if index not in gone]
    if len(chosen) < len(loaded.examples):
        note(f"{len(loaded.examples) - len(chosen)} rows of {source} repeat a held-out prompt: not replayed")
    if len(chosen) > count:
        chosen = random.Random(f"hone-replay-{seed}").sample(chosen, count)
    sequences: list[TokenSequence] = []
    refused: list[str] = []
    for example in chosen:
        try:
            sequences += renderer.render(example).sequences
        except TemplateError as error:
            refused.append(f"{loaded.source}:{example.line}: {error.what}")
    if not sequences:
        raise DataError(
            "no row is left to replay",
            where=source,
            why="without general rows the model is held by nothing while it learns the domain",
            remedy="give other rows, or leave --general-data out: the base's own answers are then taken",
            details=refused[:5],
        )
    if refused:
        note(f"{len(refused)} rows to replay cannot be rendered and are left out; the first: {refused[0]}")
    rows = tuple(TokenSequence(one.ids, one.supervised, row=_REPLAY_ROW) for one in sequences)
    return Replay(rows, f"{len(rows)} rows of {Path(source).name}")


def store_replay(folder: RunFolder, base: LoadedModel, replay: Replay) -> None:
    """Write one row a line, as text and as the tokens it is trained on; nothing where nothing is replayed.

    Args:
        folder: of the run.
        base: its tokenizer gives the texts.
        replay: the rows.

    Raises:
        StorageError: no space or no permission.
    """
    lines = []
    for row in _to_rows(replay):
        text = str(base.tokenizer.decode(row["ids"]))
        lines.append(json.dumps({"text": text, **row}, ensure_ascii=False))
    if lines:
        write_atomically(replay_file(folder), "".join(line + "\n" for line in lines))


def _stored(path: Path) -> Replay:
    try:
        return _from_rows([json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()])
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise StorageError(
            f"the rows to replay cannot be read: {error}",
            where=str(path),
            why="a resumed run must train on the same rows",
            remedy="begin the run anew",
        ) from error


def _to_rows(replay: Replay) -> list[JsonDict]:
    return [
        {
            "source": replay.source,
            "ids": list(one.ids),
            "supervised": [int(supervised) for supervised in one.supervised],
        }
        for one in replay.sequences
    ]


def _from_rows(rows: Sequence[JsonDict]) -> Replay:
    sequences = [TokenSequence(tuple(row["ids"]), tuple(map(bool, row["supervised"])), row=_REPLAY_ROW) for row in rows]
    if not rows:  # the base's context has no room for a prompt and its answer
        return Replay()
    source = rows[0]["source"]
    return Replay(tuple(sequences), source, holds=source == OWN_ANSWERS)
