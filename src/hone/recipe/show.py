"""Rows as the model sees them: the recipe behind ``hone data show``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from hone.data.ledger import Ledger, LedgerEntry
from hone.data.loader import load_examples
from hone.errors import ConfigError
from hone.model.load import load_base
from hone.recipe.inference import make_renderer
from hone.recipe.rows import render_rows
from hone.types import JsonDict, TokenSequence

__all__ = ["ShownData", "ShownRow", "show_rows"]


@dataclass(frozen=True, slots=True)
class ShownRow:
    """One rendered row.

    Args:
        row: ordinal of the row in its file, from 1.
        line: line on which it begins.
        segments: the rendered text in pieces, each with whether it is supervised.
        sequences: its token ids and mask; several where the template rewrites earlier turns.
        cut: what is left out behind its end and why, as a sentence; empty where nothing is.
    """

    row: int
    line: int
    segments: list[tuple[str, bool]]
    sequences: tuple[TokenSequence, ...]
    cut: str = ""

    @property
    def tokens(self) -> int:
        """Tokens of all its sequences."""
        return sum(len(sequence.ids) for sequence in self.sequences)

    @property
    def supervised_tokens(self) -> int:
        """Those of them that carry loss."""
        return sum(sequence.num_supervised for sequence in self.sequences)


@dataclass(frozen=True, slots=True)
class ShownData:
    """A file as training would see it.

    Args:
        rows: the rows asked for.
        ledger: what becomes of every row of the file.
        format: the format that was found.
        model: the base whose template rendered them.
        tokens: over all usable rows.
        supervised_tokens: those of them that carry loss.
        longest: tokens of the longest sequence.
        template: how the chat template is used.
        unused_keys: keys of the rows that nothing was read from.
    """

    rows: list[ShownRow]
    ledger: Ledger
    format: str
    model: str
    tokens: int
    supervised_tokens: int
    longest: int
    template: JsonDict
    unused_keys: tuple[str, ...]


def show_rows(
    source: str,
    *,
    model: str,
    home: Path,
    mapping: Mapping[str, str] | None,
    max_length: int | None,
    count: int,
    row: int | None,
    note: Callable[[str], None],
) -> ShownData:
    """Render a file for ``model`` without training.

    Args:
        source: the file or hub data set.
        model: the base.
        home: hone's home folder.
        mapping: columns, where the format is not to be found by itself.
        max_length: longest row in tokens; the base's context unless given.
        count: how many of the first usable rows to show.
        row: one row to show instead, by its ordinal in the file.
        note: receives sentences for the user.

    Raises:
        HoneError: the file or the model cannot be used; or ``row`` is not there, or was dropped.
    """
    loaded = load_examples(source, mapping=mapping)
    base = load_base(model, home=home, device="cpu", note=note, weights=False)
    renderer = make_renderer(base, loaded.examples, max_length=max_length, note=note)
    examples, sequences = render_rows(loaded.examples, renderer, loaded.ledger)
    wanted = examples[:count] if row is None else [one for one in examples if one.row == row]
    if row is not None and not wanted:
        raise _no_such_row(row, loaded.ledger)
    cuts = {entry.row: _cut_sentence(entry) for entry in loaded.ledger.entries() if entry.status == "cut"}
    every = [sequence for parts in sequences.values() for sequence in parts]
    return ShownData(
        rows=[
            ShownRow(one.row, one.line, renderer.segments(one), sequences[one.row], cuts.get(one.row, ""))
            for one in wanted
        ],
        ledger=loaded.ledger,
        format=loaded.format,
        model=base.name,
        tokens=sum(len(sequence.ids) for sequence in every),
        supervised_tokens=sum(sequence.num_supervised for sequence in every),
        longest=max((len(sequence.ids) for sequence in every), default=0),
        template=renderer.describe(),
        unused_keys=loaded.unused_keys,
    )


def _cut_sentence(entry: LedgerEntry) -> str:
    tokens = f"{entry.cut_tokens} tokens are left out behind this: " if entry.cut_tokens else ""
    return f"cut here: {tokens}{entry.reason}"


def _no_such_row(row: int, ledger: Ledger) -> ConfigError:
    entry = next((one for one in ledger.dropped_entries() if one.row == row), None)
    if entry is not None:
        return ConfigError(f"row {row} cannot be used: {entry.reason}", where=f"{ledger.source}:{entry.line}")
    return ConfigError(f"there is no row {row}", where="--row", remedy=f"give a number from 1 to {ledger.rows}")
