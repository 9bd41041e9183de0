"""Questions of the user's own, one JSON object a line, and converters from forms in which benchmarks are found.

    {"question": "...", "choices": ["...", "..."], "right": 0}      choices; right is an index from 0
    {"question": "...", "accepted": ["...", "..."]}                 to be answered word for word
    {"beginnings": ["...", "..."], "ending": "...", "right": 1}     which beginning makes the ending likelier

Each may have ``skill`` (a word to group by), ``as_chat`` (false: plain text to be continued) and ``per_byte`` (true:
log-probabilities are divided by the bytes of the choice).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from hone.data.source import read_rows
from hone.errors import ConfigError, DataError
from hone.evaluation.probes.item import ProbeItem
from hone.types import JsonDict

__all__ = ["CONVERTERS", "convert_questions", "question_to_json", "read_questions"]

_FORMS = "docs/retention.md shows the three forms of a question"
_MOST_PROBLEMS = 20


def read_questions(path: str | Path) -> list[ProbeItem]:
    """The questions of a file, in its own form.

    Args:
        path: JSON lines, or one JSON array.

    Raises:
        DataError: rows are no questions (each is named), or there is none.
    """
    items: list[ProbeItem] = []
    problems: list[str] = []
    skill = Path(path).stem
    for row in read_rows(str(path)):
        problem = row.error if row.value is None else _problem(row.value)
        if row.value is None or problem:
            problems.append(f"{path}:{row.line}: {problem}")
        else:
            items.append(_item(row.value, skill))
    if problems or not items:
        raise DataError(
            f"{len(problems)} {'row is no question' if len(problems) == 1 else 'rows are no questions'}"
            if problems
            else "there is no question in it",
            where=str(path),
            details=problems[:_MOST_PROBLEMS],
            remedy=f"{_FORMS}; hone.evaluation.probes.convert_questions turns known benchmarks into it",
        )
    return items


def _problem(row: JsonDict) -> str | None:
    """What is wrong with a row; None for a question."""
    unknown = set(row) - {
        "question", "choices", "right", "accepted", "beginnings", "ending", "skill", "as_chat", "per_byte",
    }  # fmt: skip
    if unknown:
        return f"unknown: {', '.join(sorted(unknown))}"
    wrong: list[str] = [name for name in ("question", "ending", "skill") if name in row and not _is_text(row[name])]
    wrong += [name for name in ("choices", "accepted", "beginnings") if name in row and not _are_texts(row[name])]
    wrong += [name for name in ("as_chat", "per_byte") if not isinstance(row.get(name, False), bool)]
    if wrong:
        return f"{', '.join(wrong)}: not of the right type, or empty"
    form = next((names for names in (
        {"question", "choices", "right"}, {"question", "accepted"}, {"beginnings", "ending", "right"},
    ) if set(row) - {"skill", "as_chat", "per_byte"} == names), None)  # fmt: skip
    if form is None:
        return "it has none of the three forms: question, choices, right; question, accepted; beginnings, ending, right"
    if "right" not in form:
        return None
    options = row["choices"] if "choices" in form else row["beginnings"]
    if len(options) < 2 or len(set(options)) < len(options):
        return "fewer than two choices, or two that are alike"
    if isinstance(row["right"], bool) or not isinstance(row["right"], int) or not 0 <= row["right"] < len(options):
        return f"right = {row['right']!r} is no index from 0 to {len(options) - 1}"
    return None


def _is_text(value: object) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _are_texts(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(_is_text(one) for one in value)


def _item(row: JsonDict, skill: str) -> ProbeItem:
    more: Mapping[str, Any] = {"as_chat": row.get("as_chat", True), "per_byte": row.get("per_byte", False)}
    named = row.get("skill", skill)
    if "accepted" in row:
        return ProbeItem(named, (row["question"],), tuple(row["accepted"]), None, **more)
    if "choices" in row:
        return ProbeItem(named, (row["question"],), tuple(row["choices"]), row["right"], **more)
    endings = (row["ending"],) * len(row["beginnings"])
    return ProbeItem(named, tuple(row["beginnings"]), endings, row["right"], **more)


def question_to_json(item: ProbeItem) -> JsonDict:
    """The row that :func:`read_questions` reads as ``item``."""
    more: JsonDict = {"skill": item.skill, "as_chat": item.as_chat, "per_byte": item.per_byte}
    if item.right is None:
        return {"question": item.prompts[0], "accepted": list(item.answers), **more}
    if len(item.prompts) > 1:
        return {"beginnings": list(item.prompts), "ending": item.answers[0], "right": item.right, **more}
    return {"question": item.prompts[0], "choices": list(item.answers), "right": item.right, **more}


def convert_questions(rows: Iterable[Mapping[str, Any]], form: str) -> list[ProbeItem]:
    """Questions from the rows of a benchmark, as LLM Foundry's files have them.

    Args:
        rows: the benchmark's rows.
        form: a key of :data:`CONVERTERS`.

    Raises:
        ConfigError: there is no such form.
        DataError: a row is not of it.
    """
    if form not in CONVERTERS:
        raise ConfigError(f"{form!r} is no form", remedy=f"give one of {', '.join(CONVERTERS)}")
    items = []
    for number, row in enumerate(rows, start=1):
        try:
            items.append(CONVERTERS[form](row))
        except (KeyError, TypeError, IndexError) as error:
            raise DataError(f"row {number} is not of the form {form}: {error!r}") from error
    return items


def _multiple_choice(skill: str, *, per_byte: bool) -> Callable[[Mapping[str, Any]], ProbeItem]:
    def convert(row: Mapping[str, Any]) -> ProbeItem:
        question = str(row["query"]) if str(row["query"]).endswith("Answer:") else f"{row['query']}\nAnswer:"
        return ProbeItem(
            skill, (question,), tuple(map(str, row["choices"])), int(row["gold"]), as_chat=False, per_byte=per_byte
        )

    return convert


def _sentence_completion(row: Mapping[str, Any]) -> ProbeItem:
    return ProbeItem(
        "openbookqa", (str(row["query"]),), tuple(row["choices"]), int(row["gold"]), as_chat=False, per_byte=True
    )


def _schema(row: Mapping[str, Any]) -> ProbeItem:
    beginnings = tuple(row["context_options"])
    endings = (str(row["continuation"]),) * len(beginnings)
    return ProbeItem("winogrande", beginnings, endings, int(row["gold"]), as_chat=False)


def _trivia(row: Mapping[str, Any]) -> ProbeItem:
    accepted = tuple(dict.fromkeys([str(row["answer"]), *map(str, row["aliases"])]))
    return ProbeItem("triviaqa", (str(row["context"]),), accepted, None, as_chat=False)


# Choices of some length are compared per byte, as lm-evaluation-harness's acc_norm does; yes and no need no such care.
CONVERTERS: dict[str, Callable[[Mapping[str, Any]], ProbeItem]] = {
    "arc_easy": _multiple_choice("arc_easy", per_byte=True),
    "boolq": _multiple_choice("boolq", per_byte=False),
    "openbookqa": _sentence_completion,
    "triviaqa": _trivia,
    "winogrande": _schema,
}
