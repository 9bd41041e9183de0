"""The tree of a version's relatives, and the history of an alias, for people."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from rich.text import Text

from hone.cli.output import harmless, labelled
from hone.cli.tables import figure
from hone.types import JsonDict

if TYPE_CHECKING:
    from hone.registry import AliasMove, Family, LineageNode, Version

__all__ = ["family_json", "history_lines", "lineage_text", "result_text", "tree_lines"]


def result_text(version: Version) -> str:
    """The deciding metric of base and tuned, as ``chrF 1.5 -> 20.5``."""
    evaluation = version.evaluation
    if not evaluation:
        return "not compared"
    metric = evaluation["metrics"][evaluation["metric"]]
    arms = evaluation["arms"]
    names = [name for name in ("base", "tuned") if name in arms] or list(arms)
    scores = [figure(arms[name]["score"], metric["name"]) for name in names]
    return f"{metric['title']} {' -> '.join(scores)}"


def lineage_text(version: Version) -> str:
    """In words, what was done to the parent; of the base where there is none."""
    lineage = version.lineage
    if not lineage:
        return "trained on the base"
    rows = lineage["rows"]
    if lineage["relation"] == "retrained":
        text = f"trained anew from the base without {len(lineage['forgotten'])} rows of {lineage['parent']}"
        return text + (f", with {rows['new']} new ones" if rows["new"] else "")
    if rows["old"] is None:
        return f"continued from {lineage['parent']} with {rows['new']} rows, nothing replayed"
    replayed = f"{rows['replayed']} of {rows['old']} old ones replayed ({lineage['replay_share']:.0%})"
    return f"continued from {lineage['parent']} with {rows['new']} new rows, {replayed}"


def tree_lines(family: Family, shown: Version) -> Iterator[str | Text]:
    """The base, below it each version with its children, and marks for aliases and removed ones.

    Args:
        family: the relatives.
        shown: the version that was asked for; printed bold.
    """
    standing = f"  [{', '.join(family.aliases)}]" if family.aliases else ""
    yield harmless(f"{family.base_name} (hash {family.base_hash[:16]}){standing}")
    yield from _branches(family.roots, shown, "")


def _branches(nodes: tuple[LineageNode, ...], shown: Version, indent: str) -> Iterator[str | Text]:
    for place, node in enumerate(nodes):
        version, last = node.version, place == len(nodes) - 1
        facts = [version.created_at[:10], result_text(version), version.status]
        facts += [f"removed {version.removed_at[:10]}"] if version.removed_at else []
        facts += [lineage_text(version)] if version.lineage else []
        aliases = f"  [{', '.join(node.aliases)}]" if node.aliases else ""
        line = f"{indent}{'└─ ' if last else '├─ '}{version.reference}{aliases}  {'; '.join(facts)}"
        yield Text(harmless(line), style="bold" if version.reference == shown.reference else "")
        yield from _branches(node.children, shown, indent + ("   " if last else "│  "))


def family_json(family: Family) -> JsonDict:
    """The tree as JSON values."""
    return {
        "base": {"name": family.base_name, "hash": family.base_hash},
        "aliases": list(family.aliases),
        "versions": [_node_json(node) for node in family.roots],
    }


def _node_json(node: LineageNode) -> JsonDict:
    version = node.version
    return {
        "version": version.reference,
        "created_at": version.created_at,
        "removed_at": version.removed_at,
        "status": version.status,
        "aliases": list(node.aliases),
        "lineage": version.lineage,
        "versions": [_node_json(child) for child in node.children],
    }


def history_lines(name: str, alias: str, moves: list[AliasMove], *, columns: int) -> Iterator[str | Text]:
    """Every move of an alias, the newest first."""
    label = f"@{alias}"
    for move in reversed(moves):
        place = f"{name}@{move.number}" if move.number is not None else f"the base {move.base_name}"
        word = {"promote": "promoted to", "revert": "reverted to"}[move.action]
        failed = [one["name"] for one in (move.gate or {}).get("figures", []) if one["holds"] is False]
        forced = f", forced past {' and '.join(failed)}" if move.forced else ""
        reason = f" ({move.reason})" if move.reason else ""
        yield labelled(label, f"{move.changed_at[:16]} {word} {place}{forced}{reason}", columns=columns)
        label = ""
