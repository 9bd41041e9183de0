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
from typing import Any, TextIO

from rich.console import Console
from rich.text import Text

__all__ = ["console", "harmless", "paragraph", "print_json", "prepare_streams", "result_stream", "say", "show"]

_WIDEST = 100
_WIDTH_IN_A_PIPE = 80
# Control characters, escapes, and marks that turn the reading direction around: text from a file or a model may hold
# them, and a terminal would obey.
_HARMFUL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def prepare_streams() -> None:
    """Let no character stop a print: one that the terminal's encoding lacks is shown as an escape."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def console(stream: TextIO) -> Console:
    """A console on ``stream``: colours on a terminal alone, none with NO_COLOR, at most 100 columns of text."""
    colours = None if os.environ.get("NO_COLOR") else "auto"
    made = Console(file=stream, color_system=colours, highlight=False, markup=False, emoji=False, soft_wrap=True)
    width = min(made.width, _WIDEST) if made.is_terminal or os.environ.get("COLUMNS") else _WIDTH_IN_A_PIPE
    made.width = max(40, width)
    return made


def show(text: str | Text = "") -> None:
    """Print a part of the result on standard output."""
    console(sys.stdout).print(text)


def say(text: str | Text = "") -> None:
    """Print something that is no result on standard error."""
    console(sys.stderr).print(text)


def harmless(text: str) -> str:
    """``text`` with everything replaced that a terminal would obey instead of showing."""
    return _HARMFUL.sub("\ufffd", text)


def paragraph(text: str, *, width: int, first: str = "", rest: str | None = None, most_lines: int | None = None) -> str:
    """``text`` as lines of at most ``width`` columns, where its words allow it; paths are never broken.

    Args:
        text: one sentence or more; line breaks count as spaces.
        width: columns of a line.
        first: what the first line begins with.
        rest: what the others begin with; spaces as long as ``first`` unless given.
        most_lines: lines after which the text is cut, with a mark.
    """
    return textwrap.fill(
        harmless(" ".join(text.split())),
        width=width,
        initial_indent=first,
        subsequent_indent=" " * len(first) if rest is None else rest,
        break_long_words=False,
        break_on_hyphens=False,
        max_lines=most_lines,
        placeholder=" …",
    )


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
