"""The row ledger: what became of every input row, and why. Counts add up; nothing vanishes.

A row is *kept* whole, *cut* (part of it is left out) or *dropped*, under a code of the catalogue in ``faults.py``.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from dataclasses import asdict, dataclass
from typing import Literal

from hone.data.faults import FAULTS
from hone.files import write_atomically
from hone.types import JsonDict

__all__ = ["DROP_CODES", "Ledger", "LedgerEntry", "RowError", "RowStatus"]

RowStatus = Literal["kept", "cut", "dropped"]

DROP_CODES = {code: FAULTS[code].means for code in sorted(FAULTS) if FAULTS[code].severity == "error"}


class RowError(Exception):
    """A row that cannot be used; never leaves the data layer, where it becomes a ledger entry.

    Args:
        code: one of :data:`DROP_CODES`.
        reason: what is wrong and where in the row, for a person.
    """

    def __init__(self, code: str, reason: str) -> None:
        assert code in DROP_CODES, code
        super().__init__(reason)
        self.code = code
        self.reason = reason


@dataclass(frozen=True, slots=True)
class LedgerEntry:
    """What became of one input row.

    Args:
        row: ordinal of the row, from 1.
        line: line of the file on which it begins, from 1.
        status: kept, cut or dropped.
        code: why it was dropped, as a word for programs; None unless dropped.
        reason: why it was cut or dropped, for a person; None where kept.
        cut_tokens: tokens left out, where cut.
    """

    row: int
    line: int
    status: RowStatus
    code: str | None = None
    reason: str | None = None
    cut_tokens: int = 0


class Ledger:
    """The entries of one source. A later call for a row overrides an earlier one, except that a drop is final.

    Args:
        source: the file's name as the user gave it.
    """

    def __init__(self, source: str) -> None:
        self.source = source
        self._entries: dict[int, LedgerEntry] = {}

    def keep(self, row: int, line: int) -> None:
        """Note that a row is used whole."""
        self._note(LedgerEntry(row, line, "kept"))

    def cut(self, row: int, line: int, reason: str, cut_tokens: int) -> None:
        """Note that part of a row is left out; the reasons of two cuts of one row are joined.

        Args:
            row: ordinal of the row, from 1.
            line: line on which it begins.
            reason: what is left out, and why.
            cut_tokens: number of tokens left out; 0 where whole turns are, before tokens exist.
        """
        earlier = self._entries.get(row)
        if earlier is not None and earlier.status == "cut" and earlier.reason:
            reason = earlier.reason if reason in earlier.reason else f"{earlier.reason}; {reason}"
        self._note(LedgerEntry(row, line, "cut", reason=reason, cut_tokens=cut_tokens))

    def drop(self, row: int, line: int, code: str, reason: str) -> None:
        """Note that a row is not used; final.

        Args:
            row: ordinal of the row, from 1.
            line: line on which it begins.
            code: the kind of fault, as one word for programs.
            reason: what is wrong, for a person.
        """
        self._note(LedgerEntry(row, line, "dropped", code, reason))

    def _note(self, entry: LedgerEntry) -> None:
        earlier = self._entries.get(entry.row)
        if earlier is None or earlier.status != "dropped":
            self._entries[entry.row] = entry

    @property
    def rows(self) -> int:
        """Input rows: kept + cut + dropped."""
        return len(self._entries)

    @property
    def kept(self) -> int:
        """Rows used whole."""
        return self._count("kept")

    @property
    def cut_rows(self) -> int:
        """Rows of which part is left out (the name ``cut`` is the method's)."""
        return self._count("cut")

    @property
    def dropped(self) -> int:
        """Rows not used."""
        return self._count("dropped")

    def _count(self, status: RowStatus) -> int:
        return sum(entry.status == status for entry in self._entries.values())

    def entries(self) -> list[LedgerEntry]:
        """All entries, by row."""
        return [self._entries[row] for row in sorted(self._entries)]

    def dropped_entries(self) -> list[LedgerEntry]:
        """The entries of rows not used, by row."""
        return [entry for entry in self.entries() if entry.status == "dropped"]

    def dropped_sentence(self, consequence: str) -> str | None:
        """What cannot be used, in a sentence with the first reason; None where all can.

        Args:
            consequence: what becomes of such rows, as ``are not scored``.
        """
        dropped = self.dropped_entries()
        if not dropped:
            return None
        codes = ", ".join(f"{code} {count}" for code, count in self.summary()["codes"].items())
        return (
            f"{len(dropped)} of {self.rows} rows of {self.source} cannot be used and {consequence} ({codes}); "
            f"the first, line {dropped[0].line}: {dropped[0].reason}"
        )

    def summary(self) -> JsonDict:
        """Counts for reports.

        Returns:
            ``source``; ``rows`` = ``kept`` + ``cut`` + ``dropped``; ``cut_tokens`` over all rows; ``codes``: how many
            rows were dropped under each code, the most frequent first.
        """
        codes = Counter(entry.code for entry in self.dropped_entries())
        return {
            "source": self.source,
            "rows": self.rows,
            "kept": self.kept,
            "cut": self.cut_rows,
            "dropped": self.dropped,
            "cut_tokens": sum(entry.cut_tokens for entry in self._entries.values()),
            "codes": dict(codes.most_common()),
        }

    def write(self, path: str | os.PathLike[str]) -> None:
        """Write one JSON object a row, in the order of the rows; the file is whole or absent.

        Args:
            path: the file, commonly ``ledger.jsonl`` of a run folder.

        Raises:
            StorageError: the file cannot be written.
        """
        lines = (json.dumps(asdict(entry), ensure_ascii=False) + "\n" for entry in self.entries())
        write_atomically(path, "".join(lines))
