"""An answer and the row that it belongs to, as rewards see them."""

from __future__ import annotations

from dataclasses import dataclass

from hone.types import Example, JsonDict

__all__ = ["GradedAnswer"]


@dataclass(frozen=True, slots=True)
class GradedAnswer:
    """An answer that is to be graded.

    Args:
        example: the row; its own last turn is the reference.
        item: what a grader sees of the row.
        text: the answer.
    """

    example: Example
    item: JsonDict
    text: str
