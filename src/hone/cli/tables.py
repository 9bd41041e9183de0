"""Tables of plain text: nothing is shortened, nothing rests on colour, and they read the same in a pipe."""

from __future__ import annotations

from collections.abc import Sequence

from rich.cells import cell_len

__all__ = ["byte_size", "duration", "figure", "signed", "text_table"]

_GAP = 3


def text_table(rows: Sequence[Sequence[str]], *, right: Sequence[int] = (), indent: int = 0) -> list[str]:
    """Lines of a table whose columns are as wide as their widest cell.

    Args:
        rows: the cells, the heading first; short rows have empty cells at their end.
        right: columns set to the right, as figures are.
        indent: spaces before each line.
    """
    count = max(len(row) for row in rows)
    filled = [[*row, *[""] * (count - len(row))] for row in rows]
    widths = [max(cell_len(row[column]) for row in filled) for column in range(count)]
    lines = []
    for row in filled:
        cells = []
        for column, cell in enumerate(row):
            space = " " * (widths[column] - cell_len(cell))
            cells.append(space + cell if column in right else cell + space)
        lines.append((" " * indent + (" " * _GAP).join(cells)).rstrip())
    return lines


def figure(value: float | None, metric: str) -> str:
    """A score as people read it: one decimal of a score to 100, three of bits per byte."""
    return "not measured" if value is None else f"{value:.{_decimals(metric)}f}"


def signed(value: float, metric: str) -> str:
    """A difference of scores, with its sign."""
    return f"{value:+.{_decimals(metric)}f}"


def duration(seconds: float) -> str:
    """``45 s``, ``2:05 min`` or ``1:02:05 h``."""
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02} h" if hours else f"{minutes}:{rest:02} min"


def byte_size(count: int | None) -> str:
    """A number of bytes as GB or MB."""
    if count is None:
        return "not known"
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"


def _decimals(metric: str) -> int:
    return 3 if metric in ("bits_per_byte", "reward", "watch_reward") else 1
