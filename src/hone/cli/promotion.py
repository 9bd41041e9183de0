"""``hone models promote`` and ``revert``: moving an alias, through its gate and back."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Annotated

import typer
from rich.text import Text

from hone.cli.options import JsonOption
from hone.cli.output import console, labelled, print_json, result_stream, show, text_columns
from hone.cli.progress import reported
from hone.home import hone_home
from hone.types import JsonDict

__all__ = ["DeviceOption", "DtypeOption", "promote_model", "revert_model"]

DeviceOption = Annotated[
    str | None, typer.Option(metavar="TEXT", help="cpu, cuda, cuda:N or mps; the fastest there is unless given.")
]
DtypeOption = Annotated[
    str | None, typer.Option(metavar="float32|bfloat16", help="Type of the base's weights; as for training.")
]
_WORDS = {True: "holds", False: "fails", None: "not measured"}


def promote_model(
    version: Annotated[str, typer.Argument(metavar="VERSION", help="The version, as support@4.")],
    alias: Annotated[str, typer.Argument(metavar="ALIAS", help="The movable name, as production.")],
    *,
    force: Annotated[bool, typer.Option("--force", help="Move it though the gate refuses; needs --reason.")] = False,
    reason: Annotated[
        str | None, typer.Option(metavar="TEXT", help="Why; kept in the alias's history, with what failed.")
    ] = None,
    device: DeviceOption = None,
    dtype: DtypeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Put an alias on a version, if its gate lets it pass.

    The gate asks that the version's proof holds, that it is not worse beyond chance than the version that stands there
    now on that one's held-out rows, and that retention is within its bounds. Ends with code 1 where it refuses, and
    says which figure failed.
    """
    from hone.recipe.promote import promote

    options = {name: value for name, value in (("device", device), ("dtype", dtype)) if value is not None}
    with result_stream(as_json), reported() as recorder:
        result = promote(
            version, alias, home=hone_home(), recorder=recorder, force=force, reason=reason, options=options
        )
    if as_json:
        print_json(result)
    else:
        for line in _promoted(result, text_columns(console(sys.stdout))):
            show(line)


def revert_model(
    alias: Annotated[str, typer.Argument(metavar="NAME@ALIAS", help="The alias, as support@production.")],
    *,
    to: Annotated[
        str | None, typer.Option(metavar="N|base", help="A place that it stood in; the one before unless given.")
    ] = None,
    reason: Annotated[str | None, typer.Option(metavar="TEXT", help="Why; kept in the alias's history.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Take an alias back to where it stood before.

    Again goes further back, and at the end to the base. The version's files are checked first; no model is loaded.
    """
    from hone.recipe.reverting import revert

    result = revert(alias, home=hone_home(), to=to, reason=reason)
    if as_json:
        print_json(result)
    else:
        show(f"{result['alias']} stands on {result['now']} again (was {result['was']})")


def _promoted(result: JsonDict, columns: int) -> Iterator[str | Text]:
    if not result["moved"]:
        yield f"{result['alias']} stands on {result['version']} already"
        return
    was = f" (was {result['was']})" if result["was"] else ""
    forced = ", forced" if result["forced"] else ""
    yield Text(f"{result['alias']} stands on {result['version']}{was}{forced}", style="bold")
    for one in result["figures"]:
        text = f"{_WORDS[one['holds']]}: {one['found']}" if one["holds"] is not None else one["found"]
        yield labelled(one["name"].capitalize(), text, columns=columns)
        for detail in one["details"]:
            yield labelled("", detail, columns=columns)
    if result["reason"]:
        yield labelled("Reason", result["reason"], columns=columns)
