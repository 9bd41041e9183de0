"""Promoting a version to an alias, through the gate."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hone.engine.events import Recorder
from hone.errors import ConfigError, PromotionError
from hone.recipe.gate import Figure, evaluation_against, evaluation_against_base, proof_figure, retention_figure
from hone.registry.aliases import AliasTarget, find_alias, move_alias
from hone.registry.names import check_alias
from hone.registry.versions import Version, resolve_version, verify_version
from hone.types import JsonDict

__all__ = ["promote"]


def promote(
    reference: str,
    alias: str,
    *,
    home: Path,
    recorder: Recorder,
    force: bool = False,
    reason: str | None = None,
    options: Mapping[str, Any] | None = None,
) -> JsonDict:
    """Put an alias on a version, if the gate lets it pass.

    Args:
        reference: the version, as ``support@4``.
        alias: as ``production``.
        home: hone's home folder.
        recorder: receives events.
        force: move it though figures failed; which ones, and the reason, stand in the history. Damaged files are
            refused all the same.
        reason: why; needed with ``force``.
        options: device and dtype of the evaluation, where they are given.

    Returns:
        ``version``, ``alias``, ``was`` (what stood there, None for nothing), ``moved``, ``forced``, ``reason``,
        ``generation`` and ``figures``.

    Raises:
        PromotionError: a figure failed, and it is not forced; each is named.
        StorageError: its files are not those that were registered, or somebody else moved the alias meanwhile.
        HoneError: there is no such version, or a name breaks the rule.
    """
    check_alias(alias)
    if force and not reason:
        raise ConfigError(
            "--force needs a reason",
            where="--reason",
            why="who looks at the history later must know why a version went past the gate",
            remedy='as --reason "the old one answers with last year\'s prices"',
        )
    version = resolve_version(home, reference)
    verify_version(version)
    standing = find_alias(home, f"{version.name}@{alias}")
    if standing is not None and standing.number == version.number:
        return _outcome(version, alias, standing, standing, [], moved=False, reason=None)
    figures = _figures(version, standing, home=home, recorder=recorder, options=options or {})
    failed = [figure for figure in figures if figure.holds is False]
    if failed and not force:
        raise _refused(version, alias, figures, failed)
    gate = {
        "against": None if standing is None else standing.reference,
        "figures": [_without_answers(figure.to_json()) for figure in figures],
    }
    moved = move_alias(
        home, version.name, alias, version.number, seen=0 if standing is None else standing.generation,
        forced=bool(failed), reason=reason, gate=gate,
    )  # fmt: skip
    return _outcome(version, alias, standing, moved, figures, moved=True, reason=reason)


def _figures(
    version: Version, standing: AliasTarget | None, *, home: Path, recorder: Recorder, options: Mapping[str, Any]
) -> list[Figure]:
    if standing is None or standing.number is None:
        evaluation = evaluation_against_base(version)
    else:
        current = resolve_version(home, standing.reference)
        evaluation = evaluation_against(version, current, home=home, recorder=recorder, options=options)
    return [proof_figure(version), evaluation, retention_figure(version)]


def _without_answers(figure: JsonDict) -> JsonDict:
    """The figure as the history keeps it: counts of flipped answers in place of their texts."""
    numbers = figure["numbers"] or {}
    compared = numbers.get("comparison")
    if not compared:
        return figure
    better = sum(row["better"] for row in compared["flipped"])
    counts = {"better": better, "worse": len(compared["flipped"]) - better}
    return {**figure, "numbers": {**numbers, "comparison": {**compared, "flipped": counts}}}


def _refused(version: Version, alias: str, figures: list[Figure], failed: list[Figure]) -> PromotionError:
    details = []
    for figure in figures:
        word = {True: "holds", False: "fails", None: "passed over"}[figure.holds]
        details.append(f"{figure.name} {word}: {figure.found}")
        details += [f"{figure.name}: {line}" for line in figure.details if figure.holds is False]
    names = " and ".join(figure.name for figure in failed)
    return PromotionError(
        f"{version.reference} is not promoted to {alias}: {names} failed",
        details=details,
        why="whoever asks the alias would get worse answers, or answers that nobody has measured",
        remedy=f"train again, or move it all the same: hone models promote {version.reference} {alias} "
        '--force --reason "WHY"',
    )


def _outcome(
    version: Version,
    alias: str,
    was: AliasTarget | None,
    now: AliasTarget,
    figures: list[Figure],
    *,
    moved: bool,
    reason: str | None,
) -> JsonDict:
    return {
        "schema": 1,
        "version": version.reference,
        "alias": f"{version.name}@{alias}",
        "was": None if was is None else was.reference,
        "moved": moved,
        "forced": any(figure.holds is False for figure in figures),
        "reason": reason,
        "generation": now.generation,
        "figures": [figure.to_json() for figure in figures],
    }
