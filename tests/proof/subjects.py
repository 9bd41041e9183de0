"""What the proof is measured on in these tests: tiny models of five architectures, and a few conversations."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from transformers import PreTrainedModel

from hone.data.render import Renderer
from hone.proof.invariant import Invariant
from hone.types import Example, Message, TokenSequence
from tests.tiny import tiny_model, tiny_tokenizer

FAMILIES = ("llama", "qwen2", "gemma3", "mistral", "phi3")


@dataclass(frozen=True)
class Subject:
    """A model with its rows, as the proof gets them; nothing is attached yet."""

    model: PreTrainedModel
    renderer: Renderer
    examples: list[Example]
    sequences: list[TokenSequence]


def conversations(count: int = 8) -> list[Example]:
    """Rows of different lengths; every third has two supervised turns. No two prompts are alike."""
    things = ("lamp", "order", "garden", "bell", "letter", "river", "ladder", "window", "engine", "coat")
    rows = []
    for row in range(1, count + 1):
        thing = things[row % len(things)]
        turns = [Message("user", f"where is the {thing} of house {row * 37}" + " now" * (row % 5) + "?")]
        turns.append(Message("assistant", f"the {thing} is on the way", supervised=True))
        if row % 3 == 0:
            turns.append(Message("user", f"and {row * 11} days later?"))
            turns.append(Message("assistant", "it is lit", supervised=True))
        rows.append(Example(tuple(turns), row=row, line=row, source="rows.jsonl"))
    return rows


def subject(family: str = "llama", count: int = 8, **overrides: Any) -> Subject:
    """A fresh one; the same arguments give the same. ``overrides`` are fields of the model's config."""
    renderer = Renderer(tiny_tokenizer())
    examples = conversations(count)
    sequences = [sequence for example in examples for sequence in renderer.render(example).sequences]
    return Subject(tiny_model(family, **overrides), renderer, examples, sequences)


def by_number(invariants: Iterable[Invariant]) -> dict[int, Invariant]:
    """The invariants by their place in the proof; none stands there twice."""
    found: dict[int, Invariant] = {}
    for invariant in invariants:
        assert invariant.number not in found
        found[invariant.number] = invariant
    return found


def failing(found: dict[int, Invariant]) -> list[int]:
    """Numbers of those that do not hold."""
    return [number for number, invariant in found.items() if not invariant.holds]


def with_token(sequence: TokenSequence, at: int, token: int) -> TokenSequence:
    """``sequence`` with another token at one place."""
    return replace(sequence, ids=(*sequence.ids[:at], token, *sequence.ids[at + 1 :]))
