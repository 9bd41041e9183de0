"""Formulas over the scores of graders: numbers, names, + - * / ^ and a few functions.

Source: "Reinforcement fine-tuning", multigrader, in Azure's documentation of OpenAI's API, which lists the same
operators and functions. All is done in floats, so that no formula takes long.
"""

from __future__ import annotations

import ast
import math
import operator
from collections.abc import Callable, Mapping

from hone.errors import BadInputError

__all__ = ["FormulaError", "formula_value"]

_FUNCTIONS: Mapping[str, Callable[..., float]] = {
    "abs": abs, "ceil": math.ceil, "exp": math.exp, "floor": math.floor, "log": math.log, "max": max, "min": min,
    "sqrt": math.sqrt,
}  # fmt: skip
_OPERATORS: Mapping[type, Callable[..., float]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv, ast.Pow: math.pow,
    ast.USub: operator.neg, ast.UAdd: operator.pos,
}  # fmt: skip


class FormulaError(BadInputError):
    """A text that is no formula over these scores."""


def formula_value(formula: str, scores: Mapping[str, float]) -> float:
    """What a formula gives.

    Args:
        formula: as ``0.8 * close + 0.2 * brief ^ 2``; ``^`` binds as a power does.
        scores: of each grader, by name.

    Raises:
        FormulaError: it is no formula, or names what is no score.
        ArithmeticError: with these scores it has no finite value, as a division by zero.
    """
    if "**" in formula:
        raise FormulaError("a power is written ^, not **")
    try:
        # Python's own ^ would bind looser than +
        found = _value(ast.parse(formula.replace("^", "**").strip(), mode="eval").body, scores)
    except (SyntaxError, TypeError, RecursionError, MemoryError) as error:
        raise FormulaError(str(error)) from error
    except ValueError as error:  # the root of -1, the logarithm of 0
        raise ArithmeticError(str(error)) from error
    if not math.isfinite(found):
        raise ArithmeticError(f"it gives {found}")
    return found


def _value(node: ast.AST, scores: Mapping[str, float]) -> float:
    if isinstance(node, ast.Constant) and isinstance(node.value, int | float):
        return float(node.value)
    if isinstance(node, ast.Name) and node.id in scores:
        return float(scores[node.id])
    if isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
        return float(_OPERATORS[type(node.op)](_value(node.left, scores), _value(node.right, scores)))
    if isinstance(node, ast.UnaryOp) and type(node.op) in _OPERATORS:
        return float(_OPERATORS[type(node.op)](_value(node.operand, scores)))
    if (
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id in _FUNCTIONS
        and not node.keywords
    ):
        return float(_FUNCTIONS[node.func.id](*(_value(one, scores) for one in node.args)))
    raise FormulaError(f"only numbers, {', '.join(scores)}, + - * / ^ and {', '.join(_FUNCTIONS)} may stand in it")
