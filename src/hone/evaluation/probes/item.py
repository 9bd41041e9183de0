"""One question with its right answer, however it came about."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

__all__ = ["ProbeItem", "Question"]


class Question(Protocol):
    """What figures need to know of a question, wherever it comes from."""

    @property
    def skill(self) -> str:
        """What it asks for; counted by itself."""

    @property
    def chance(self) -> float:
        """Share of such questions that is right by guessing."""

    @property
    def question(self) -> str:
        """What is asked, for a person."""

    @property
    def right_answer(self) -> str:
        """The right answer, or one of them, for a person."""


@dataclass(frozen=True, slots=True)
class ProbeItem:
    """A question that a model answers rightly or wrongly, without anybody judging a text.

    With choices, the model is right where it gives the right one the highest log-probability. Without,
    it is right where its likeliest tokens, one after the other, are those of an accepted answer.

    Args:
        skill: what it asks for, as ``capitals``.
        prompts: the question; or one beginning for each choice, where the answers are all the same text and the
            beginnings differ (as in WinoGrande).
        answers: the choices, or all accepted answers.
        right: index of the right choice; None where there are no choices.
        as_chat: whether it is a message to an assistant; else plain text to be continued.
        per_byte: whether log-probabilities are divided by the UTF-8 bytes of the choice, where choices are of very
            different lengths.
    """

    skill: str
    prompts: tuple[str, ...]
    answers: tuple[str, ...]
    right: int | None
    as_chat: bool = True
    per_byte: bool = False

    @property
    def chance(self) -> float:
        """Share of such questions that is right by guessing."""
        return 0.0 if self.right is None else 1.0 / len(self.answers)

    @property
    def question(self) -> str:
        """The question; of several beginnings the first."""
        return self.prompts[0]

    @property
    def right_answer(self) -> str:
        """The right choice, or the right beginning, or the first accepted answer."""
        return self.answers[0] if self.right is None else self.options()[self.right][len(self.prompts) == 1]

    def options(self) -> list[tuple[str, str]]:
        """(prompt, answer) of each choice or accepted answer."""
        prompts = self.prompts * len(self.answers) if len(self.prompts) == 1 else self.prompts
        return list(zip(prompts, self.answers, strict=True))
