"""The verdict on one row: a pure function of its bytes, so that no order of the rows changes any verdict.

Rows that are plain in every respect (nearly all of most files) are told by a few comparisons; every other row is read
by the full checks. Both give the same verdict, which is that of the reader behind training (tests/data/audit).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from hone.data.audit.preferences import read_preference
from hone.data.audit.schema import RowReading, read_columns, read_conversation
from hone.data.audit.texts import text_findings, worth_a_look
from hone.data.audit.values import quick_value, read_value
from hone.data.detection import (
    COLUMN_FORMATS,
    CONVERSATION_KEYS,
    LABEL,
    PREFERENCE_FORMATS,
    RANKING_KEYS,
    FormatMapping,
    LabelCounts,
    has_label,
    row_format,
)
from hone.data.faults import FAULTS, Finding
from hone.data.formats import PROMPT_COLUMNS, parse_row, read_keys
from hone.data.json_rows import describe_value
from hone.data.ledger import RowError, RowStatus
from hone.data.preferences import preference_keys
from hone.data.rows import decoded
from hone.data.tasks import with_answer
from hone.types import Example, JsonDict, Role

__all__ = ["Judge", "Judged", "TextSearch"]

TextSearch = Callable[[str], Iterable[tuple[str, str]]]
"""Text to (code, message) of each thing found in it."""

_MOST_PLANS = 1000
# Keys whose values decide the format: a list of answers, a label that is true or false.
_BY_THEIR_VALUES = frozenset({*RANKING_KEYS, "label"})


@dataclass(frozen=True, slots=True)
class Judged:
    """What is known of one row by itself.

    Args:
        status: kept, cut or dropped.
        findings: its faults, in the order they were met.
        format: the format of its keys; None where it has none, or could not be read.
        asked: the texts of the user's turns.
        context: all other texts before the answer, with their roles.
        answer: the text of the last assistant turn.
        unread: keys that nothing is read from.
        votes: of compared answers, the texts of (better, worse), pair by pair.
        liked: of a judged answer, whether it is as wanted.
    """

    status: RowStatus
    findings: tuple[Finding, ...] = ()
    format: str | None = None
    asked: str = ""
    context: str = ""
    answer: str = ""
    unread: tuple[str, ...] = ()
    votes: tuple[tuple[str, str], ...] = ()
    liked: bool | None = None


@dataclass(frozen=True, slots=True)
class _Plan:
    """How rows with the same keys are read."""

    format: str | None
    turns: str | None = None
    prompt: str | None = None
    completion: str | None = None
    unread: tuple[str, ...] = ()


class Judge:
    """Judges rows of one file.

    Args:
        mapping: the columns that the user named, or None.
        content: whether texts are looked through for debris, secrets and the like; without, only the form is checked.
        search: looks through each text besides, and gives (code, message) of what it finds.
        tasks: whether answers will be graded: rows may lack one, and no column is unread.
        judged_answers: whether the file's labels judge answers, so that another label is a fault of its row.

    Attributes:
        labels: what the rows' labels were.
    """

    def __init__(
        self,
        mapping: FormatMapping | None = None,
        *,
        content: bool = True,
        search: TextSearch | None = None,
        tasks: bool = False,
        judged_answers: bool = False,
    ) -> None:
        self.labels = LabelCounts()
        self._judged_answers = judged_answers
        self._tasks = tasks
        self._search = search
        self._mapping = mapping
        self._content = content
        self._plans: dict[tuple[str, ...], _Plan] = {}

    def line(self, data: bytes) -> Judged:
        """Judge one line of JSON, with or without its end."""
        value = quick_value(data)
        if type(value) is dict:
            return self.value(value)
        value, findings = read_value(decoded(data))
        if any(FAULTS[code].severity == "error" for code, _, _ in findings):
            return Judged("dropped", tuple(findings))
        if not isinstance(value, dict):
            return Judged("dropped", (("not_object", "", describe_value(value)),))
        judged = self.value(value)
        return _with_findings(judged, findings)

    def object_of(self, data: bytes) -> JsonDict | None:
        """The object that a line of JSON holds; None where there is none."""
        value, _ = read_value(decoded(data))
        return value if isinstance(value, dict) else None

    def value(self, value: JsonDict) -> Judged:
        """Judge one row that is an object."""
        if self._tasks:
            judged = self._value(with_answer(value, self._mapping)[0])
            return replace(judged, unread=())
        return self._value(value)

    def _value(self, value: JsonDict) -> Judged:
        keys = tuple(value)
        if "label" in value and self._mapping is None and not self._tasks:
            self.labels.add(value)
        if "prompt" in value and not _BY_THEIR_VALUES.isdisjoint(value):
            keys = (*keys, row_format(value) or "")
        plan = self._plans.get(keys)
        if plan is None:
            if len(self._plans) >= _MOST_PLANS:
                self._plans.clear()
            plan = self._plans[keys] = self._planned(value)
        texts = _plain_chat(value[plan.turns]) if plan.turns else _plain_pair(value, plan)
        if texts is not None:
            asked, context, answer = texts
            if not self._search and (not self._content or not worth_a_look(asked, context, answer)):
                return Judged("kept", (), plan.format, asked, context, answer, plan.unread)
        return self._looked_at(value, plan)

    def _planned(self, value: Mapping[str, Any]) -> _Plan:
        """A quick way for rows of these keys, where there is one."""
        name = "mapped" if self._mapping else row_format(value)
        if self._judged_answers and has_label(value):
            name = LABEL
        if name is None:
            return _Plan(name)
        if name in PREFERENCE_FORMATS:
            return _Plan(name, unread=tuple(sorted(value.keys() - preference_keys(name))))
        known = read_keys(name, self._mapping)
        unread = tuple(sorted(key for key in value if key not in known))
        if name in CONVERSATION_KEYS:
            plain = name == "openai-chat" and not (known - {"messages"}) & value.keys()
            return _Plan(name, "messages" if plain else None, unread=unread)
        if self._mapping is not None:
            columns = {self._mapping.prompt, self._mapping.completion}
            if columns <= value.keys() and not (known - columns) & value.keys():
                return _Plan(name, None, self._mapping.prompt, self._mapping.completion, unread)
            return _Plan(name, unread=unread)
        form = COLUMN_FORMATS[name]
        completion = next(key for key in form.completions if key in value)
        others = (known | set(PROMPT_COLUMNS)) - {form.prompt, completion}
        if others & value.keys():
            return _Plan(name, unread=unread)
        return _Plan(name, None, form.prompt, completion, unread)

    def _looked_at(self, value: JsonDict, plan: _Plan) -> Judged:
        reading = RowReading()
        asked = context = answer = ""
        cut, liked = False, None
        votes: tuple[tuple[str, str], ...] = ()
        if plan.format is None:
            keys = ", ".join(list(value)[:8]) or "none"
            reading.add("unknown_keys", f"its keys are those of no known format: {keys}")
        elif plan.format in PREFERENCE_FORMATS:
            preference = read_preference(reading, value, plan.format)
            if preference is not None:
                asked, context, answer, _ = _texts_of(preference, None)
                texts = [message.content for message in preference.answers]
                votes = tuple((texts[better], texts[worse]) for better, worse in preference.pairs)
                liked = preference.liked
        else:
            asked, context, answer, cut = self._read_example(reading, value, plan.format)
        if self._content:
            reading.findings += text_findings(reading.texts)
        if self._search:
            for pointer, _, text in reading.texts:
                reading.findings += [(code, pointer, message) for code, message in self._search(text)]
        dropped = any(FAULTS[code].severity == "error" for code, _, _ in reading.findings)
        status: RowStatus = "dropped" if dropped else "cut" if cut else "kept"
        return Judged(status, tuple(reading.findings), plan.format, asked, context, answer, plan.unread, votes, liked)

    def _read_example(self, reading: RowReading, value: JsonDict, format_name: str) -> tuple[str, str, str, bool]:
        """Collect the row's faults, and read it as training does, whose verdict is the one that counts."""
        if format_name in CONVERSATION_KEYS:
            read_conversation(reading, value, CONVERSATION_KEYS[format_name])
        else:
            read_columns(reading, value, format_name, self._mapping)
        try:
            example, left_out = parse_row(value, format_name, self._mapping)
        except RowError as error:
            if not any(FAULTS[code].severity == "error" for code, _, _ in reading.findings):
                reading.add(error.code, error.reason)
            return "", "", "", False
        if left_out is not None:
            reading.add("trailing_turns", left_out)
        return _texts_of(example, left_out)


