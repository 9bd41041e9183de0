"""From a file to rendered rows: read, render, set held-out and validation rows aside. Every row stays accounted for."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from hone.data.answers import joined
from hone.data.ledger import Ledger
from hone.data.loader import LoadedData
from hone.data.manifest import build_manifest
from hone.data.render import Rendered
from hone.data.split import Split, near_copies, split_examples
from hone.errors import DataError, TemplateError
from hone.evaluation.shape import TaskShape, detect_shape
from hone.planning.choose import choose_held_out_rows, choose_validation_rows
from hone.types import Example, JsonDict, Preference, TokenSequence

__all__ = ["PreparedRows", "RowRenderer", "last_user_text", "prepare_rows", "render_rows", "shape_of_answers"]

Note = Callable[[str], None]

_FEW_ROWS = 10
_PURPOSES = {"--held-out": "held-out", "--validation": "validation"}


class RowRenderer(Protocol):
    """Makes token sequences of rows: the base's renderer, or a plan's estimate of it."""

    def render(self, example: Example) -> Rendered:
        """See :meth:`hone.data.render.Renderer.render`."""


@dataclass(frozen=True, slots=True)
class PreparedRows:
    """The rows of a run, each in one place.

    Args:
        train: rows trained on.
        validation: rows that choose the best checkpoint; may be empty.
        held_out: rows of the comparison; may be empty for training alone.
        sequences: rendered rows by their row number, for ``train`` and ``validation``.
        ledger: what became of every row of the training file.
        held_out_ledger: the same for the file of held-out rows, where one was given.
        manifest: names, hashes and the place of every row.
        asked_otherwise: training rows by their number with what was put into their prompts, as passages of documents.
    """

    train: list[Example]
    validation: list[Example]
    held_out: list[Example]
    sequences: Mapping[int, tuple[TokenSequence, ...]]
    ledger: Ledger
    held_out_ledger: Ledger | None
    manifest: JsonDict
    asked_otherwise: Mapping[int, Example] = field(default_factory=dict)

    @property
    def shape(self) -> TaskShape:
        """The kind of answers that are trained on."""
        return shape_of_answers(self.train)

    def as_asked(self, examples: Sequence[Example]) -> list[Example]:
        """``examples`` as they are trained on, where something stands before their question."""
        return [self.asked_otherwise.get(example.row, example) for example in examples]

    def rendered(self, examples: Sequence[Example]) -> list[TokenSequence]:
        """The sequences of ``examples``, in their order."""
        return [sequence for example in examples for sequence in self.sequences[example.row]]

    def answered(self, examples: Sequence[Example]) -> list[TokenSequence]:
        """The sequences of those ``examples`` that have an answer of their own."""
        return self.rendered([example for example in examples if example.answer])

    def computed(self, examples: Sequence[Example]) -> list[TokenSequence]:
        """The tokens that a step computes for ``examples``: answers to one prompt as one sequence, the prompt once."""
        found: list[TokenSequence] = []
        for example in examples:
            sequences = self.sequences[example.row]
            found += [joined(sequences)] if isinstance(example, Preference) else sequences
        return found


def shape_of_answers(examples: Sequence[Example]) -> TaskShape:
    """The kind of answers that ``examples`` have."""
    return detect_shape([one.answer for one in examples], [last_user_text(one) for one in examples])


def last_user_text(example: Example) -> str:
    """What was asked last; empty where no user speaks."""
    return next((message.content for message in reversed(example.messages) if message.role == "user"), "")


def render_rows(
    examples: Sequence[Example], renderer: RowRenderer, ledger: Ledger
) -> tuple[list[Example], dict[int, tuple[TokenSequence, ...]]]:
    """Render ``examples``; what the template refuses is dropped in the ledger with the reason.

    Returns:
        The examples that could be rendered, and their sequences by row number.
    """
    usable, sequences = [], {}
    for example in examples:
        try:
            rendered = renderer.render(example)
        except TemplateError as error:
            ledger.drop(example.row, example.line, "template", error.what)
            continue
        if rendered.cut_tokens:
            ledger.cut(example.row, example.line, "longer than the maximum length", rendered.cut_tokens)
        usable.append(example)
        sequences[example.row] = rendered.sequences
    return usable, sequences


def prepare_rows(
    loaded: LoadedData,
    renderer: RowRenderer,
    *,
    held_out_data: LoadedData | None,
    held_out: float | int | None,
    validation: float | int | None,
    seed: int,
    note: Note,
) -> PreparedRows:
    """Render all rows, then set held-out and validation rows aside by content.

    Args:
        loaded: the training file.
        renderer: of the base.
        held_out_data: a file of held-out rows; rows of the training file that are copies of its rows are dropped.
        held_out: share or number of rows to set aside instead; 0 for none, None to choose.
        validation: share or number of rows that choose the best checkpoint; 0 for none, None to choose.
        seed: of both splits.
        note: receives sentences for the user.

    Raises:
        DataError: no row is left to train on or to compare with.
    """
    examples, sequences = render_rows(loaded.examples, renderer, loaded.ledger)
    _require(examples, loaded, "to train on")
    if held_out_data is not None:
        aside, _ = render_rows(held_out_data.examples, renderer, held_out_data.ledger)
        _require(aside, held_out_data, "to compare with")
        examples = _without_copies(examples, aside, loaded, note)
    else:
        wanted = choose_held_out_rows(len(examples)).value if held_out is None else held_out
        split = _set_aside(examples, wanted, loaded, seed=seed, option="--held-out") if wanted else None
        examples, aside = (split.train, split.held_out) if split else (examples, [])
    checked = choose_validation_rows(len(examples)).value if validation is None else validation
    inner = _set_aside(examples, checked, loaded, seed=seed + 1, option="--validation") if checked else None
    train, validating = (inner.train, inner.held_out) if inner else (examples, [])
    if len(train) < _FEW_ROWS:
        note(
            f"only {len(train)} row{'' if len(train) == 1 else 's'} to train on: so few can be learnt by heart and say "
            f"little about other prompts; better or worse cannot be judged from them. Give {_FEW_ROWS} at the least, "
            "better 100"
        )
    manifest = build_manifest(
        loaded,
        train=train,
        validation=validating,
        held_out=aside,
        held_out_data=held_out_data,
        seed=seed,
    )
    return PreparedRows(
        train, validating, aside, sequences, loaded.ledger, held_out_data.ledger if held_out_data else None, manifest
    )


def _set_aside(
    examples: Sequence[Example], wanted: float | int, loaded: LoadedData, *, seed: int, option: str
) -> Split:
    """Split, and name the file and the option where that cannot be."""
    try:
        return split_examples(examples, held_out=wanted, seed=seed, purpose=_PURPOSES[option])
    except DataError as error:
        other = "--eval FILE" if option == "--held-out" else "--validation 0"
        remedy = f"{error.remedy}; or use {other}" if error.remedy else f"use {other}"
        where = f"{loaded.source} ({option})"
        raise DataError(error.what, where=where, why=error.why, remedy=remedy, details=error.details) from error


def _require(examples: Sequence[Example], loaded: LoadedData, purpose: str) -> None:
    if not examples:
        raise DataError(
            f"no row is left {purpose}: {loaded.ledger.dropped} of {loaded.ledger.rows} rows were dropped",
            where=loaded.source,
            details=[f"{loaded.source}:{entry.line}: {entry.reason}" for entry in loaded.ledger.dropped_entries()],
            remedy="mend the rows; `hone data show` shows how each is read",
        )


def _without_copies(examples: list[Example], aside: Sequence[Example], loaded: LoadedData, note: Note) -> list[Example]:
    kept = list(examples)
    # each round finds the nearest training row of each held-out row; a held-out row may have several
    while copies := near_copies(kept, aside):
        for index, held_out, likeness in copies:
            example = kept[index]
            twin = f"{aside[held_out].source}:{aside[held_out].line}"
            reason = f"its prompt is {likeness:.0%} alike to the held-out row {twin}"
            loaded.ledger.drop(example.row, example.line, "held_out_copy", reason)
        gone = {index for index, _, _ in copies}
        kept = [example for index, example in enumerate(kept) if index not in gone]
    if len(kept) < len(examples):
        note(
            f"{len(examples) - len(kept)} training rows repeat the prompt of a held-out row and are left out, so that "
            "the comparison is fair; the ledger names them"
        )
    _require(kept, loaded, "to train on that is not also held out")
    return kept
