"""Graders: a score for a model's answer, by a string, a similarity, a formula over others, a model, or a program.

Source: the OpenAI API reference and guide, graders. A template names ``{{ sample.output_text }}``,
``{{ sample.output_json.KEY }}`` or ``{{ item.KEY }}``; nothing else of a template language is there.
"""

from __future__ import annotations

import ast
import json
import math
import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from hone.errors import BadInputError, MissingDependencyError
from hone.evaluation.grader_program import GraderProgramError, run_grader_program
from hone.types import JsonDict

__all__ = ["AnswerChat", "GraderError", "Grading", "check_grader", "grade", "parts_of"]

AnswerChat = Callable[[str, list[JsonDict], JsonDict], str]
"""Asks a model: (model, messages, sampling parameters) -> its answer."""

_PLACE = re.compile(r"\{\{\s*([\w.\[\]-]+)\s*\}\}")
_NUMBER = re.compile(r"-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?")
_OUT_OF = re.compile(r"(?<=\d)\s*(?:/|(?:out\s+)?of)\s*\d+(?:\.\d+)?")
# Of each kind: the texts that it must have, and what it may have besides. OpenAI's evals give each a pass_threshold, which
# no reward has use for.
_FIELDS: Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "string_check": (("name", "input", "reference", "operation"), ()),
    "text_similarity": (("name", "input", "reference", "evaluation_metric"), ()),
    "python": (("name", "source"), ("image_tag",)),
    "multi": (("name", "calculate_output"), ("graders",)),
    "score_model": (("name", "model"), ("input", "range", "sampling_params")),
}
_MOST_TEXT = 20_000  # characters compared by similarity, which takes the square of them
_FUNCTIONS: Mapping[str, Callable[..., float]] = {
    "abs": abs, "ceil": math.ceil, "exp": math.exp, "floor": math.floor, "log": math.log, "max": max, "min": min,
    "sqrt": math.sqrt,
}  # fmt: skip
_OPERATORS: Mapping[type, Callable[..., float]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv,
    ast.USub: operator.neg, ast.UAdd: operator.pos,
}  # fmt: skip
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


@dataclass(slots=True)
class Grading:
    """What graders may use, and what went wrong in them.

    Args:
        sample: {output_text, output_json, ...} of the answer.
        item: the row.
        answer_chat: asks a model; None where none can be asked.
        run_programs: whether programs that a grader holds may be run.
        errors: names of the error flags of OpenAI's API that were raised.
        details: a sentence for some of them.
    """

    sample: JsonDict
    item: Any
    answer_chat: AnswerChat | None = None
    run_programs: bool = False
    errors: set[str] = field(default_factory=set)
    details: dict[str, str] = field(default_factory=dict)

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
        """A template with its places filled; one that is not there is empty and raises a flag."""

        def value(found: re.Match[str]) -> str:
            place: Any = {"sample": self.sample, "item": self.item}
            for part in re.split(r"[.\[\]]+", found[1].rstrip("]")):
                if isinstance(place, dict) and part in place:
                    place = place[part]
                elif isinstance(place, list) and part.isdigit() and int(part) < len(place):
                    place = place[int(part)]
                else:
                    self.errors.add("invalid_variable_error")
                    return ""
            return place if isinstance(place, str) else json.dumps(place, ensure_ascii=False)

        return _PLACE.sub(value, template)


def check_grader(grader: Mapping[str, Any], *, inside: bool = False) -> None:
    """Refuse a grader that could not run.

    Args:
        grader: in OpenAI's form.
        inside: whether it stands in a ``multi`` grader.

    Raises:
        GraderError: a field is missing or wrong; it is named.
    """
    kind = grader.get("type")
    if kind not in _FIELDS or (inside and kind == "multi"):
        raise GraderError(f"Grader type {kind!r} is none of {', '.join(_FIELDS)}.", field="type")
    texts, others = _FIELDS[kind]
    for name in texts:
        if not isinstance(grader.get(name), str):
            raise GraderError(f"A {kind} grader needs the text {name!r}.", field=name)
    for name in grader:
        if name not in ("type", *texts, *others, "pass_threshold"):
            raise GraderError(f"A {kind} grader has no field {name!r}; it has {', '.join(texts + others)}.", field=name)
    _CHECK_OF[kind](grader)


def grade(grader: Mapping[str, Any], grading: Grading) -> tuple[float, dict[str, float]]:
    """The score of an answer, and of the parts where it is a formula over others.

    Args:
        grader: one that :func:`check_grader` has passed.
        grading: the answer and its row; receives the error flags.

    Raises:
        GraderError: it needs a model or a program, and may not have it here.
        MissingDependencyError: its metric is another package's, which is not installed.
    """
    if grader["type"] != "multi":
        return _SCORES[grader["type"]](grader, grading), {}
    parts = {name: grade(part, grading)[0] for name, part in _parts(grader).items()}
    try:
        return _evaluate(ast.parse(grader["calculate_output"], mode="eval").body, parts), parts
    except (ValueError, ArithmeticError, TypeError) as error:
        grading.errors.add("formula_parse_error")
        grading.details["formula_parse_error"] = str(error)
        return 0.0, parts


def parts_of(grader: JsonDict) -> list[JsonDict]:
    """The graders that give scores: those of a formula, else the grader itself."""
    return list(_parts(grader).values()) if grader["type"] == "multi" else [grader]


