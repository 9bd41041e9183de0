"""``hone chat``: a conversation, streamed; with ``--base`` the base answers the same messages beside it."""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Iterator
from contextlib import closing, suppress
from typing import TYPE_CHECKING, Any

import typer
from rich.text import Text

from hone.cli.generate import input_lines, write_pieces
from hone.cli.options import ConfigFileOption, load_options, options_of, require_model
from hone.cli.output import console, harmless, say
from hone.config import ChatConfig
from hone.errors import ConfigError, HoneError
from hone.home import hone_home
from hone.types import ArmName

if TYPE_CHECKING:  # importing the recipe imports torch
    from hone.recipe.answer import Conversation

__all__ = ["chat"]

_HELP = """/reset   forget the conversation
/help    this list
/exit    end (so does Ctrl-D; Ctrl-C stops an answer)"""
_COMMANDS = ("/reset", "/help", "/exit")
_COMMAND = re.compile(r"/[a-z]+(?!\S)")


@options_of(ChatConfig, arguments=("model",))
def chat(*, context: typer.Context, config_file: ConfigFileOption = None, **given: Any) -> None:
    """Talk to a version, or to a base.

    Lines can come through a pipe as well: each is a message, and the answers alone go to standard output.
    """
    config = load_options(context, ChatConfig, given, file=config_file)
    require_model(config.model)
    from hone.recipe.answer import open_conversation

    conversation = open_conversation(config, home=hone_home(), note=say)
    arms: list[ArmName] = ["tuned"] if conversation.is_tuned else ["base"]
    if config.base:
        if not conversation.is_tuned:
            raise ConfigError(
                f"{conversation.name} is a base itself: there is nothing to set beside it",
                where="--base",
                remedy="leave it out, or name a version (`hone models list`)",
            )
        arms = ["tuned", "base"]
    _greet(conversation)
    _talk(conversation, arms)


def _greet(conversation: Conversation) -> None:
    who = conversation.name
    if conversation.is_tuned:
        who += f", tuned from {conversation.base_name}"
    say(f"{who}. /help lists what can be typed, /exit ends.")
    if conversation.system_is_from_training:
        say(f"System message, as in all training rows: {harmless(conversation.system or '')}")


def _talk(conversation: Conversation, arms: list[ArmName]) -> None:
    interactive = _is_interactive()
    for line in _lines():
        message = line.strip()
        command = _COMMAND.match(message)
        if message == "/exit":
            return
        if message == "/reset":
            conversation.reset()
            say("(forgotten)")
        elif command and command[0] in _COMMANDS and message != command[0]:
            say(f"{command[0]} takes nothing behind it; nothing was sent\n{_HELP}")
        elif command and message == command[0]:
            say(_HELP)
        elif message:
            try:
                _answer(conversation, message, arms)
            except HoneError as error:
                if not interactive:
                    raise
                say(Text.assemble(("Error:", "bold red"), " ", harmless(error.render())))
            except KeyboardInterrupt as stop:
                if not interactive or stop.args:  # a signal other than Ctrl-C ends all
                    raise
                say("\n(stopped; the message and its answer are forgotten)")


def _answer(conversation: Conversation, message: str, arms: list[ArmName]) -> None:
    for arm in arms:
        if len(arms) > 1:
            console(sys.stdout).print(Text(f"{arm + ':':<7}", style="bold"), end="")
        with closing(conversation.ask(message, arm=arm)) as pieces:  # a stopped answer must switch the adapter back
            write_pieces(pieces)
        if not conversation.last.stopped:
            say(f"(cut off after {conversation.last.tokens} tokens; --max-new-tokens allows more)")


def _is_interactive() -> bool:
    return sys.stdin is not None and sys.stdin.isatty()


def _lines() -> Iterator[str]:
    """Lines of standard input, with a prompt and editing on a terminal."""
    if not (_is_interactive() and sys.stdout.isatty()):
        yield from (line.decode("utf-8", errors="replace") for line in input_lines())
        return
    with suppress(ImportError):  # it gives input() its history and editing; not there on Windows
        importlib.import_module("readline")
    while True:
        try:
            yield input("> ")
        except EOFError:
            say()
            return
