"""The command ``hone``: its groups, and the one place where every failure becomes a message and an exit code."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Sequence
from typing import Annotated

import typer
import typer.main

from hone import __version__
from hone.cli.chat import chat
from hone.cli.data import data
from hone.cli.doctor import doctor
from hone.cli.evaluate import evaluate
from hone.cli.export import export_model, push_model
from hone.cli.failures import USAGE_ERROR, as_hone_error, print_failure
from hone.cli.generate import generate
from hone.cli.models import models
from hone.cli.output import prepare_streams, show
from hone.cli.plan import plan
from hone.cli.proof import proof
from hone.cli.rank import rank
from hone.cli.rankings import rankings
from hone.cli.reward import reward
from hone.cli.run import run
from hone.cli.serve import serve
from hone.cli.signals import terminates_as_ctrl_c
from hone.cli.train import train
from hone.home import hone_home

__all__ = ["app", "hone", "main"]

_PIPE_CLOSED = 141  # as of a process that SIGPIPE ended

app = typer.Typer(
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    no_args_is_help=True,
    epilog="First: hone run examples.jsonl    Then: hone chat NAME",
    context_settings={"max_content_width": 100},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        show(f"hone {__version__}")
        raise typer.Exit


@app.callback()
def hone(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_print_version, help="Print hone's version and end.")
    ] = False,
) -> None:
    """Turn a general language model into a specialist from a small set of examples, and prove it."""


app.command("run", epilog="Example: hone run examples.jsonl --name support")(run)
app.command("chat", epilog="Example: hone chat support --base")(chat)
app.command("generate", epilog='Example: hone generate support "Where is my order?"')(generate)
app.command("train", epilog="Example: hone train examples.jsonl --output my-run --epochs 3")(train)
app.command("evaluate", epilog="Example: hone evaluate support held_out.jsonl")(evaluate)
app.command("rank", epilog="Example: hone rank support --rater anna    Then: hone rank support --report")(rank)
app.command("proof", epilog="Example: hone proof support    or: hone proof --data examples.jsonl")(proof)
models.command("export", epilog="Example: hone models export support@1 --to gguf --out support-gguf")(export_model)
models.command("push", epilog="Example: hone models push support@1 you/support")(push_model)
app.add_typer(models, name="models")
app.add_typer(data, name="data")
app.add_typer(reward, name="reward")
app.add_typer(rankings, name="rankings")
app.command("serve", epilog="Example: hone serve --port 8000")(serve)
app.command("plan", epilog="Example: hone plan examples.jsonl --target-device h100 --rate 2.5/h")(plan)
app.command("doctor", epilog="Example: hone doctor")(doctor)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command line.

    Args:
        arguments: the words after ``hone``; those of the process unless given.

    Returns:
        The exit code of a command that came to its end.

    Raises:
        SystemExit: it did not; the user was told, and the code is in :mod:`hone.cli.failures`.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    prepare_streams()
    if arguments is None:
        _settle_matplotlib()
    try:
        try:
            with terminates_as_ctrl_c():
                code = _invoke(given)
            sys.stdout.flush()
            return code
        except BrokenPipeError:
            raise
        except (Exception, KeyboardInterrupt) as error:
            raise SystemExit(print_failure(as_hone_error(error, given), as_json="--json" in given)) from error
    except BrokenPipeError:
        # the reader of a pipe has left, as `head` does: nothing can be said any more, nor at exit
        nowhere = os.open(os.devnull, os.O_WRONLY)
        for stream in (sys.stdout, sys.stderr):  # either may be the pipe
            os.dup2(nowhere, stream.fileno())
        return _PIPE_CLOSED


def _settle_matplotlib() -> None:
    """Have matplotlib, which a report may import later, keep its list of fonts in hone's home folder, silently."""
    os.environ.setdefault("MPLCONFIGDIR", str(hone_home() / "cache" / "matplotlib"))
    logging.getLogger("matplotlib").setLevel(logging.ERROR)


def _invoke(arguments: list[str]) -> int:
    command = typer.main.get_command(app)
    if "_HONE_COMPLETE" in os.environ:
        command.main(arguments, prog_name="hone")
    try:
        with command.make_context("hone", arguments) as context:
            command.invoke(context)
    except typer.Exit as ended:
        return ended.exit_code
    except USAGE_ERROR as error:
        if type(error).__name__ != "NoArgsIsHelpError":
            raise
        show(str(error))  # a group by itself: its help
    return 0
