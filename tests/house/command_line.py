"""The commands of hone as they are, and as the pages show them."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.house.source_tree import REPOSITORY

_FENCE = re.compile(r"^(?P<indent> *)```[^\n]*\n(?P<body>.*?)^(?P=indent)```", re.MULTILINE | re.DOTALL)
_INLINE = re.compile(r"`((?:\.venv/bin/)?hone [^`\n]+)`")
_HONE = re.compile(r"^(?:\$ |> )?(?:[A-Z_]+=\S+ )*(?:(?:\.venv/bin/)?hone|(?:\S*/)?python3? -m hone)(?= |$)")
_SHELL_WORDS = {"|", "||", "&&", ";", ">", ">>", "2>", "<", "&"}


@dataclass(frozen=True)
class Command:
    """A command without subcommands: its full name (``hone models show``) and its visible long options."""

    name: str
    options: tuple[str, ...]


@dataclass(frozen=True)
class Shown:
    """A command line on a page: where it stands and its words after ``hone``."""

    place: str
    words: tuple[str, ...]


def root_command() -> Any:
    """The command group behind ``hone``, as typer builds it."""
    import typer.main

    from hone.cli.app import app

    return typer.main.get_command(app)


def commands(group: Any, name: str = "hone") -> Iterator[Command]:
    """Every command below a group that does something by itself."""
    below = getattr(group, "commands", {})
    if not below or getattr(group, "invoke_without_command", False):
        yield Command(name, tuple(sorted(long_options(group))))
    for word, inner in below.items():
        if not getattr(inner, "hidden", False):
            yield from commands(inner, f"{name} {word}")


def long_options(command: Any) -> set[str]:
    """The visible options of one command, as ``--name`` and, for switches, ``--no-name``."""
    visible = [option for option in command.params if not getattr(option, "hidden", False)]
    written = {text for option in visible for text in (*option.opts, *option.secondary_opts)}
    return {text for text in written if text.startswith("--")} - {"--help"}


def pages() -> list[Path]:
    """README.md and everything under docs/."""
    return [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").rglob("*.md"))]


def shown_commands(text: str, name: str) -> Iterator[Shown]:
    """Every ``hone ...`` of a page: lines of fenced blocks, and inline code."""
    for fence in _FENCE.finditer(text):
        start = text.count("\n", 0, fence.start("body")) + 1
        # A backslash joins the next line, and keeps the count of lines.
        body = re.sub(r"\\\n\s*", " \x00", fence["body"])
        line_number = start
        for line in body.split("\n"):
            if _HONE.match(line.strip()):
                yield Shown(f"{name}:{line_number}", words_of(line.strip().replace("\x00", "")))
            line_number += 1 + line.count("\x00")
    for inline in _INLINE.finditer(_FENCE.sub(lambda fence: "\n" * fence[0].count("\n"), text)):
        yield Shown(f"{name}: `{inline[1]}`", words_of(inline[1]))


def words_of(line: str) -> tuple[str, ...]:
    """The words after ``hone``, up to a comment or a shell operator."""
    rest = _HONE.sub("", line, count=1)
    try:
        words = shlex.split(rest, comments=True)
    except ValueError:  # a quote that the page leaves open, as in prose
        words = rest.split()
    end = next((index for index, word in enumerate(words) if word in _SHELL_WORDS), len(words))
    return tuple(words[:end])


def problem_with(shown: Shown, root: Any) -> str | None:
    """What is wrong with a command line that a page shows: an unknown command or option; None where all is there."""
    group, known, name = root, {"--help"} | _written(root), "hone"
    for word in shown.words:
        plain = word.strip("[].,")
        below = getattr(group, "commands", {})
        if plain.startswith("-") and not re.fullmatch(r"-+\d*", plain):
            if plain.split("=")[0] not in known:
                return f"{shown.place}: {name} has no option {plain.split('=')[0]}"
        elif plain in below:
            group, name = below[plain], f"{name} {plain}"
            known |= _written(group)
        elif below and not word.startswith(("[", "<")) and "|" not in word and plain not in {"...", "…", "COMMAND"}:
            return f"{shown.place}: {name} has no command {plain}"
    return None


def _written(command: Any) -> set[str]:
    return {text for option in command.params for text in (*option.opts, *option.secondary_opts)}
