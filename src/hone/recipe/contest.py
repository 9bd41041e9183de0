"""The arms of an evaluation: which are possible, and what each is asked. Who answers is ``arm_answers.py``'s business.

Every arm is asked the same rows. Only what stands around the question differs: nothing, an instruction, training rows
that are like it, or passages from documents.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from hone.errors import ConfigError, TemplateError
from hone.evaluation.shape import TaskShape
from hone.recipe.inference import Answerer
from hone.recipe.instruction import derive_instruction, with_instruction
from hone.recipe.shots import Shots, TrainingRows, choose_count, with_shots
from hone.retrieval import Passage, PassageIndex, find_embedder, index_documents, search_text, with_passages
from hone.types import ArmName, Example, JsonDict, Message

__all__ = [
    "ARMS",
    "PASSAGES",
    "Contender",
    "Question",
    "as_example",
    "open_documents",
    "possible_arms",
    "prepare",
    "retrieved",
    "unanswerable",
]

PASSAGES = 3
"""Passages of a prompt: three of at most 120 words leave room in a context of 2,048 tokens, and for a small model."""

ARMS: tuple[ArmName, ...] = ("base", "prompted", "few_shot", "retrieval", "tuned", "tuned_retrieval")
BitsPerByte = Callable[[Sequence[tuple[Example, tuple[Message, ...]]]], float | None]


@dataclass(frozen=True, slots=True)
class Question:
    """What an arm is asked for one row: the row, the turns before the answer, and their tokens."""

    example: Example
    messages: tuple[Message, ...]
    prompt: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Contender:
    """One arm, ready to be asked.

    Args:
        arm: its name.
        questions: one for each held-out row.
        how: what it was made of.
    """

    arm: ArmName
    questions: tuple[Question, ...]
    how: JsonDict = field(default_factory=dict)

    @property
    def is_tuned(self) -> bool:
        """Whether the adapter answers."""
        return self.arm.startswith("tuned")


def open_documents(folder: Path | None, *, home: Path) -> PassageIndex | None:
    """The index of a folder of documents, made once and kept; None without a folder.

    Raises:
        HoneError: as for :func:`hone.retrieval.index_documents`.
    """
    if folder is None:
        return None
    return index_documents(folder, kept=home / "cache" / "indexes", embed=find_embedder())


def possible_arms(
    wanted: Sequence[ArmName] | None,
    answerer: Answerer,
    *,
    rows: TrainingRows,
    instruction: str | None,
    documents: PassageIndex | None,
) -> tuple[list[ArmName], list[JsonDict]]:
    """The arms to run, and what cannot be run with its reason.

    Args:
        wanted: as the user named them; None for all that are possible.
        answerer: who answers.
        rows: the training rows, for few-shot and for deriving an instruction.
        instruction: the user's own; None derives one.
        documents: None without documents.

    Raises:
        ConfigError: a wanted arm is not possible.
    """
    untuned = f"{answerer.name} is a base, so there is nothing tuned"
    no_documents = "no documents were given (--documents)"
    reasons: dict[ArmName, str] = {
        "base": "",
        "prompted": "" if instruction or rows.train else f"there is no instruction (--instruction): {rows.reason}",
        "few_shot": "" if len(rows.train) > 1 else rows.reason or "there is one training row only",
        "retrieval": "" if documents else no_documents,
        "tuned": "" if answerer.is_tuned else untuned,
        "tuned_retrieval": no_documents if documents is None else "" if answerer.is_tuned else untuned,
    }
    possible = [arm for arm in ARMS if not reasons[arm]]
    impossible = [arm for arm in wanted or () if reasons[arm]]
    if impossible:
        raise ConfigError(
            f"{', '.join(impossible)} cannot answer here",
            where="--arms",
            why="; ".join(dict.fromkeys(reasons[arm] for arm in impossible)),
            remedy=f"use --arms {','.join(possible)}",
        )
    missing = [{"what": arm, "reason": reasons[arm]} for arm in ARMS if reasons[arm] and answerer.is_tuned]
    if wanted is None:
        return possible, missing
    return [arm for arm in ARMS if arm in wanted], missing


def prepare(
    arm: ArmName,
    answerer: Answerer,
    examples: Sequence[Example],
    *,
    limit_tokens: int,
    shape: TaskShape,
    rows: TrainingRows,
    instruction: str | None,
    documents: PassageIndex | None,
    bits_per_byte: BitsPerByte,
) -> Contender:
    """Ask one arm's questions of every row.

    Args:
        arm: one of those that :func:`possible_arms` gave.
        answerer: who answers.
        examples: the held-out rows.
        limit_tokens: longest answer, for which the context keeps room.
        shape: of the answers.
        rows: the training rows.
        instruction: the user's own; None derives one.
        documents: the index.
        bits_per_byte: of the base, for choosing the number of shots.

    Raises:
        TemplateError: the chat template cannot render the arm's conversations.
    """
    room = answerer.base.context_length - limit_tokens
    asker = _Asker(answerer, "tuned" if arm.startswith("tuned") else "base", room)
    if arm == "prompted":
        text = instruction or derive_instruction(rows.all, shape)
        questions = [asker.ask(example, with_instruction(example.prompt, text)) for example in examples]
        return Contender(arm, tuple(questions), {"instruction": text, "derived": instruction is None})
    if arm == "few_shot":
        return _few_shot(asker, examples, rows, bits_per_byte)
    if arm in ("retrieval", "tuned_retrieval"):
        assert documents is not None, "possible_arms has seen to it"
        return _with_documents(arm, asker, examples, documents)
    return Contender(arm, tuple(asker.ask(example, example.prompt) for example in examples))


def retrieved(documents: PassageIndex, examples: Sequence[Example]) -> list[list[Passage]]:
    """The passages that fit each row, best first."""
    return [documents.search(search_text(example.prompt), PASSAGES) for example in examples]


@dataclass(slots=True)
class _Asker:
    """Renders questions for one side of the model, and counts those that had to be made shorter."""

    answerer: Answerer
    side: ArmName
    room: int
    shortened: int = 0

    def ask(self, example: Example, messages: Sequence[Message]) -> Question:
        prompt = self.answerer.prompt(messages, list(map(dict, example.tools)), arm=self.side)
        return Question(example, tuple(messages), prompt)

    def ask_within_room(self, example: Example, count: int, build: Callable[[int], Sequence[Message]]) -> Question:
        """The question with as many of ``count`` parts as leave room for the answer."""
        question = self.ask(example, build(count))
        left = count
        while left and len(question.prompt) > self.room:
            left -= 1
            question = self.ask(example, build(left))
        self.shortened += left < count
        return question


def _few_shot(asker: _Asker, examples: Sequence[Example], rows: TrainingRows, bits_per_byte: BitsPerByte) -> Contender:
    count, tried = choose_count(rows, bits_per_byte)
    shots = Shots(rows.all)
    questions = []
    for example in examples:
        alike = shots.like(example, count)

        def build(left: int, example: Example = example, alike: list[Example] = alike) -> tuple[Message, ...]:
            return with_shots(example.prompt, alike[len(alike) - left :])

        questions.append(asker.ask_within_room(example, len(alike), build))
    how = {
        "examples": count,
        "chosen_by": "bits per byte of validation rows",
        "tried": [{"examples": number, "bits_per_byte": found} for number, found in tried.items()],
        "rows_with_fewer": asker.shortened,
    }
    return Contender("few_shot", tuple(questions), how)


def _with_documents(arm: ArmName, asker: _Asker, examples: Sequence[Example], documents: PassageIndex) -> Contender:
    questions = []
    for example, passages in zip(examples, retrieved(documents, examples), strict=True):

        def build(left: int, example: Example = example, passages: Sequence[Passage] = passages) -> tuple[Message, ...]:
            return with_passages(example.prompt, passages[:left])

        questions.append(asker.ask_within_room(example, len(passages), build))
    how = {
        "search": documents.method,
        "passages": PASSAGES,
        "indexed_passages": len(documents.passages),
        "left_out": [{"file": name, "reason": reason} for name, reason in documents.left_out],
        "rows_with_fewer": asker.shortened,
    }
    return Contender(arm, tuple(questions), how)


def as_example(question: Question) -> Example:
    """The row as this arm sees it: its turns, and the reference answer to be judged."""
    return replace(question.example, messages=(*question.messages, question.example.messages[-1]))


def unanswerable(error: TemplateError, arm: ArmName) -> dict[str, str]:
    """What is said of an arm whose conversations the template refuses."""
    return {"what": arm, "reason": f"the chat template cannot render its prompts: {error.what}"}
