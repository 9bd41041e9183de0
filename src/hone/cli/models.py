"""``hone models``: the registered versions, and what is known of each; the group of all commands about them."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from hone.cli.comparison import held_out, proof_lines, verdict_lines
from hone.cli.continuing import continue_model
from hone.cli.lineage import family_json, history_lines, lineage_text, result_text, tree_lines
from hone.cli.options import JsonOption
from hone.cli.output import LABEL_COLUMNS, console, harmless, labelled, print_json, say, show, text_columns
from hone.cli.promotion import promote_model, revert_model
from hone.cli.tables import text_table
from hone.cli.upkeep import collect_models, remove_model
from hone.cli.versions_diff import diff_models
from hone.errors import StorageError
from hone.home import hone_home
from hone.types import JsonDict

if TYPE_CHECKING:  # importing the registry imports SQLAlchemy, which `hone --help` does not need
    from hone.registry import AliasTarget, Version

__all__ = ["list_models", "models", "show_model"]

models = typer.Typer(help="The registered versions: show, promote, revert, continue.", rich_markup_mode=None)

_PARTS = ("train", "validation", "held_out")
_NUMBERS = ("rank", "alpha", "learning_rate", "epochs", "batch_size", "max_length", "steps", "seed")


@models.callback(invoke_without_command=True, epilog="Example: hone models list")
def _group(context: typer.Context) -> None:
    """The registered versions: show, promote, revert, continue."""
    if context.invoked_subcommand is None:
        list_models()


@models.command("list", epilog="Example: hone models list --json")
def list_models(*, as_json: JsonOption = False) -> None:
    """List the versions, their aliases and scores."""
    from hone.registry import list_aliases, list_versions

    versions, aliases = list_versions(hone_home()), list_aliases(hone_home())
    if as_json:
        listed = [_summary(version, aliases) for version in versions]
        print_json({"schema": 1, "versions": listed, "aliases": [_alias_json(one) for one in aliases]})
    elif versions or aliases:
        rows = [["VERSION", "ALIASES", "MADE (UTC)", "RESULT", "PROOF", "BASE"]]
        for version in versions:
            standing = ", ".join(_standing(version, aliases)) or "-"
            made = version.created_at[:10]
            rows.append([version.reference, standing, made, result_text(version), version.status, version.base_name])
        on_base = [one for one in aliases if one.number is None]
        rows += [[f"{one.name} (base)", one.alias, "-", "-", "-", str(one.base_name)] for one in on_base]
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
    tree: Annotated[
        bool, typer.Option("--tree", help="Show its relatives, from the base down, and its aliases.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Show one version: origin, figures, files.

    Where it comes from, what was measured, and whether its files are as they were registered: it ends with code 1
    where one is missing or differs.
    """
    from hone.registry import list_aliases, resolve_version, verify_version

    found = resolve_version(hone_home(), version)
    if tree:
        _show_tree(found, as_json=as_json)
        return
    aliases = list_aliases(hone_home(), found.name)
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
                **_summary(found, aliases),
                "base": {"name": found.base_name, "hash": found.base_hash},
                "template_hash": found.template_hash,
                "adapter": {"sha256": found.adapter_sha256, "files": dict(found.adapter_files), "problems": problems},
                "data": found.data_manifest,
                "lineage": found.lineage,
                "code": found.code,
                "result": _stored_result(found),
                "evaluation": found.evaluation,
                "proof": found.proof,
            }
        )
    else:
        for line in _lines(found, aliases, damage, text_columns(console(sys.stdout))):
            show(line)
    if damage:
        raise typer.Exit(damage.exit_code)


models.command("diff", epilog="Example: hone models diff support@1 support@2")(diff_models)
models.command("promote", epilog="Example: hone models promote support@2 production")(promote_model)
models.command("revert", epilog="Example: hone models revert support@production")(revert_model)
models.command("continue", epilog="Example: hone models continue support@3 new.jsonl")(continue_model)
models.command("remove", epilog="Example: hone models remove support@1")(remove_model)
models.command("gc", epilog="Example: hone models gc --dry-run")(collect_models)


def _show_tree(version: Version, *, as_json: bool) -> None:
    from hone.registry import family_of, history_of_alias, list_aliases

    family = family_of(hone_home(), version)
    aliases = list_aliases(hone_home(), version.name)
    histories = {one.alias: history_of_alias(hone_home(), one.name, one.alias) for one in aliases}
    if as_json:
        told = {alias: [asdict(move) for move in moves] for alias, moves in histories.items()}
        print_json({"schema": 1, "tree": family_json(family), "histories": told})
        return
    for line in tree_lines(family, version):
        show(line)
    for alias, moves in histories.items():
        show()
        for text in history_lines(version.name, alias, moves, columns=text_columns(console(sys.stdout))):
            show(text)


def _standing(version: Version, aliases: Sequence[AliasTarget]) -> list[str]:
    return [one.alias for one in aliases if one.reference == version.reference]


def _alias_json(alias: AliasTarget) -> JsonDict:
    stands_on = {"version": alias.reference, "base": None} if alias.number is not None else {
        "version": None, "base": alias.base_name
    }  # fmt: skip
    return {"alias": f"{alias.name}@{alias.alias}", **stands_on, "changed_at": alias.changed_at}


def _summary(version: Version, aliases: Sequence[AliasTarget]) -> JsonDict:
    evaluation = version.evaluation
    scores = {name: arm["score"] for name, arm in evaluation["arms"].items()} if evaluation else {}
    return {
        "version": version.reference,
        "name": version.name,
        "number": version.number,
        "status": version.status,
        "aliases": _standing(version, aliases),
        "parent": version.parent,
        "created_at": version.created_at,
        "base_name": version.base_name,
        "run_dir": str(version.run_folder),
        "metric": evaluation["metric"] if evaluation else None,
        "scores": scores,
    }


def _lines(
    version: Version, aliases: Sequence[AliasTarget], damage: StorageError | None, columns: int
) -> Iterator[str | Text]:
    source = version.data_manifest["source"]
    yield Text(f"{version.reference} ({version.status})", style="bold")
    yield labelled("Made", f"{version.created_at} (UTC)", columns=columns)
    if standing := _standing(version, aliases):
        yield labelled("Aliases", ", ".join(standing), columns=columns)
    yield labelled("Lineage", lineage_text(version), columns=columns)
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
    yield labelled("Comparison", f"{result_text(version)}{_rows_compared(version)}", columns=columns)
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
    return f" on {held_out(version.evaluation)}" if version.evaluation else ""


def _path(label: str, text: str) -> Text:
    return Text.assemble((f"{label:<{LABEL_COLUMNS}}", "bold"), harmless(text))


def _stored_result(version: Version) -> Any:
    """What the run wrote at its end; None where that is not there, for the folder is the user's."""
    try:
        return json.loads((version.run_folder / "result.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
