"""``hone proof``: the invariants of a version measured again, or those before a training, alone."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import typer
from rich.text import Text

from hone.cli.comparison import proof_lines
from hone.cli.options import ConfigFileOption, JsonOption, load_options, options_of
from hone.cli.output import console, labelled, print_json, result_stream, show, text_columns
from hone.cli.progress import reported
from hone.config import PROOF_OPTIONS, ProofConfig
from hone.errors import HoneError
from hone.home import hone_home

if TYPE_CHECKING:  # importing the recipe imports torch
    from hone.recipe.prove import ProofResult

__all__ = ["proof"]


@options_of(ProofConfig, arguments=("version",), only=PROOF_OPTIONS)
def proof(
    *, context: typer.Context, as_json: JsonOption = False, config_file: ConfigFileOption = None, **given: Any
) -> None:
    """Measure the proof's invariants.

    Of a version or run, all that can be measured again. With --data, those that come before a training, and nothing
    is trained. Ends with code 1 where one does not hold.
    """
    config = load_options(context, ProofConfig, given, file=config_file)
    from hone.recipe.prove import prove

    with result_stream(as_json), reported() as recorder:
        result = prove(config, home=hone_home(), recorder=recorder)
    if as_json:
        print_json(result.to_json())
    else:
        for line in _lines(result, text_columns(console(sys.stdout))):
            show(line)
    if not all(invariant.holds for invariant in result.proof):
        raise typer.Exit(HoneError.exit_code)


def _lines(result: ProofResult, columns: int) -> Iterator[str | Text]:
    yield Text(result.name, style="bold")
    for one in result.proof:
        stored = f" As of the run: {result.as_stored[one.number]}." if one.number in result.as_stored else ""
        word = "holds" if one.holds else "does not hold"
        text = f"{one.name}: {one.measured:g}, bound {one.bound} ({one.checked}).{stored}"
        yield labelled(f"{one.number:>2} {word}"[:11], text, columns=columns)
    measured = {one.number for one in result.proof}
    for number, why in sorted(result.as_stored.items()):
        if number not in measured:
            yield labelled(f"{number:>2} -", f"not measured: {why}", columns=columns)
    yield from proof_lines([one.to_json() for one in result.proof], columns=columns)
