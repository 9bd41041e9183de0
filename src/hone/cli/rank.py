"""``hone rank``: answers side by side, without names, in random order, and what a person says of them.

Line by line on any terminal, or through a pipe. Nothing that a rater is shown says who wrote an answer.
"""

from __future__ import annotations

import getpass
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from hone.cli.generate import input_lines
from hone.cli.options import ConfigFileOption, JsonOption, load_options, options_of, require_model
from hone.cli.output import harmless, print_json, result_stream, say, show
from hone.cli.progress import reported
from hone.cli.ranking_report import report_lines
from hone.config import RANK_OPTIONS, RankConfig
from hone.errors import BadInputError, ConfigError
from hone.home import hone_home
from hone.types import JsonDict

if TYPE_CHECKING:  # importing the registry imports SQLAlchemy, which `hone --help` does not need
    from hone.registry.rankings import RankingSession
    from hone.registry.votes import ShownItem

__all__ = ["parse_ranking", "rank"]

_COMMANDS = {"s": "skip", "u": "undo", "q": "quit"}
_PAIR_HELP = "1 or 2 is the better one, t a tie (both alike)"
_MANY_HELP = "best first, = between equal ones, as 2 1 3=4; t for all alike"
_FURTHER_HELP = "s skips, u takes back your last vote, q ends (all votes are kept)"
_NO_TEXT = "(no text)"


@options_of(RankConfig, arguments=("version",), only=RANK_OPTIONS)
def rank(
    *, context: typer.Context, as_json: JsonOption = False, config_file: ConfigFileOption = None, **given: Any
) -> None:
    """Compare answers, blind, and keep what you say.

    The version and its base (or --against) answer the same prompts. You see the answers without names and in random
    order, and say which is better. The same command goes on where you stopped. The report says who wins.
    """
    config = load_options(context, RankConfig, given, file=config_file)
    require_model(config.version)
    from hone.recipe.rank import open_rankings, report_of, sessions_of

    home = hone_home()
    if config.report:
        sessions = sessions_of(config, home=home, note=say)
        report = report_of(home, sessions)
        if as_json:
            print_json({"schema": 1, "version": sessions[0].version, "sessions": [one.id for one in sessions],
                        **report.to_json()})  # fmt: skip
        else:
            for line in report_lines(sessions[0].version, report):
                show(line)
        return
    from hone.registry.votes import check_rater

    rater = check_rater(config.rater or _user_name())
    with result_stream(as_json), reported() as recorder:
        session = open_rankings(config, home=home, recorder=recorder)
    write = say if as_json else show
    table = _Table(home, session, rater, write)
    if config.ask:
        table.sit()
    elif not as_json:
        show(f"{session.id} holds the answers; the same command without --no-ask shows them.")
    if as_json:
        print_json(table.summary())


