"""What goes where: results on standard output, everything else on standard error, and nothing that harms a terminal."""

from __future__ import annotations

import io
import json
import os
import re
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from typing import Any, Literal, TextIO

from rich.console import Console
from rich.text import Text

__all__ = [
    "LABEL_COLUMNS",
    "console",
    "harmless",
    "labelled",
    "paragraph",
    "prepare_streams",
    "print_json",
    "result_stream",
    "say",
    "show",
    "text_columns",
]

LABEL_COLUMNS = 12
_WIDEST = 100
_NARROWEST = 40
_COLUMNS_IN_A_PIPE = 80
# Control characters, escapes, and marks that turn the reading direction around: text from a file or a model may hold
# them, and a terminal would obey.
_HARMFUL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def prepare_streams() -> None:
    """Let no character stop a print: one that the terminal's encoding lacks is shown as an escape."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


class _PlainConsole(Console):
    """A console that leaves it to the command line to end when a pipe's reader has left."""

    def on_broken_pipe(self) -> None:
        """Pass the error on, where rich would end the process with code 1."""
        raise  # called while the BrokenPipeError is handled


def console(stream: TextIO) -> Console:
    """A console on ``stream``: styles on a terminal alone, none with NO_COLOR; lines are broken by us, not by it."""
    styles: Literal["auto"] | None = None if os.environ.get("NO_COLOR") else "auto"
    return _PlainConsole(file=stream, color_system=styles, highlight=False, markup=False, emoji=False, soft_wrap=True)


def text_columns(target: Console) -> int:
    """Columns that text may fill: the terminal's, within reason; 80 in a pipe."""
    columns = target.width if target.is_terminal or os.environ.get("COLUMNS") else _COLUMNS_IN_A_PIPE
    return max(_NARROWEST, min(_WIDEST, columns))


def show(text: str | Text = "") -> None:
    """Print a part of the result on standard output."""
    console(sys.stdout).print(text)


def say(text: str | Text = "") -> None:
    """Print something that is no result on standard error."""
    console(sys.stderr).print(text)


def labelled(label: str, text: str, *, columns: int, hang: int = 0, style: str = "bold") -> Text:
    """``text`` as a paragraph with ``label`` in a margin of its own.

    Args:
        label: one or two words; empty for a paragraph that goes on.
        text: one sentence or more.
        columns: of a whole line.
        hang: further spaces before each line but the first.
        style: of the label, on a terminal.
    """
    margin = f"{label:<{LABEL_COLUMNS - 1}} "
    whole = paragraph(text, columns=columns, first=margin, hang=hang)
    return Text.assemble((whole[: len(label)], style), whole[len(label) :])


def harmless(text: str) -> str:
    """``text`` with everything replaced that a terminal would obey instead of showing."""
    return _HARMFUL.sub("\ufffd", text)


def paragraph(text: str, *, columns: int, first: str = "", hang: int = 0, most_lines: int | None = None) -> str:
    """``text`` as lines of at most ``columns`` where its words allow it; a path is never broken.

    Args:
        text: line breaks in it count as spaces.
        columns: of a line.
        first: what the first line begins with; further lines begin with as many spaces.
        hang: spaces that these have besides.
        most_lines: lines after which the text is cut, with a mark.
    """
    lines = textwrap.wrap(
        harmless(" ".join(text.split())),
        width=columns,
        initial_indent=first,
        subsequent_indent=" " * (len(first) + hang),
        break_long_words=False,
        break_on_hyphens=False,
        max_lines=most_lines,
        placeholder=" …",
    )
    return "\n".join(lines) or first.rstrip()


@contextmanager
def result_stream(as_json: bool) -> Iterator[None]:
    """With ``as_json``, whatever a library prints inside the block goes to standard error."""
    if not as_json:
        yield
        return
    with redirect_stdout(sys.stderr):
        yield


def print_json(value: Any) -> None:
    """Print one JSON object on standard output, as UTF-8 whatever the terminal's encoding."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        # half of a surrogate pair, which no encoding has, becomes an escape that JSON allows
        sys.stdout.reconfigure(encoding="utf-8", errors="backslashreplace")
    sys.stdout.write(json.dumps(value, ensure_ascii=False, indent=2, allow_nan=False) + "\n")
    sys.stdout.flush()
