"""The console blocks of the pages: what they show, how they are run, and whether the page says what came out.

Every ``console`` block of README.md and docs/ has a comment before it:

    <!-- run -->                   labels of the shown output stand in the printed one, in the same order
    <!-- run: exact -->            the whole output is as shown, but for numbers, line breaks and what "..." leaves out
    <!-- run: varies -->           the output is the model's own, or is not shown; the exit code alone is looked at
    <!-- run: exact, exit 2 -->    with another exit code than 0
    <!-- not run: the reason -->   needs minutes, a network, or a model that tests do not have

What runs is what the page shows, with four things changed, because a page is about real models: a tiny random base
stands in for the embedded one, trainings end after two steps, answers after eight tokens, and retention is asked for
with one question of each skill. A version of two steps may be unproven, and is exported all the
same.
"""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.house.command_line import pages

REPOSITORY = Path(__file__).resolve().parents[2]
TINY = "tiny"
EMBEDDED = "smollm2-135m-instruct"

_BLOCK = re.compile(r"^(?:<!-- (?P<marker>[^\n]*?) -->\n)?```console\n(?P<body>.*?)^```$", re.MULTILINE | re.DOTALL)
_MARKER = re.compile(r"(?P<not>not )?run(?:: (?P<rest>.+))?")
_RESULTS = ("run", "evaluate")


@dataclass(frozen=True)
class Ended:
    """How a command ended: its exit code and what it printed."""

    code: int
    out: str
    err: str


@dataclass(frozen=True)
class Step:
    """One command of a block with the output that the page shows for it."""

    command: str
    shown: tuple[str, ...]


@dataclass(frozen=True)
class Block:
    """A console block: where it stands, how it is run (empty where no mark says it), and its steps."""

    place: str
    mode: str
    exit_code: int
    steps: tuple[Step, ...]


def page_names() -> list[str]:
    """README.md and the pages of docs/, relative to the repository; results.md is written by a benchmark."""
    found = [page.relative_to(REPOSITORY).as_posix() for page in pages() if page.name != "results.md"]
    assert len(found) > 10
    return found


def page_text(name: str) -> str:
    """The text of a page."""
    return (REPOSITORY / name).read_text(encoding="utf-8")


def blocks(text: str, name: str) -> Iterator[Block]:
    """The console blocks of a page, in order."""
    for found in _BLOCK.finditer(text):
        line = text.count("\n", 0, found.start("body")) + 1
        marker = _MARKER.fullmatch(found["marker"] or "")
        parts = (marker["rest"] or "labels").split(", ") if marker else [""]
        mode = "not run" if marker and marker["not"] else parts[0]
        codes = [int(part.removeprefix("exit ")) for part in parts[1:]] if mode != "not run" else []
        yield Block(f"{name}:{line}", mode, codes[0] if codes else 0, tuple(_steps(found["body"])))


def _steps(body: str) -> Iterator[Step]:
    command, shown = "", []
    for line in body.splitlines():
        if line.startswith("$ "):
            if command:
                yield Step(command, tuple(shown))
            command, shown = line[2:], []
        else:
            shown.append(line)
    if command:
        yield Step(command, tuple(shown))


def with_tiny(words: list[str]) -> list[str]:
    """A command line of hone for the tiny base; what the page itself gives stays."""

    def unless_given(*options: str) -> list[str]:
        return [] if options[0] in words else list(options)

    if "--resume" in words:
        return words
    job = words[0]
    added: list[str] = []
    planned = job == "plan" and "--history" not in words
    if job in ("run", "train") or planned or words[:2] in (["data", "show"], ["proof", "--data"]):
        added += unless_given("--model", TINY)
    if job in ("run", "train") or planned:
        added += [*unless_given("--max-steps", "2"), *unless_given("--device", "cpu")]
    if words[:2] == ["models", "export"]:
        added += unless_given("--unproven")
    if words[:2] == ["models", "continue"]:
        added += [*unless_given("--max-steps", "2"), *unless_given("--device", "cpu"), "--max-new-tokens", "8"]
    if job in (*_RESULTS, "generate", "chat"):
        added += unless_given("--max-new-tokens", "8")
    if job in _RESULTS:
        added += unless_given("--probes", "1")
    return [*words, *added]


def run_line(command: str, hone: Callable[[list[str], bytes], Ended], folder: Path) -> Ended:
    """Run one shown line: a pipe whose ``hone`` runs in this process, and perhaps a file that takes the output.

    Args:
        command: as ``echo Hello | hone chat support --base``.
        hone: runs the words after ``hone`` with standard input.
        folder: the working folder.
    """
    silent = "2> /dev/null" in command
    lexer = shlex.shlex(command.replace("2> /dev/null", ""), posix=True, punctuation_chars="|>")
    lexer.whitespace_split = True
    words = list(lexer)
    target = None
    if ">" in words:
        target = folder / words[words.index(">") + 1]
        words = words[: words.index(">")]
    ended = Ended(0, "", "")
    for stage in _stages(words):
        if stage[0] == "hone":
            now = hone(with_tiny(stage[1:]), ended.out.encode())
        else:
            program = sys.executable if stage[0] == "python3" else stage[0]
            done = subprocess.run(
                [program, *stage[1:]], input=ended.out, capture_output=True, text=True, cwd=folder, check=False
            )
            now = Ended(done.returncode, done.stdout, done.stderr)
        ended = Ended(ended.code or now.code, now.out, ended.err + now.err)
    if target is not None:
        target.write_text(ended.out, encoding="utf-8")
        ended = Ended(ended.code, "", ended.err)
    return Ended(ended.code, ended.out, "" if silent else ended.err)


def _stages(words: list[str]) -> Iterator[list[str]]:
    stage: list[str] = []
    for word in [*words, "|"]:
        if word == "|":
            yield stage
            stage = []
        else:
            stage.append(word)


def accepted_codes(step: Step, block: Block) -> set[int]:
    """The exit codes that a step may end with: the verdict on a random model may be "do not ship"."""
    words = step.command.split()
    job = words[1:3] == ["models", "continue"] or words[1] in _RESULTS
    compares = words[0] == "hone" and job and block.exit_code == 0
    return {0, 3} if compares else {block.exit_code}


def difference(shown: tuple[str, ...], printed: str, mode: str) -> str | None:
    """What the page shows and the command did not print; None where the page is right.

    Args:
        shown: lines of the page.
        printed: standard error, then standard output.
        mode: ``exact``, ``labels`` or ``varies``.
    """
    if mode == "varies" or not shown:
        return None
    if mode == "exact":
        pattern = ".*?".join(re.escape(part) for part in _plain("\n".join(shown)).split("..."))
        return None if re.fullmatch(pattern, _plain(printed)) else f"shown:\n{_plain(chr(10).join(shown))}\nprinted:"
    rest = iter([_plain(line) for line in printed.splitlines()])
    for line in shown:
        label = _label(line)
        if label and not any(one.startswith(label) for one in rest):
            return f"no line (after those before it) begins with {label!r}"
    return None


def _label(line: str) -> str:
    """The words in a line's margin, up to two spaces, a colon or "..."; none of a line that goes on from another."""
    if line.startswith("    ") and not line.lstrip().startswith('"'):
        return ""
    return _plain(re.split(r"  |\.\.\.|:|\(", line.strip())[0])


def _plain(text: str) -> str:
    """A text without what differs between two runs: numbers, hashes, line breaks, and which base it was."""
    text = re.sub(rf"\b{TINY}\b", EMBEDDED, text)
    text = re.sub(r"\d+(?:\.\d+)?", "0", text)
    return " ".join(text.split())
