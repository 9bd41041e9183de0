"""The packaged tables that the suite is made from, written for hone; facts that every encyclopedia agrees on."""

from __future__ import annotations

from importlib import resources

__all__ = ["lines_of", "table_of"]


def lines_of(name: str) -> list[str]:
    """The lines of a packaged text file, as ``prompts.txt``."""
    text = resources.files("hone.evaluation.probes").joinpath(name).read_text(encoding="utf-8")
    return [line for line in text.splitlines() if line.strip()]


def table_of(name: str) -> list[tuple[str, ...]]:
    """The rows of a packaged table with tabs between its columns, as ``countries.tsv``."""
    return [tuple(line.split("\t")) for line in lines_of(name)]
