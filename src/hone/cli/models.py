"""``hone models``: the registered versions, and what is known of each."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from hone.cli.comparison import proof_lines, verdict_lines
from hone.cli.options import JsonOption
from hone.cli.output import LABEL_COLUMNS, console, harmless, labelled, print_json, say, show, text_columns
from hone.cli.tables import figure, text_table
from hone.errors import StorageError
from hone.home import hone_home
from hone.types import JsonDict

if TYPE_CHECKING:  # importing the registry imports SQLAlchemy, which `hone --help` does not need
    from hone.registry import Version

__all__ = ["list_models", "models", "show_model"]

models = typer.Typer(help="The registered versions: list them, look at one.", rich_markup_mode=None)

_PARTS = ("train", "validation", "held_out")
_NUMBERS = ("rank", "alpha", "learning_rate", "epochs", "batch_size", "max_length", "steps", "seed")


@models.callback(invoke_without_command=True, epilog="Example: hone models list")
def _group(context: typer.Context) -> None:
    """The registered versions: list them, look at one."""
    if context.invoked_subcommand is None:
        list_models()


@models.command("list", epilog="Example: hone models list --json")
def list_models(*, as_json: JsonOption = False) -> None:
    """List the versions and their scores."""
    from hone.registry import list_versions

    versions = list_versions(hone_home())
    if as_json:
        print_json({"schema": 1, "versions": [_summary(version) for version in versions]})
    elif versions:
        rows = [["VERSION", "MADE (UTC)", "RESULT", "PROOF", "BASE"]]
        rows += [
            [version.reference, version.created_at[:10], _result(version), version.status, version.base_name]
            for version in versions
        ]
        for line in text_table(rows):
            show(harmless(line))
    else:
        say("No versions yet. Make one: hone run DATA")


@models.command("show", epilog="Example: hone models show support@1")
def show_model(
    version: Annotated[
        str, typer.Argument(metavar="VERSION", help="A version (support, support@3), an alias, or a run's folder.")
    ],
    *,
    as_json: JsonOption = False,
) -> None:
    """Show one version: origin, figures, files.

    Where it comes from, what was measured, and whether its files are as they were registered: it ends with code 1
    where one is missing or differs.
    """
    from hone.registry import resolve_version, verify_version

    found = resolve_version(hone_home(), version)
    damage: StorageError | None = None
    try:
        verify_version(found)
    except StorageError as error:
        damage = error
    if as_json:
        problems = list(damage.details) if damage else []
        print_json(
            {
                "schema": 1,
                **_summary(found),
                "base": {"name": found.base_name, "hash": found.base_hash},
                "template_hash": found.template_hash,
                "adapter": {"sha256": found.adapter_sha256, "files": dict(found.adapter_files), "problems": problems},
                "data": found.data_manifest,
                "result": _stored_result(found),
                "evaluation": found.evaluation,
                "proof": found.proof,
            }
        )
    else:
        for line in _lines(found, damage, text_columns(console(sys.stdout))):
            show(line)
    if damage:
        raise typer.Exit(damage.exit_code)


def _summary(version: Version) -> JsonDict:
    evaluation = version.evaluation
    scores = {name: arm["score"] for name, arm in evaluation["arms"].items()} if evaluation else {}
    return {
        "version": version.reference,
        "name": version.name,
        "number": version.number,
        "status": version.status,
        "created_at": version.created_at,
        "base_name": version.base_name,
        "run_dir": str(version.run_folder),
        "metric": evaluation["metric"] if evaluation else None,
        "scores": scores,
    }


def _result(version: Version) -> str:
    evaluation = version.evaluation
    if not evaluation:
        return "not compared"
    metric = evaluation["metrics"][evaluation["metric"]]
    scores = [figure(arm["score"], metric["name"]) for arm in evaluation["arms"].values()]
    return f"{metric['title']} {' -> '.join(scores)}"


def _lines(version: Version, damage: StorageError | None, columns: int) -> Iterator[str | Text]:
    source = version.data_manifest["source"]
    yield Text(f"{version.reference} ({version.status})", style="bold")
    yield labelled("Made", f"{version.created_at} (UTC)", columns=columns)
    yield labelled("Base", f"{version.base_name}, hash {version.base_hash[:16]}", columns=columns)
    parts = [
        f"{len(version.data_manifest[part])} {part.replace('_', ' ')}" for part in ("train", "validation", "held_out")
    ]
    counts = f"{source['rows']} rows, {source['kept']} kept, {source['cut']} cut, {source['dropped']} dropped"
    text = f"{source['name']} ({source['format']}, SHA-256 {source['sha256'][:16]}): {counts}; {', '.join(parts)}"
    yield labelled("Data", text, columns=columns)
    result = _stored_result(version)
    training = (result or {}).get("training") or {}
    numbers = ", ".join(f"{name} {training[name]:g}" for name in _NUMBERS if training.get(name) is not None)
    yield labelled("Training", numbers or "its numbers are not there any more (result.json)", columns=columns)
    yield labelled("Comparison", f"{_result(version)}{_rows_compared(version)}", columns=columns)
    if result and result.get("verdict"):
        yield from verdict_lines(result["verdict"], columns=columns, reasons="the report")
    yield from proof_lines(version.proof or [], columns=columns)
    yield _path("Folder", str(version.run_folder))
    yield _path("Report", str(version.run_folder / "report.html"))
    count = len(version.adapter_files)
    if damage is None:
        yield labelled("Files", f"all {count} files of the adapter are as they were registered", columns=columns)
    else:
        yield labelled("Files", f"{damage.what}; {damage.remedy}", columns=columns)
        for problem in damage.details:
            yield _path("", problem)


def _rows_compared(version: Version) -> str:
    return f" on {version.evaluation['rows']} held-out rows" if version.evaluation else ""


def _path(label: str, text: str) -> Text:
    return Text.assemble((f"{label:<{LABEL_COLUMNS}}", "bold"), harmless(text))


def _stored_result(version: Version) -> Any:
    """What the run wrote at its end; None where that is not there, for the folder is the user's."""
    try:
        return json.loads((version.run_folder / "result.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
