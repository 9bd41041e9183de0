"""How a command ends when it does not end well: one message, one exit code, no traceback.

0 done    1 failed    2 bad input    3 done, but the verdict is "do not ship"    130 stopped by Ctrl-C
"""

from __future__ import annotations

import difflib
import errno
import os
import platform
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import typer
from rich.text import Text

from hone import __version__
from hone.cli.output import harmless, print_json, say
from hone.errors import BadInputError, HoneError, InterruptedRunError, StorageError, TrainingError
from hone.files import write_atomically
from hone.home import hone_home
from hone.types import JsonDict

__all__ = ["USAGE_ERROR", "UsageProblem", "as_hone_error", "print_failure"]

# click's class, which newer releases of typer carry themselves and do not name
USAGE_ERROR: type[Exception] = typer.BadParameter.__mro__[1]

# Names that are less alike than the nearest one by more than this are not meant.
_AS_NEAR = 0.05
_NO_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_NO_PERMISSION = {errno.EACCES, errno.EPERM, errno.EROFS}
_NO_NAME = {errno.ENAMETOOLONG, errno.ELOOP}
_MOST_OF_A_NAME = 60
_OUT_OF_MEMORY = {"MemoryError", "OutOfMemoryError"}


class UsageProblem(BadInputError):
    """The command line itself cannot be understood."""


class _BugInHone(HoneError):
    """An error that nobody foresaw."""


def print_failure(error: HoneError, *, as_json: bool) -> int:
    """Tell the user, and give the exit code.

    Args:
        error: what went wrong.
        as_json: print it on standard output as an object as well.
    """
    interrupted = isinstance(error, InterruptedRunError)
    # `hone run` evaluates through `hone evaluate --json`: where both are stopped, the one that can be resumed says so
    if not (as_json and interrupted and not error.remedy):
        say(Text.assemble(("Stopped:" if interrupted else "Error:", "bold red"), " ", harmless(error.render())))
    if as_json:
        print_json({"schema": 1, "error": _as_object(error)})
    return error.exit_code


def as_hone_error(error: BaseException, arguments: Sequence[str]) -> HoneError:
    """Any error in hone's words.

    Args:
        error: what was raised.
        arguments: the command line, for the log of a bug.
    """
    if isinstance(error, HoneError):
        return error
    if isinstance(error, USAGE_ERROR):
        return _usage_problem(error)
    if isinstance(error, KeyboardInterrupt):
        return InterruptedRunError(str(error) or "Ctrl-C")
    if any(kind.__name__ in _OUT_OF_MEMORY for kind in type(error).__mro__):
        return TrainingError(
            "the memory is not enough", remedy="use a smaller --micro-batch-tokens, a shorter --max-length or a "
            "smaller model; `hone doctor` shows what is free",
        )  # fmt: skip
    if isinstance(error, OSError) and error.errno in _NO_SPACE | _NO_PERMISSION:
        remedy = "free some space, or set HONE_HOME to a folder on another disk"
        if error.errno in _NO_PERMISSION:
            remedy = "check who may write there, or name another folder with --output or HONE_HOME"
        return StorageError(f"{error.strerror}", where=str(error.filename) if error.filename else None, remedy=remedy)
    if isinstance(error, OSError) and error.errno in _NO_NAME:
        name = str(error.filename)
        where = name if len(name) <= _MOST_OF_A_NAME else f"{name[:_MOST_OF_A_NAME]}..."
        return BadInputError(f"no such file: {error.strerror}", where=where, remedy="name a file, or a folder")
    return _bug(error, arguments)


def _as_object(error: HoneError) -> JsonDict:
    return {
        "type": type(error).__name__.lstrip("_"),
        "message": error.what,
        "where": error.where,
        "why": error.why,
        "remedy": error.remedy,
        "details": list(error.details),
    }


def _usage_problem(error: Any) -> UsageProblem:
    """A mistake in the command line, with the nearest option where one is near."""
    context = error.ctx
    command = context.command_path if context else "hone"
    what = getattr(error, "message", None) or str(error)
    parameter = getattr(error, "param", None)
    wrong = getattr(error, "option_name", None)
    if wrong and type(error).__name__ == "NoSuchOption":
        what = f"there is no option {wrong}"
        known = list(_option_names(context.command)) if context else []
        near = difflib.get_close_matches(wrong, known, n=2)
        likeness = [difflib.SequenceMatcher(None, wrong, name).ratio() for name in near]
        near = [name for name, alike in zip(near, likeness, strict=True) if alike > likeness[0] - _AS_NEAR]
        what += f"; did you mean {' or '.join(near)}?" if near else ""
    elif parameter is not None:
        what = f"{parameter.opts[0]}: {what}"
    return UsageProblem(harmless(what), remedy=f"{command} --help")


def _option_names(command: Any) -> Iterator[str]:
    for parameter in command.params:
        yield from (name for name in (*parameter.opts, *parameter.secondary_opts) if name.startswith("--"))


def _bug(error: BaseException, arguments: Sequence[str]) -> HoneError:
    trace = "".join(traceback.format_exception(error))
    head = f"hone {__version__}, Python {platform.python_version()}, {platform.platform()}\n{' '.join(arguments)}\n\n"
    path = hone_home() / "logs" / f"error-{datetime.now(UTC):%Y%m%d-%H%M%S}-{os.getpid()}.txt"
    saved = None
    with suppress(StorageError):
        write_atomically(path, head + trace)
        saved = path
    if os.environ.get("HONE_TRACEBACK"):
        sys.stderr.write(trace)
    return _BugInHone(
        f"this is a bug of hone, not a mistake of yours: {type(error).__name__}: {error}",
        remedy=f"report it with {saved}" if saved else "run it again with HONE_TRACEBACK=1 and report what it prints",
    )