def _parts(grader: Mapping[str, Any]) -> dict[str, JsonDict]:
    """The graders of a formula by name; the API's schema has one alone, its guide several by name."""
    parts = grader["graders"]
    return {parts["name"]: parts} if isinstance(parts.get("type"), str) else dict(parts)


def _string_check(grader: Mapping[str, Any], grading: Grading) -> float:
    check = _CHECKS[grader["operation"]]
    return float(check(grading.fill(grader["input"]), grading.fill(grader["reference"])))


def _text_similarity(grader: Mapping[str, Any], grading: Grading) -> float:
    text, reference = (grading.fill(grader[name])[:_MOST_TEXT] for name in ("input", "reference"))
    metric = grader["evaluation_metric"]
    if metric == "fuzzy_match":
        return _indel_similarity(text, reference)
    if metric == "bleu":
        from sacrebleu import sentence_bleu

        return float(sentence_bleu(text, [reference]).score) / 100
    if metric == "gleu":
        try:
            from nltk.translate.gleu_score import sentence_gleu
        except ImportError as error:
            raise MissingDependencyError("the metric gleu needs nltk", remedy="pip install nltk") from error
        return float(sentence_gleu([reference.split()], text.split())) if text.split() and reference.split() else 0.0
    from rouge_score.rouge_scorer import RougeScorer

    kind = "rougeL" if metric == "rouge_l" else metric.replace("_", "")
    return float(RougeScorer([kind]).score(reference, text)[kind].fmeasure)


def _indel_similarity(one: str, other: str) -> float:
    """Twice the longest common subsequence over both lengths, as rapidfuzz's ``ratio`` / 100.

    The subsequence's length is counted in the bits of one integer a row: Hyyrö 2004, "Bit-parallel LCS-length".
    """
    if not one and not other:
        return 1.0
    places: dict[str, int] = {}
    for place, letter in enumerate(one):
        places[letter] = places.get(letter, 0) | 1 << place
    every = state = (1 << len(one)) - 1
    for letter in other:
        matches = state & places.get(letter, 0)
        state = ((state + matches) | (state - matches)) & every
    return 2 * (len(one) - state.bit_count()) / (len(one) + len(other))


def _score_model(grader: Mapping[str, Any], grading: Grading) -> float:
    if grading.answer_chat is None:
        raise GraderError("No model is answered here, so score_model cannot run.", code="no_model")
    messages = [{"role": one["role"], "content": grading.fill(_text_of(one["content"]))} for one in grader["input"]]
    answer = grading.answer_chat(grader["model"], messages, dict(grader.get("sampling_params") or {}))
    # "8/10" and "8 out of 10" say 8
    found = _NUMBER.findall(_OUT_OF.sub("", answer))
    low, high = grader.get("range") or (0.0, 1.0)
    if not found or not low <= float(found[-1]) <= high:
        grading.errors.add("model_grader_parse_error")
        grading.details["model_grader_server_error_details"] = f"no number from {low:g} to {high:g} in: {answer[:200]}"
        return float(low)
    return float(found[-1])


def _python(grader: Mapping[str, Any], grading: Grading) -> float:
    if not grading.run_programs:
        raise GraderError(
            "Programs that a grader holds are not run here.",
            code="python_graders_disabled",
        )
    try:
        return run_grader_program(grader["source"], sample=grading.sample, item=grading.item)
    except GraderProgramError as error:
        grading.errors.add("python_grader_runtime_error")
        grading.details["python_grader_runtime_error_details"] = error.what
        return 0.0


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
    known = ["fuzzy_match", "bleu", "gleu", "rouge_1", "rouge_2", "rouge_3", "rouge_4", "rouge_5", "rouge_l"]
    if grader["evaluation_metric"] not in known:
        raise GraderError(
            f"evaluation_metric is one of {', '.join(known)}; cosine and meteor need models that are not here.",
            field="evaluation_metric",
            code="invalid_grader",
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
        _evaluate(ast.parse(grader["calculate_output"], mode="eval").body, dict.fromkeys(_parts(grader), 1.0))
    except ArithmeticError:
        return  # it divides by what need not be so in a real grading
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError) as error:
        raise GraderError(f"calculate_output: {error}", field="calculate_output") from error


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
    bounds = grader.get("range")
    numbers = isinstance(bounds, list) and len(bounds) == 2 and all(isinstance(one, int | float) for one in bounds)
    if bounds is not None and not (numbers and bounds[0] < bounds[1]):
        raise GraderError("range is two numbers, the lower one first.", field="range")


def _evaluate(node: ast.AST, names: Mapping[str, float]) -> float:
    """A formula of numbers, graders' names, + - * / and a few functions."""
    if isinstance(node, ast.Constant) and isinstance(node.value, int | float):
        return float(node.value)
    if isinstance(node, ast.Name) and node.id in names:
        return float(names[node.id])
    if isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
        return float(_OPERATORS[type(node.op)](_evaluate(node.left, names), _evaluate(node.right, names)))
    if isinstance(node, ast.UnaryOp) and type(node.op) in _OPERATORS:
        return float(_OPERATORS[type(node.op)](_evaluate(node.operand, names)))
    if (
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id in _FUNCTIONS
        and not node.keywords
    ):
        return float(_FUNCTIONS[node.func.id](*(_evaluate(one, names) for one in node.args)))
    raise ValueError(f"only numbers, {', '.join(names)}, + - * / and {', '.join(_FUNCTIONS)} may stand in it")


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
