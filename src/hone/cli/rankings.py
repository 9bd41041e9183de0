"""``hone rankings``: the sessions that ``hone rank`` made, their votes, and files for and from other tools."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hone.cli.options import JsonOption
from hone.cli.output import harmless, print_json, say, show
from hone.cli.ranking_report import report_lines
from hone.cli.tables import text_table
from hone.errors import BadInputError, VersionError
from hone.home import hone_home
from hone.types import JsonDict

if TYPE_CHECKING:  # importing the registry imports SQLAlchemy, which `hone --help` does not need
    from hone.registry.rankings import RankingItem
    from hone.registry.votes import Vote

__all__ = ["export_session", "import_file", "list_rankings", "rankings", "show_session"]

rankings = typer.Typer(help="What people compared: list, show, export, import.", no_args_is_help=True)

_FormatOption = Annotated[str, typer.Option("--format", help="hone (rows to train on), label-studio or argilla.")]
_SessionArgument = Annotated[
    str, typer.Argument(metavar="SESSION", help="A session (rank-...), or a version for all of its sessions.")
]


@rankings.command("list", epilog="Example: hone rankings list --json")
def list_rankings(*, as_json: JsonOption = False) -> None:
    """List the sessions: whose answers, and who voted."""
    from hone.registry.rankings import list_sessions
    from hone.registry.votes import ranked_session

    found = [ranked_session(hone_home(), one.id) for one in list_sessions(hone_home())]
    told: list[JsonDict] = []
    for one in found:
        votes: dict[str, int] = {}
        for vote in one.votes:
            votes[vote.rater] = votes.get(vote.rater, 0) + 1
        prompts = sum(len(item.candidates) > 1 for item in one.items)
        told.append({"session": one.session.id, "version": one.session.version,
                     "contenders": one.session.contenders, "created_at": one.session.created_at,
                     "prompts": prompts, "same": len(one.items) - prompts, "votes": votes})  # fmt: skip
    if as_json:
        print_json({"schema": 1, "sessions": told})
    elif not told:
        say("No rankings yet. Make some: hone rank VERSION")
    else:
        rows = [["SESSION", "VERSION", "AGAINST", "PROMPTS", "VOTES", "MADE (UTC)"]]
        for line in told:
            voters = ", ".join(f"{rater} {count}" for rater, count in line["votes"].items()) or "-"
            others = ", ".join(line["contenders"][1:]) or "-"
            made = line["created_at"][:10]
            rows.append([line["session"], line["version"], others, str(line["prompts"]), voters, made])
        for text in text_table(rows, right=(3,)):
            show(harmless(text))


@rankings.command("show", epilog="Example: hone rankings show support@1 --json")
def show_session(session: _SessionArgument, *, as_json: JsonOption = False) -> None:
    """Show what was compared and said, with names.

    Whoever still has to vote should not look: it says who wrote each answer.
    """
    from hone.recipe.rank import report_of
    from hone.registry.votes import ranked_session

    ranked = [ranked_session(hone_home(), one) for one in _sessions(session)]
    report = report_of(hone_home(), [one.session for one in ranked])
    if as_json:
        prompts = [_prompt_json(one.session.id, item, one.votes) for one in ranked for item in one.items]
        print_json({"schema": 1, "report": report.to_json(), "items": prompts})
        return
    from hone.data.compared import plain_prompt

    for one in ranked:
        if len(ranked) > 1:
            show(harmless(f"{one.session.id}, {' against '.join(one.session.contenders)}"))
        for item in one.items:
            show(harmless("Prompt      " + " ".join(plain_prompt(item.prompt).split())))
            for candidate in item.candidates:
                show(harmless(f"  {', '.join(candidate.contenders)}: {' '.join(candidate.text.split())}"))
            for vote in one.votes:
                if vote.item_id == item.id:
                    ranks = vote.rank_of()
                    said = ", ".join(str(ranks[one.id]) for one in item.candidates) if ranks else "skipped"
                    show(harmless(f"  {vote.rater}: {said}"))
    show()
    for line in report_lines(ranked[0].session.version, report):
        show(line)


@rankings.command("export", epilog="Example: hone rankings export support@1 preferences.jsonl")
def export_session(
    session: _SessionArgument,
    out: Annotated[Path, typer.Argument(metavar="FILE", help="The file to write; one that is there is replaced.")],
    *,
    kind: _FormatOption = "hone",
    each_vote: Annotated[
        bool, typer.Option("--each-vote", help="Of hone: a row for each rater's vote; else the mean of all raters.")
    ] = False,
    no_votes: Annotated[
        bool, typer.Option("--no-votes", help="Of the others: prompts and answers alone, to be compared there.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Write rankings as rows to train on, or for another tool."""
    from hone.recipe.ranking_exchange import export_rankings

    if no_votes if kind == "hone" else each_vote:
        unused, others = ("--no-votes", "label-studio and argilla") if kind == "hone" else ("--each-vote", "hone")
        raise BadInputError(
            f"{unused} says nothing of the format {kind}",
            where=unused,
            why=f"it is for --format {others} alone, and an option without effect misleads",
            remedy=f"leave {unused} out",
        )
    sessions = _sessions(session)
    count = export_rankings(hone_home(), sessions, out, kind=kind, each_vote=each_vote, with_votes=not no_votes)
    if as_json:
        print_json({"schema": 1, "sessions": sessions, "file": str(out), "format": kind, "rows": count})
    else:
        say(f"{count} rows in {out}")
        if kind == "hone":
            on_top = _on_top_of(sessions)
            say(f"Next: hone run {out}{on_top}    or a reward model: hone run {out} --method reward")


