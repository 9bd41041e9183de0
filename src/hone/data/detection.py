"""The formats that rows come in, and how a file's format is found: by its rows' keys.

openai-chat         messages: [{role, content, weight?, tool_calls?, ...}], tools?
sharegpt            conversations: [{from, value, weight?}], system?, tools? (as JSON text)
prompt-completion   prompt, completion or response (texts or lists of turns), system?
alpaca              instruction, input or context?, output or response, system?
question-answer     question, answer, system?
input-output        input, output, system?
text-label          text, label (a word, not a number), and nothing else but an id
mapped              the columns that the user names

Rows in which answers are compared or judged have the formats of ``preferences.py``. Whether a ``label`` beside a prompt
and a completion judges the completion is told from all labels of the file (:class:`LabelCounts`).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from hone.data.faults import RefusedSource
from hone.data.messages import nearest, quoted
from hone.data.rows import RawRow
from hone.errors import ConfigError, DataError

__all__ = [
    "COLUMN_FORMATS",
    "CONVERSATION_KEYS",
    "FORMATS",
    "LABEL",
    "OPENAI_PREFERENCE",
    "PREFERENCE",
    "PREFERENCE_FORMATS",
    "RANKING",
    "RANKING_KEYS",
    "SYSTEM_COLUMNS",
    "ColumnFormat",
    "FormatMapping",
    "LabelCounts",
    "detect_format",
    "has_label",
    "mixed_formats",
    "row_format",
    "truth_of",
]

SYSTEM_COLUMNS = ("system", "system_prompt")
_TRUTHS = {"true": True, "1": True, "1.0": True, "false": False, "0": False, "0.0": False}
# Two labels that are one of these pairs may judge the answers: read as classes, the bad answers would be learnt.
_OPPOSITES = tuple(
    set(pair.split("/"))
    for pair in (
        *("yes/no", "y/n", "good/bad", "like/dislike", "liked/disliked", "up/down", "thumbs up/thumbs down", "👍/👎"),
        *("positive/negative", "accept/reject", "accepted/rejected", "chosen/rejected", "correct/incorrect"),
    )
)
# Of labels that nearly all judge, another one is a slip in its row; of others it may be a class, or a scale.
_JUDGING_SHARE = 0.9
_MOST_LABELS = 20
_GAP = re.compile(r"(?<=\w)[\s_-]+(?=\w)")
_LABEL_COMPANIONS = frozenset({"id", "idx", "index", "row"})
# A name of a column is a word or a few; a sentence has an end, or goes on.
_SENTENCE = re.compile(r"[.?!]$|^(\S+\s+){5}\S")


@dataclass(frozen=True, slots=True)
class FormatMapping:
    """Which columns make an example, where the user names them.

    Args:
        prompt: column of the prompt: a text, or a list of turns.
        completion: column of the answer: a text, or a list of turns.
        system: column of the system prompt, if there is one.
    """

    prompt: str
    completion: str
    system: str | None = None

    @classmethod
    def from_pairs(cls, pairs: Mapping[str, str]) -> FormatMapping:
        """Check what was given to ``--map``.

        Args:
            pairs: from prompt, completion and system to column names; system may be left out.

        Raises:
            ConfigError: a name is unknown, missing or empty; all problems are reported together.
        """
        known = ("prompt", "completion", "system")
        problems = [f"{quoted(name)} is not one of them{nearest(name, known)}" for name in pairs if name not in known]
        problems += [f"{name} is missing" for name in known[:2] if name not in pairs]
        problems += [f"{name} names no column" for name in known if not pairs.get(name, name)]
        problems += [
            f"{' and '.join(names)} name the same column, {quoted(column)}"
            for column in dict.fromkeys(pairs.values())
            if column and len(names := [name for name in known if pairs.get(name) == column]) > 1
        ]
        if problems:
            raise ConfigError(
                "takes prompt, completion and, if there is one, system",
                where="--map",
                details=problems,
                remedy="write it as --map prompt=COLUMN,completion=COLUMN[,system=COLUMN]",
            )
        return cls(pairs["prompt"], pairs["completion"], pairs.get("system"))


@dataclass(frozen=True, slots=True)
class ColumnFormat:
    """A format of one question and one answer.

    Args:
        prompt: the column that begins the prompt.
        additions: columns of which the first that is there follows it.
        completions: columns of which the first that is there is the answer.
    """

    prompt: str
    additions: tuple[str, ...]
    completions: tuple[str, ...]


COLUMN_FORMATS = {
    "prompt-completion": ColumnFormat("prompt", (), ("completion", "response")),
    "alpaca": ColumnFormat("instruction", ("input", "context"), ("output", "response")),
    "question-answer": ColumnFormat("question", (), ("answer",)),
    "input-output": ColumnFormat("input", (), ("output",)),
    "text-label": ColumnFormat("text", (), ("label",)),
}
CONVERSATION_KEYS = {"openai-chat": "messages", "sharegpt": "conversations"}
PREFERENCE, OPENAI_PREFERENCE = "preference", "openai-preference"
RANKING, LABEL = "preference-ranking", "preference-label"
PREFERENCE_FORMATS = (PREFERENCE, OPENAI_PREFERENCE, RANKING, LABEL)
RANKING_KEYS = ("answers", "completions", "responses")
FORMATS = (*CONVERSATION_KEYS, *COLUMN_FORMATS, "mapped")
_ANSWERED = "prompt-completion"
_KNOWN_KEYS = tuple(
    dict.fromkeys(
        [*CONVERSATION_KEYS.values()]
        + [name for columns in COLUMN_FORMATS.values() for name in (columns.prompt, *columns.completions)]
    )
)


class LabelCounts:
    """What the ``label`` column of a file holds, where it stands beside a prompt and an answer.

    Labels that are true or false judge the answers. Words, as of classes, say nothing of them, unless they are two
    opposites such as good and bad, or stand among labels that do judge: then nobody but the user can tell.
    """

    def __init__(self) -> None:
        self._truths = 0
        self._empty = 0
        self._others: Counter[str] = Counter()
        self._answer = "completion"

    def add(self, value: Mapping[str, Any]) -> None:
        """Count the label of one row, where it has one."""
        if not has_label(value):
            return
        label = value["label"]
        self._answer = "completion" if "completion" in value else "response"
        if truth_of(label) is not None:
            self._truths += 1
        elif label is None or (isinstance(label, str) and not label.strip()):
            self._empty += 1
        else:
            plain = _GAP.sub(" ", label.strip().lower()) if isinstance(label, str) else repr(label)[:40]
            self._others[plain if plain in self._others or len(self._others) < _MOST_LABELS else "others"] += 1

    @property
    def judge(self) -> bool:
        """Whether the labels judge answers: nine in ten of those that are not empty are true or false."""
        return self._truths > 0 and self._truths >= _JUDGING_SHARE * (self._truths + self._others.total())

    @property
    def odd(self) -> int:
        """Labels that are neither true nor false, empty ones among them."""
        return self._empty + self._others.total()

    def require_clear(self) -> None:
        """Refuse labels of which only the user can say whether they judge the answers.

        Raises:
            RefusedSource: they are two opposites, or some of them are true or false and too many are not.
        """
        unclear = self._truths or set(self._others) in _OPPOSITES
        if self.judge or not self._others or not unclear:
            return
        total = self._truths + self._others.total()
        raise RefusedSource(
            "unclear_labels",
            f"{self._others.total()} of its {total} labels are neither true nor false, and may judge the answers",
            details=[f"label {quoted(label)}: {rows} rows" for label, rows in self._others.most_common()],
            why="an answer that is not liked must not be learnt as a right one",
            remedy="write true for an answer that is as wanted, and false for one that is not; where label is no "
            f"judgement, name the columns: --map prompt=prompt,completion={self._answer}",
        )


def detect_format(rows: Iterable[RawRow], *, preferences: bool = False, tasks: bool = False) -> str:
    """The one format of a file's rows.

    Rows that could not be read, or whose keys are those of no format, have no say: they are dropped later, each with
    its reason.

    Args:
        rows: all rows of the file.
        preferences: whether rows may compare or judge answers.
        tasks: whether answers will be graded, so that a label may be anything.

    Returns:
        One of :data:`FORMATS`, never ``mapped``; or, where they may be, of :data:`PREFERENCE_FORMATS`.

    Raises:
        DataError: no row's keys are those of a format, two formats are mixed, labels may judge answers but are not
            true or false, or the rows are preferences where they may not be.
    """
    rows, labels = list(rows), LabelCounts()
    for row in rows:
        if row.value is not None and not tasks:
            labels.add(row.value)
    lines: dict[str, list[int]] = {}
    unknown: list[RawRow] = []
    for row in rows:
        name = None if row.value is None else row_format(row.value)
        if labels.judge and row.value is not None and has_label(row.value):
            name = LABEL
        if name is not None:
            lines.setdefault(name, []).append(row.line)
        elif row.value is not None:
            unknown.append(row)
    if not lines:
        raise _unknown_format(unknown)
    if set(lines) <= {LABEL, _ANSWERED}:
        labels.require_clear()
    if len(lines) > 1:
        raise mixed_formats({name: (len(found), found[0]) for name, found in lines.items()})
    name = next(iter(lines))
    if name in PREFERENCE_FORMATS and not preferences:
        raise DataError(
            f"its rows are preferences ({name})",
            why="rows with one right answer each are needed here",
            remedy="give rows with one answer each, or name the columns: --map prompt=COLUMN,completion=chosen; "
            "`hone run` without --method learns from preferences as they are",
        )
    return name


def truth_of(value: object) -> bool | None:
    """A judgement as people write it: true and false, 1 and 0, in tables as text; None for anything else."""
    if isinstance(value, str):
        return _TRUTHS.get(value.strip().lower())
    return bool(value) if value in (0, 1) and isinstance(value, bool | int | float) else None


def has_label(value: Mapping[str, Any]) -> bool:
    """Whether a row is a prompt, an answer and a label of any kind, which may judge the answer."""
    return "label" in value and row_format(value) in (LABEL, _ANSWERED)


def row_format(value: Mapping[str, Any]) -> str | None:
    """The format that a row's keys are those of: of :data:`FORMATS`, of :data:`PREFERENCE_FORMATS`, or None."""
    for name, key in CONVERSATION_KEYS.items():
        if key in value:
            return name
    if "chosen" in value and "rejected" in value:
        return PREFERENCE
    if "preferred_output" in value and "non_preferred_output" in value and "input" in value:
        return OPENAI_PREFERENCE
    if "prompt" in value and any(isinstance(value.get(key), list) for key in RANKING_KEYS):
        return RANKING
    # a label that is no truth value is of a classification, and no judgement
    if "prompt" in value and truth_of(value.get("label")) is not None and {"completion", "response"} & value.keys():
        return LABEL
    for name, columns in COLUMN_FORMATS.items():
        if columns.prompt not in value or not any(key in value for key in columns.completions):
            continue
        # "text" and "label" are common words: with further columns, they need not be question and answer.
        if name != "text-label" or value.keys() - _LABEL_COMPANIONS == {"text", "label"}:
            return name
    return None


