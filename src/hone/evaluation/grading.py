"""Graders: a score for a model's answer, by a string, a similarity, a formula over others, a model, or a program.

Source: the OpenAI API reference and guide, graders. An answer on which a grader fails, or any part of a formula over
graders, has the score 0.
"""

from __future__ import annotations

import ast
import json
import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from hone.data.messages import CALLING_ROLE, role_named
from hone.errors import BadInputError, HoneError
from hone.evaluation.grader_formula import FormulaError, formula_value
from hone.evaluation.grader_program import GraderProgramError, run_grader_program
from hone.evaluation.grader_sampling import is_number, sampling_fault
from hone.evaluation.grader_similarity import SIMILARITY_METRICS, text_similarity
from hone.evaluation.grader_template import fill_template, unreadable_places
from hone.types import JsonDict

__all__ = [
    "AnswerChat",
    "GraderError",
    "Grading",
    "JudgeError",
    "check_grader",
    "check_places",
    "grade",
    "parts_of",
    "templates_of",
]

AnswerChat = Callable[[str, list[JsonDict], JsonDict], str]
"""Asks a model: (model, messages, sampling parameters) -> its answer; a :class:`JudgeError` where it cannot be asked
about this one."""

_NUMBER = re.compile(r"-?(?:\d+(?:\.\d+)?|(?<![\d.])\.\d+)(?:[eE][+-]?\d+)?")
_OUT_OF = re.compile(r"(?<=\d)\s*(?:/|(?:out\s+)?of)\s*\d+(?:\.\d+)?")
# Of each kind: the texts that it must have, and what it may have besides. OpenAI's evals give each a pass_threshold,
# which no reward has use for.
_FIELDS: Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "string_check": (("name", "input", "reference", "operation"), ()),
    "text_similarity": (("name", "input", "reference", "evaluation_metric"), ()),
    "python": (("name", "source"), ("image_tag",)),
    "multi": (("name", "calculate_output"), ("graders",)),
    "score_model": (("name", "model"), ("input", "range", "sampling_params")),
}
_CHECKS: Mapping[str, Callable[[str, str], bool]] = {
    "eq": operator.eq,
    "ne": operator.ne,
    "like": lambda text, reference: reference in text,
    "ilike": lambda text, reference: reference.casefold() in text.casefold(),
}


class GraderError(BadInputError):
    """A grader that could not run.

    Args:
        message: what is wrong with it.
        field: which of its fields, as ``source``.
        code: a word for programs: ``invalid_grader``, ``no_model`` or ``python_graders_disabled``.
    """

    def __init__(self, message: str, *, field: str = "type", code: str = "invalid_grader") -> None:
        super().__init__(message, where=f"grader.{field}")
        self.field = field
        self.code = code


class JudgeError(HoneError):
    """A judge cannot be asked about one answer; others it may well grade."""


@dataclass(slots=True)
class Grading:
    """What graders may use, and what went wrong in them.

    Args:
        sample: {output_text, output_json, ...} of the answer.
        item: the row.
        answer_chat: asks a model; None where none can be asked.
        run_programs: whether programs that a grader holds may be run.
        errors: names of the error flags of OpenAI's API that were raised.
        details: a sentence for some of them, by the names that the API has for it.
        faults: what failed, each as ``flag: sentence``. A flag without one is no failure: an answer that is no JSON
            lacks the places of ``sample.output_json``, which are empty then.
    """

    sample: JsonDict
    item: Any
    answer_chat: AnswerChat | None = None
    run_programs: bool = False
    errors: set[str] = field(default_factory=set)
    details: dict[str, str] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, text: str, item: Any, **further: Any) -> Grading:
        """For an answer as text; ``output_json`` is there where it is JSON."""
        sample: JsonDict = {"output_text": text}
        try:
            sample["output_json"] = json.loads(text)
        except (ValueError, RecursionError):
            sample["output_json"] = None
        return cls(sample, item, **further)

    def fill(self, template: str) -> str:
        """A template with its places filled; one that is not there is empty and flagged, one of the row a fault too."""
        text, missing = fill_template(template, {"sample": self.sample, "item": self.item})
        for place in missing:
            self.errors.add("invalid_variable_error")
            if not re.match(r"sample\b", place):
                self.faults.append(f"invalid_variable_error: {place} is not there")
        return text

    def fail(self, flag: str, detail: str, *, named: str = "") -> float:
        """Note that a grader failed, and give its score: 0.

        Args:
            flag: of OpenAI's API.
            detail: what went wrong; its last line is told as the fault.
            named: what the API calls the sentence, where it has a place for it.
        """
        self.errors.add(flag)
        self.faults.append(f"{flag}: {(detail.splitlines() or [''])[-1]}")
        if named:
            self.details[named] = detail
        return 0.0