@dataclass
class _Table:
    """One rater before one session.

    Args:
        home: the home folder.
        session: that is ranked.
        rater: who sits here.
        write: prints a line for the rater.
    """

    home: Path
    session: RankingSession
    rater: str
    write: Callable[[str], None]
    votes: int = 0
    skipped: int = 0
    undone: int = 0

    def sit(self) -> None:
        """Show what is left and take votes, until all is done or the rater ends."""
        from hone.registry.votes import next_item

        shown = next_item(self.home, self.session.id, self.rater)
        if shown.item is not None:
            self._greet(shown)
        lines = _lines()
        while shown.item is not None and self._judge(shown, lines):
            shown = next_item(self.home, self.session.id, self.rater)
        self._part()

    def summary(self) -> JsonDict:
        """What was done, for programs."""
        from hone.registry.votes import next_item

        shown = next_item(self.home, self.session.id, self.rater)
        return {
            "schema": 1,
            "session": self.session.id,
            "version": self.session.version,
            "contenders": self.session.contenders,
            "rater": self.rater,
            "prompts": shown.total,
            "done": shown.done,
            "left": shown.total - shown.done,
            "now": {"votes": self.votes, "skipped": self.skipped, "undone": self.undone},
        }

    def _greet(self, shown: ShownItem) -> None:
        left = shown.total - shown.done
        prompts = "prompt" if left == 1 else "prompts"
        self.write(f"{left} {prompts} to compare, {shown.done} done. You are {harmless(self.rater)} (--rater NAME).")
        self.write("The answers come in random order, and nothing says who wrote them.")
        self.write(f"Type {_PAIR_HELP if len(shown.answers) == 2 else _MANY_HELP};")
        self.write(f"{_FURTHER_HELP}.")

    def _judge(self, shown: ShownItem, lines: Iterator[str]) -> bool:
        """Show one prompt and take what the rater says of it; False where he ends."""
        from hone.registry.votes import cast_vote, undo_vote

        assert shown.item is not None, "nothing is left to judge"
        self._show(shown)
        began = time.perf_counter()
        count = len(shown.answers)
        for line in lines:
            word = line.strip().lower()
            try:
                said = _COMMANDS.get(word) or parse_ranking(word, count)
            except BadInputError as error:
                self.write(f"{error.what}; {error.remedy}" if error.remedy else error.what)
                self._ask(count)
                continue
            if said == "quit":
                return False
            if said == "undo":
                undone = undo_vote(self.home, self.session.id, self.rater)
                self.undone += undone is not None
                self.write("Taken back." if undone else "There is nothing to take back.")
                return True
            ranks = None if said == "skip" else [int(one) for one in said]
            cast_vote(
                self.home, self.session.id, shown.item.id, self.rater, ranks,
                seconds=time.perf_counter() - began, utc_offset_minutes=_utc_offset(),
            )  # fmt: skip
            self.votes += ranks is not None
            self.skipped += ranks is None
            return True
        return False  # the input has ended

    def _show(self, shown: ShownItem) -> None:
        from hone.data.compared import plain_prompt

        assert shown.item is not None, "nothing is left to show"
        self.write("")
        self.write(f"--- {shown.done + 1} of {shown.total} " + "-" * 40)
        self._block("Prompt", plain_prompt(shown.item.prompt))
        for place, answer in enumerate(shown.answers, start=1):
            self._block(f"Answer {place}", answer.text or _NO_TEXT)
        self._ask(len(shown.answers))

    def _block(self, title: str, text: str) -> None:
        self.write(title)
        for line in text.splitlines() or [""]:
            self.write(f"    {harmless(line)}".rstrip())

    def _ask(self, count: int) -> None:
        keys = "1, 2, t" if count == 2 else f"ranking of 1 to {count}, t"
        self.write(f"Your choice ({keys}, s, u, q):")

    def _part(self) -> None:
        from hone.registry.votes import next_item

        shown = next_item(self.home, self.session.id, self.rater)
        self.write("")
        if shown.item is None:
            self.write(f"All {shown.total} prompts are done.")
        else:
            self.write(f"{shown.done} of {shown.total} prompts are done. The same command goes on.")
        self.write(f"What the votes say: hone rank {self.session.version} --report")


def parse_ranking(text: str, count: int) -> list[int]:
    """Ranks from what a rater typed: ``2`` of two answers, ``t``, or ``2 1 3=4``.

    Args:
        text: lower case.
        count: answers that were shown.

    Returns:
        The rank of each answer in the order shown, 1 the best.

    Raises:
        ConfigError: it does not name each answer once.
    """
    if text in ("t", "tie"):
        return [1] * count
    if count == 2 and text in ("1", "2"):
        return [1, 2] if text == "1" else [2, 1]
    example = "1, 2, t, s, u or q" if count == 2 else "as 2 1 3=4, or t, s, u or q"
    groups = [group.split("=") for group in text.replace(">", " ").replace(",", " ").replace(" =", "=")
              .replace("= ", "=").split()]  # fmt: skip
    named = [one for group in groups for one in group]
    if sorted(named) != [str(place) for place in range(1, count + 1)]:
        wanted = "is neither answer" if count == 2 else f"does not name each answer from 1 to {count} once"
        raise ConfigError(f"{harmless(text)!r} {wanted}" if text else "nothing was typed", remedy=f"type {example}")
    rank_of = {one: place for place, group in enumerate(groups, start=1) for one in group}
    return [rank_of[str(place)] for place in range(1, count + 1)]


def _lines() -> Iterator[str]:
    """What the rater types, a line at a time, until the input ends."""
    if sys.stdin is not None and sys.stdin.isatty():
        while line := sys.stdin.readline():
            yield line
    else:
        yield from (line.decode("utf-8", errors="replace") for line in input_lines())


def _user_name() -> str:
    with suppress(OSError, KeyError, ImportError):
        return getpass.getuser()
    return "rater"


def _utc_offset() -> int | None:
    offset = datetime.now().astimezone().utcoffset()
    return None if offset is None else round(offset.total_seconds() / 60)