def mixed_formats(found: Mapping[str, tuple[int, int]]) -> RefusedSource:
    """The error for a file of several formats.

    Args:
        found: for each format its number of rows, and the line of the first.
    """
    by_size = sorted(found.items(), key=lambda item: (-item[1][0], item[0]))
    return RefusedSource(
        "mixed_formats",
        f"mixes formats: {' and '.join(name for name, _ in by_size)}",
        details=[f"{name}: {rows} rows, the first on line {line}" for name, (rows, line) in by_size],
        why="one file is one kind of task; rows read in the wrong form would train on the wrong text",
        remedy="put each format into a file of its own, or rewrite the smaller part",
    )


def _unknown_format(rows: list[RawRow]) -> RefusedSource:
    values = [row.value for row in rows[:20] if row.value is not None]
    keys = list(dict.fromkeys(key for value in values for key in value))
    wanted = [key for key in _KNOWN_KEYS if key not in keys]
    hints = [f"{quoted(key)}{hint}" for key in keys if key not in _KNOWN_KEYS and (hint := nearest(key, wanted))]
    return RefusedSource(
        "unknown_format",
        f"the rows' keys are those of no known format: {', '.join(key[:40] for key in keys[:12])}",
        details=hints[:4] + [f"known: {form}" for form in _describe_formats()],
        remedy=_unwrap(values[0]) if len(rows) == 1 and _unwrap(values[0]) else _map_remedy(keys),
    )


