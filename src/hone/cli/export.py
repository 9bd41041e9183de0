"""``hone models export`` and ``hone models push``: a version as files for another program."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from hone.cli.options import JsonOption
from hone.cli.output import console, labelled, print_json, result_stream, show, text_columns
from hone.cli.progress import reported
from hone.home import hone_home

if TYPE_CHECKING:  # importing the recipe imports torch
    from hone.recipe.export import ExportResult

__all__ = ["export_model", "push_model"]

_VersionArgument = Annotated[
    str, typer.Argument(metavar="VERSION", help="A version (support, support@3), an alias, or a run's folder.")
]
_WeightsOption = Annotated[
    str | None,
    typer.Option(
        "--weights",
        metavar="KIND",
        help="How weights are stored. merged: float32, bfloat16, float16 (as the base's unless given); gguf, ollama: "
        "f16 (unless given), q8_0, q4_1, q4_0.",
    ),
]
_UnprovenOption = Annotated[
    bool,
    typer.Option("--unproven", help="Write an unproven version, or files that give other answers, all the same."),
]


def export_model(
    version: _VersionArgument,
    *,
    target: Annotated[str, typer.Option("--to", metavar="FORMAT", help="peft, merged, gguf, ollama or vllm.")],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="The folder to make; it must not be there yet.")],
    weights: _WeightsOption = None,
    unproven: _UnprovenOption = False,
    as_json: JsonOption = False,
) -> None:
    """Write a version for another program.

    The files are read back in the format's own runtime, where one is installed, and have to give the answers that hone
    gives; else nothing is written.
    """
    from hone.recipe.export import check_request, export_version

    check_request(target, weights)
    with result_stream(as_json), reported() as recorder:
        result = export_version(
            version, target=target, out=out, weights=weights, accept_unproven=unproven, home=hone_home(),
            recorder=recorder,
        )  # fmt: skip
    if as_json:
        print_json(result.to_json())
        return
    for line in _lines(result, text_columns(console(sys.stdout))):
        show(line)


def push_model(
    version: _VersionArgument,
    repository: Annotated[str, typer.Argument(metavar="REPO", help="The hub's repository, as you/support.")],
    *,
    target: Annotated[str, typer.Option("--to", metavar="FORMAT", help="peft, merged, gguf, ollama or vllm.")] = "peft",
    weights: _WeightsOption = None,
    public: Annotated[bool, typer.Option("--public", help="Anyone may read a repository that is made here.")] = False,
    unproven: _UnprovenOption = False,
    as_json: JsonOption = False,
) -> None:
    """Export a version, and put the files on the Hugging Face hub.

    Needs a token that may write: HF_TOKEN, or that of `hf auth login`. All files come in one commit.
    """
    from hone.recipe.export import check_request
    from hone.recipe.push import push_version

    check_request(target, weights)
    with result_stream(as_json), reported() as recorder:
        pushed = push_version(
            version, repository, target=target, weights=weights, public=public, accept_unproven=unproven,
            home=hone_home(), recorder=recorder,
        )  # fmt: skip
    if as_json:
        print_json(pushed.to_json())
        return
    columns = text_columns(console(sys.stdout))
    for line in _lines(pushed.export, columns):
        show(line)
    show(labelled("Commit", pushed.commit_url, columns=columns))


def _lines(result: ExportResult, columns: int) -> Iterator[str | Text]:
    yield Text(f"{result.version} as {result.target}, weights {result.weights} ({result.status})", style="bold")
    for check in result.checks:
        word = "the same answers" if check.invariant.holds else "other answers"
        text = (
            f"{word} in {check.runtime}: {check.equal_tokens} of {check.tokens} tokens and {check.equal_answers} of "
            f"{check.answers} answers equal, log-probabilities {check.difference_nats:.2g} nats apart"
        )
        yield labelled("Proof", text + (f". {check.invariant.found}" if check.invariant.found else ""), columns=columns)
    if (scored := result.scores) is not None:
        word = "the same scores" if scored.invariant.holds else "other scores"
        text = f"{word} in {scored.runtime}: {scored.answers} given answers, {scored.difference:.2g} apart at most"
        yield labelled(
            "Proof", text + (f". {scored.invariant.found}" if scored.invariant.found else ""), columns=columns
        )
    for runtime, reason in result.not_checked:
        yield labelled("Not checked", f"{runtime}: {reason}", columns=columns)
    for note in result.notes:
        yield labelled("Beware", note, columns=columns)
    yield labelled("Folder", str(result.folder), columns=columns)
    for name in result.files:
        yield labelled("", name, columns=columns)