@rankings.command("import", epilog="Example: hone rankings import export.json --format label-studio")
def import_file(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="What the other tool exported, as JSON.")],
    *,
    kind: _FormatOption = "",
    name: Annotated[
        str, typer.Option("--name", help="Who wrote the answers, where they are not hone's own.")
    ] = "imported",
    as_json: JsonOption = False,
) -> None:
    """Take in what people compared in another tool."""
    from hone.recipe.ranking_exchange import import_rankings

    found = import_rankings(hone_home(), file, kind=kind, name=name)
    if as_json:
        print_json({"schema": 1, "session": found.session.id, "version": found.session.version, "new": found.is_new,
                    "votes": found.votes, "known": found.known, "differing": found.differing})  # fmt: skip
        return
    made = "a new session" if found.is_new else "its session"
    say(f"{found.votes} votes added to {found.session.id}, {made}; {found.known} were there already")
    if found.differing:
        say(f"{found.differing} votes were left out: their raters have said something else here")


def _sessions(reference: str) -> list[str]:
    """The sessions that a reference names.

    Raises:
        VersionError: there is none.
    """
    from hone.registry.rankings import find_session, list_sessions

    of_version = [one.id for one in list_sessions(hone_home()) if reference in (one.version, one.version.split("@")[0])]
    return of_version or [find_session(hone_home(), reference).id]


def _on_top_of(sessions: Sequence[str]) -> str:
    """The option that goes on from the version whose answers were compared; none for a base or other tools."""
    from hone.registry.rankings import find_session
    from hone.registry.versions import resolve_version

    compared = {find_session(hone_home(), one).version for one in sessions}
    if len(compared) == 1:
        with suppress(VersionError):
            return f" --model {resolve_version(hone_home(), compared.pop()).reference}"
    return ""


def _prompt_json(session: str, item: RankingItem, votes: Sequence[Vote]) -> JsonDict:
    return {
        "session": session,
        "item": item.id,
        "prompt": item.prompt,
        "answers": [{"id": one.id, "text": one.text, "origins": list(one.origins)} for one in item.candidates],
        "votes": [
            {"id": vote.id, "rater": vote.rater, "shown": vote.shown, "ranks": vote.ranks, "seconds": vote.seconds,
             "voted_at": vote.voted_at, "utc_offset_minutes": vote.utc_offset_minutes}
            for vote in votes
            if vote.item_id == item.id
        ],
    }  # fmt: skip