def check_grader(grader: Mapping[str, Any], *, inside: bool = False) -> None:
    """Refuse a grader that could not run.

    Args:
        grader: in OpenAI's form.
        inside: whether it stands in a ``multi`` grader.

    Raises:
        GraderError: a field is missing or wrong; it is named.
    """
    kind = grader.get("type")
    if not isinstance(kind, str) or kind not in _FIELDS or (inside and kind == "multi"):
        raise GraderError(f"Grader type {kind!r} is none of {', '.join(_FIELDS)}.", field="type")
    texts, others = _FIELDS[kind]
    for name in texts:
        if not isinstance(grader.get(name), str):
            raise GraderError(f"A {kind} grader needs the text {name!r}.", field=name)
    for name in grader:
        if name not in ("type", *texts, *others, "pass_threshold"):
            raise GraderError(f"A {kind} grader has no field {name!r}; it has {', '.join(texts + others)}.", field=name)
    _CHECK_OF[kind](grader)


def check_places(grader: JsonDict) -> None:
    """Refuse a grader whose templates hold double braces around anything but a place, which would stay as they are.

    Args:
        grader: one that :func:`check_grader` has passed.

    Raises:
        GraderError: one does; the braces are named.
    """
    for part in parts_of(grader):
        for name, template in templates_of(part):
            wrong = unreadable_places(template)
            if wrong:
                raise GraderError(
                    f"{', '.join(wrong)} in {part['name']}: only {{{{ sample.output_text }}}}, "
                    "{{ sample.output_json.KEY }} and {{ item.COLUMN }} are filled; expressions are not run.",
                    field=name,
                )