def _map_remedy(keys: list[str]) -> str:
    if len(keys) > 1 and any(_SENTENCE.search(key) for key in keys):
        return (
            "a table names its columns on its first line, and this one looks like a row: put a line of names, such as "
            "prompt,completion, above it"
        )
    if len(keys) == 2 and all(re.fullmatch(r"[\w -]{1,40}", key) for key in keys):
        return f"name the columns: --map prompt={keys[0]},completion={keys[1]} (or the other way round)"
    return (
        "name the columns: --map prompt=COLUMN,completion=COLUMN[,system=COLUMN]; a table names them on its first line"
    )


def _unwrap(value: Mapping[str, Any]) -> str:
    """What to do with a file that is one object around all rows; nothing where it is not."""
    for key, item in value.items():
        if isinstance(item, list) and len(item) > 1 and all(isinstance(element, dict) for element in item):
            return f"the whole file is one object: put the list under {quoted(key)} alone into a file"
    if len(value) > 1 and all(isinstance(item, dict) for item in value.values()):
        return "the whole file is one object: put the objects in it into a list, without their names"
    return ""


def _describe_formats() -> list[str]:
    chats = [f"{key} ({name})" for name, key in CONVERSATION_KEYS.items()]
    columns = [f"{one.prompt} + {' or '.join(one.completions)}" for one in COLUMN_FORMATS.values()]
    return [*chats, *columns, "chosen + rejected, prompt + answers, or prompt + completion + label (preferences)"]