def _texts_of(example: Example, left_out: str | None) -> tuple[str, str, str, bool]:
    """What was asked, the context, the answer, and whether turns are left out."""
    asked = "\n".join(message.content for message in example.prompt if message.role == "user")
    context = "\n".join(_role_text(m.role, m.content) for m in example.prompt if m.role != "user")
    if example.tools:
        context += f"\ntools\x1f{json.dumps([dict(tool) for tool in example.tools], ensure_ascii=False)}"
    last = example.messages[-1]
    calls = "".join(f"\n{call.name} {dict(call.arguments)}" for call in last.tool_calls)
    return asked, context, last.content + calls, left_out is not None


def _plain_chat(turns: Any) -> tuple[str, str, str] | None:
    """(asked, context, answer) of turns that are plain: user and assistant in turn, perhaps a system turn first."""
    if type(turns) is not list or not turns:
        return None
    asked, context = [], []
    expected = "user"
    answer = ""
    for index, turn in enumerate(turns):
        if type(turn) is not dict or len(turn) != 2:
            return None
        role, content = turn.get("role"), turn.get("content")
        if type(content) is not str:
            return None
        if role == "user" and expected == "user":
            asked.append(content)
            expected = "assistant"
        elif role == "assistant" and expected == "assistant":
            if not content or content.isspace():
                return None
            if index < len(turns) - 1:
                context.append(f"assistant\x1f{content}")
            answer = content
            expected = "user"
        elif role == "system" and index == 0:
            context.append(f"system\x1f{content}")
        else:
            return None
    if expected == "assistant" or not asked:
        return None
    return "\n".join(asked) if len(asked) > 1 else asked[0], "\n".join(context), answer


def _plain_pair(value: JsonDict, plan: _Plan) -> tuple[str, str, str] | None:
    """(asked, context, answer) of a row of two columns of text."""
    if plan.prompt is None or plan.completion is None:
        return None
    asked, answer = value[plan.prompt], value[plan.completion]
    if type(asked) is not str or type(answer) is not str:
        return None
    if not asked or asked.isspace() or not answer or answer.isspace():
        return None
    return asked, "", answer


def _role_text(role: Role, text: str) -> str:
    return f"{role}\x1f{text}"


def _with_findings(judged: Judged, findings: list[Finding]) -> Judged:
    return Judged(
        judged.status,
        (*findings, *judged.findings),
        judged.format,
        judged.asked,
        judged.context,
        judged.answer,
        judged.unread,
        judged.votes,
        judged.liked,
    )