def templates_of(grader: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(field, template) of each text of a single grader that is filled before it is read."""
    if grader["type"] == "score_model":
        return [("input", _text_of(one["content"])) for one in grader["input"]]
    return [(name, grader[name]) for name in ("input", "reference") if name in grader]


def grade(grader: Mapping[str, Any], grading: Grading) -> tuple[float, dict[str, float]]:
    """The score of an answer, and of the parts where it is a formula over others; 0 where any part failed.

    Args:
        grader: one that :func:`check_grader` has passed.
        grading: the answer and its row; receives the error flags and faults.

    Raises:
        GraderError: it needs a model or a program, and may not have it here.
        MissingDependencyError: its metric is another package's, which is not installed.
    """
    if grader["type"] != "multi":
        return _score(grader, grading), {}
    parts = {name: _score(part, grading) for name, part in _parts(grader).items()}
    if grading.faults:
        return 0.0, parts
    try:
        return formula_value(grader["calculate_output"], parts), parts
    except (FormulaError, ArithmeticError) as error:
        return grading.fail("formula_parse_error", str(error)), parts


def _score(grader: Mapping[str, Any], grading: Grading) -> float:
    before = len(grading.faults)
    score = _SCORES[grader["type"]](grader, grading)
    return score if len(grading.faults) == before else 0.0


def parts_of(grader: JsonDict) -> list[JsonDict]:
    """The graders that give scores: those of a formula, else the grader itself."""
    return list(_parts(grader).values()) if grader["type"] == "multi" else [grader]


def _parts(grader: Mapping[str, Any]) -> dict[str, JsonDict]:
    """The graders of a formula by name; the API's schema has one alone, its guide several by name."""
    parts = grader["graders"]
    return {parts.get("name", ""): parts} if isinstance(parts.get("type"), str) else dict(parts)


def _string_check(grader: Mapping[str, Any], grading: Grading) -> float:
    check = _CHECKS[grader["operation"]]
    return float(check(grading.fill(grader["input"]), grading.fill(grader["reference"])))


def _text_similarity(grader: Mapping[str, Any], grading: Grading) -> float:
    text, reference = (grading.fill(grader[name]) for name in ("input", "reference"))
    return text_similarity(grader["evaluation_metric"], text, reference)


def _score_model(grader: Mapping[str, Any], grading: Grading) -> float:
    if grading.answer_chat is None:
        raise GraderError("No model is answered here, so score_model cannot run.", code="no_model")
    messages = [{"role": one["role"], "content": grading.fill(_text_of(one["content"]))} for one in grader["input"]]
    detail = "model_grader_server_error_details"
    try:
        answer = grading.answer_chat(grader["model"], messages, dict(grader.get("sampling_params") or {}))
    except JudgeError as error:
        return grading.fail("model_grader_server_error", error.what, named=detail)
    low, high = grader.get("range") or (0.0, 1.0)
    # "8/10" and "8 out of 10" say 8
    within = [one for one in map(float, _NUMBER.findall(_OUT_OF.sub("", answer))) if low <= one <= high]
    if not within:
        fault = f"no number from {low:g} to {high:g} in: {answer[:200]!r}"
        return grading.fail("model_grader_parse_error", fault, named=detail)
    return within[-1]


def _python(grader: Mapping[str, Any], grading: Grading) -> float:
    if not grading.run_programs:
        raise GraderError(
            "Programs that a grader holds are not run here.",
            code="python_graders_disabled",
        )
    try:
        return run_grader_program(grader["source"], sample=grading.sample, item=grading.item)
    except GraderProgramError as error:
        named = "python_grader_runtime_error_details"
        return grading.fail("python_grader_runtime_error", error.what, named=named)


def _text_of(content: Any) -> str:
    """A message's text, of a string, a part, or a list of those."""
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        return "".join(_text_of(part) for part in content)
    if isinstance(content, dict) and isinstance(content.get("text"), str):
        return str(content["text"])
    raise GraderError("A score_model grader reads text alone.", field="input")


def _check_string(grader: Mapping[str, Any]) -> None:
    if grader["operation"] not in _CHECKS:
        raise GraderError(f"operation is one of {', '.join(_CHECKS)}.", field="operation")


def _check_similarity(grader: Mapping[str, Any]) -> None:
    if grader["evaluation_metric"] not in SIMILARITY_METRICS:
        known = ", ".join(SIMILARITY_METRICS)
        raise GraderError(
            f"evaluation_metric is one of {known}; cosine and meteor need models that are not here.",
            field="evaluation_metric",
        )


def _check_program(grader: Mapping[str, Any]) -> None:
    try:
        tree = ast.parse(grader["source"])
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise GraderError(f"source is no Python: {error}", field="source") from error
    if not any(isinstance(node, ast.FunctionDef) and node.name == "grade" for node in tree.body):
        raise GraderError("source defines no function grade(sample, item).", field="source")


def _check_formula(grader: Mapping[str, Any]) -> None:
    parts = grader.get("graders")
    if not isinstance(parts, dict) or not parts or not all(isinstance(part, dict) for part in _parts(grader).values()):
        raise GraderError("A multi grader needs graders by name.", field="graders")
    for part in _parts(grader).values():
        check_grader(part, inside=True)
    try:
        formula_value(grader["calculate_output"], dict.fromkeys(_parts(grader), 1.0))
    except ArithmeticError:
        return  # it divides by what need not be so in a real grading
    except FormulaError as error:
        raise GraderError(f"calculate_output: {error.what}", field="calculate_output") from error


def _check_model(grader: Mapping[str, Any]) -> None:
    messages = grader.get("input")
    if (
        not isinstance(messages, list)
        or not messages
        or not all(isinstance(one, dict) and isinstance(one.get("role"), str) and "content" in one for one in messages)
    ):
        raise GraderError("A score_model grader needs messages as input.", field="input")
    for one in messages:
        _text_of(one["content"])
        if one["role"] == CALLING_ROLE or role_named(one["role"]) not in ("system", "user", "assistant"):
            raise GraderError(f"No judge is told {one['role']!r}; a role is user, assistant, system or developer.",
                              field="input")  # fmt: skip
    fault = sampling_fault(grader.get("sampling_params"))
    if fault is not None:
        raise GraderError(fault[1], field=fault[0])
    bounds = grader.get("range")
    numbers = isinstance(bounds, list) and len(bounds) == 2 and all(map(is_number, bounds))
    if bounds is not None and not (numbers and bounds[0] < bounds[1]):
        raise GraderError("range is two numbers, the lower one first.", field="range")


_SCORES: Mapping[str, Callable[[Mapping[str, Any], Grading], float]] = {
    "string_check": _string_check,
    "text_similarity": _text_similarity,
    "python": _python,
    "score_model": _score_model,
}
_CHECK_OF: Mapping[str, Callable[[Mapping[str, Any]], None]] = {
    "string_check": _check_string,
    "text_similarity": _check_similarity,
    "python": _check_program,
    "multi": _check_formula,
    "score_model": _check_model,
}
