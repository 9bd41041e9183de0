"""The page of ``hone data show --html``: rendered rows with what the model is trained to write marked."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from hone.cli.output import harmless

__all__ = ["PageRow", "data_page"]

_STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}"
    "body{color:#111;background:#fff}"
    "pre{white-space:pre-wrap;overflow-wrap:anywhere;border:1px solid #ccc;border-radius:.4rem;padding:.8rem}"
    "mark{background:#cdebc8;color:inherit}p.cut{color:#8a1c00}h2{font-size:1.05rem;margin-top:2rem}"
    "@media(prefers-color-scheme:dark){body{background:#161616;color:#e8e8e8}pre{border-color:#444}"
    "mark{background:#1f5c2a}p.cut{color:#ff9d85}}"
)


@dataclass(frozen=True, slots=True)
class PageRow:
    """One row of the page.

    Args:
        title: which row it is, and its counts.
        segments: text in pieces, each with whether it is supervised.
        cut: what is left out at its end, as a sentence; empty where nothing is.
        ids: token ids with marks; empty where they are not wanted.
    """

    title: str
    segments: Sequence[tuple[str, bool]]
    cut: str = ""
    ids: Sequence[str] = ()


def data_page(title: str, rows: Iterable[PageRow], summary: Sequence[str]) -> str:
    """The whole page, which needs nothing from anywhere else.

    Args:
        title: the file.
        rows: in order.
        summary: sentences that follow them.
    """
    body = "\n".join(_section(row) for row in rows)
    lines = "".join(f"<li>{_plain(line)}</li>" for line in summary)
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{_plain(title)}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{_STYLE}</style></head>\n'
        f"<body><h1>{_plain(title)}</h1>\n<p><mark>Marked</mark>: what the model is trained to write.</p>\n"
        f"{body}\n<h2>Summary</h2><ul>{lines}</ul></body></html>\n"
    )


def _section(row: PageRow) -> str:
    text = "".join(
        f"<mark>{_plain(piece)}</mark>" if supervised else _plain(piece) for piece, supervised in row.segments
    )
    cut = f'<p class="cut">{_plain(row.cut)}</p>' if row.cut else ""
    ids = "".join(f"<pre>{_plain(line)}</pre>" for line in row.ids)
    return f"<section><h2>{_plain(row.title)}</h2><pre>{text}</pre>{cut}{ids}</section>"


def _plain(text: str) -> str:
    return html.escape(harmless(text))
