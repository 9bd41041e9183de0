"""What differs between two versions: data by content hash, options, figures with intervals, answers that flipped.

Nothing is computed by a model: all of it stands in the registry and in the runs' folders. What is not there any more
is None in the result, and said.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hone.config.load import load_config
from hone.config.schema import RunConfig
from hone.errors import ConfigError
from hone.evaluation.head_to_head import compare_answers
from hone.evaluation.scorers import METRICS
from hone.recipe.head_to_head import shape_of_json
from hone.registry.versions import Version, resolve_version
from hone.types import JsonDict

__all__ = ["diff_versions"]

_TRAINED = ("train", "validation")
_PARTS = (*_TRAINED, "held_out")


def diff_versions(old: str, new: str, *, home: Path) -> JsonDict:
    """Compare two versions.

    Args:
        old: the one to begin from, as ``support@2``.
        new: the other.
        home: hone's home folder.

    Returns:
        ``old`` and ``new``; ``origin`` (base, template and code where they differ); ``data`` with the rows ``added``,
        ``removed``, ``changed`` and ``moved`` for training and held-out rows; ``config``; ``scores`` of each on its own
        held-out rows; and ``answers``, the comparison on rows that both answered.

    Raises:
        VersionError: there is no such version.
    """
    before, after = resolve_version(home, old), resolve_version(home, new)
    return {
        "schema": 1,
        "old": before.reference,
        "new": after.reference,
        "origin": _origin(before, after),
        "data": _data(before.data_manifest, after.data_manifest),
        "config": _config(before, after),
        "scores": {one.reference: _score(one) for one in (before, after)},
        "answers": _answers(before, after),
    }


def _origin(before: Version, after: Version) -> JsonDict:
    facts = {
        "base": (before.base_hash, after.base_hash),
        "template": (before.template_hash, after.template_hash),
        "parent": (before.parent, after.parent),
    }
    code = _flat(before.code or {}), _flat(after.code or {})
    facts |= {f"code.{key}": (code[0].get(key), code[1].get(key)) for key in sorted(code[0].keys() | code[1].keys())}
    return {key: {"old": one, "new": other} for key, (one, other) in facts.items() if one != other}


def _data(before: Mapping[str, Any], after: Mapping[str, Any]) -> JsonDict:
    """Rows of one that the other has not, by content hash; two of them that ask the same are one changed row."""
    old, new = _rows(before), _rows(after)
    added = [row for sha256, row in new.items() if sha256 not in old]
    removed = [row for sha256, row in old.items() if sha256 not in new]
    prompts_known = all("prompt_sha256" in row for row in (*old.values(), *new.values()))
    changed = []
    if prompts_known:
        asked = {row["prompt_sha256"]: row for row in removed}
        for row in list(added):
            if (twin := asked.pop(row["prompt_sha256"], None)) is not None:
                changed.append({"old": twin, "new": row})
                added.remove(row)
                removed.remove(twin)
    moved = [
        {"old": old[sha256], "new": row}
        for sha256, row in new.items()
        if sha256 in old and (old[sha256]["part"] == "held_out") != (row["part"] == "held_out")
    ]
    return {
        "rows": {"old": len(old), "new": len(new), "same": len(old.keys() & new.keys())},
        "added": added,
        "removed": removed,
        "changed": changed if prompts_known else None,
        "moved": moved,
        "sources": {"old": _sources(before), "new": _sources(after)},
    }


def _rows(manifest: Mapping[str, Any]) -> dict[str, JsonDict]:
    """Every row by its hash, with its part; of equal rows the first."""
    rows: dict[str, JsonDict] = {}
    for part in _PARTS:
        for row in manifest[part]:
            rows.setdefault(row["sha256"], {**row, "part": part})
    return rows


def _sources(manifest: Mapping[str, Any]) -> list[JsonDict]:
    named = [manifest[key] for key in ("source", "held_out_source") if key in manifest]
    return [{"name": one["name"], "sha256": one["sha256"]} for one in named]


def _config(before: Version, after: Version) -> JsonDict | None:
    """Options with other values; None where a config is not there any more."""
    configs = [_options(one) for one in (before, after)]
    if configs[0] is None or configs[1] is None:
        return None
    old, new = configs[0], configs[1]
    return {key: {"old": old.get(key), "new": new.get(key)} for key in old if old.get(key) != new.get(key)}


def _options(version: Version) -> JsonDict | None:
    try:
        config = load_config(RunConfig, {}, file=version.run_folder / "config.yaml")
    except ConfigError:
        return None
    return config.model_dump(mode="json", by_alias=True)


def _score(version: Version) -> JsonDict | None:
    evaluation = version.evaluation
    if not evaluation or "tuned" not in evaluation["arms"]:
        return None
    arm = evaluation["arms"]["tuned"]
    metric = evaluation["metrics"][evaluation["metric"]]
    return {
        "metric": metric["name"],
        "title": metric["title"],
        "score": arm["score"],
        "interval": arm["interval"],
        "rows": evaluation["rows"],
    }


def _answers(before: Version, after: Version) -> JsonDict:
    """Both versions' stored answers to the rows that both were judged on."""
    stored = [_stored_answers(one) for one in (before, after)]
    if stored[0] is None or stored[1] is None or not before.evaluation:
        missing = [one.reference for one, rows in zip((before, after), stored, strict=True) if rows is None]
        return {"rows": 0, "comparison": None, "why_not": f"no answers are stored of {' and '.join(missing)}"}
    metric, why_not = _metric_of_texts(before, after)
    if metric is None:
        return {"rows": 0, "comparison": None, "why_not": why_not}
    old, new = stored[0], stored[1]
    both = [key for key in old if key in new]
    if not both:
        return {"rows": 0, "comparison": None, "why_not": "they have no held-out row in common"}
    found = compare_answers(
        shape_of_json(before.evaluation["shape"]),
        [prompt for prompt, _ in both],
        [reference for _, reference in both],
        old=[old[key] for key in both],
        new=[new[key] for key in both],
        metric=metric,
        clusters=[prompt for prompt, _ in both],
    )
    return {"rows": len(both), "comparison": found.to_json(), "why_not": None}


def _metric_of_texts(before: Version, after: Version) -> tuple[str | None, str]:
    """The old version's first metric that texts give; None with the reason where one was judged by none such.

    Preference accuracy and rewards need a model. Of pairs not even the texts are all there: few prompts are answered.
    """
    chosen, untold = [], {}
    for one in (before, after):
        evaluation = one.evaluation or {"metric": "", "metrics": {}}
        known = [name for name in (evaluation["metric"], *evaluation["metrics"]) if name in METRICS]
        chosen.append(known[0] if known else None)
        if one.evaluation and not known:
            untold[one.reference] = evaluation["metrics"][evaluation["metric"]]["title"].lower()
    if untold:
        judged = " and ".join(f"{name} by {title}" for name, title in untold.items())
        return None, f"the texts of their answers were not what was judged: {judged}"
    return chosen[0], ""


def _stored_answers(version: Version) -> dict[tuple[str, str], str] | None:
    """The tuned model's answers by what was asked and what was wanted; None where they are not stored."""
    try:
        lines = (version.run_folder / "answers.jsonl").read_text(encoding="utf-8").splitlines()
        rows = [json.loads(line) for line in lines]
        return {(row["prompt"], row["reference"]): row["answers"]["tuned"] for row in rows}
    except (OSError, ValueError, KeyError):
        return None


def _flat(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, inner in value.items():
        name = f"{prefix}{key}"
        flat |= _flat(inner, f"{name}.") if isinstance(inner, Mapping) else {name: inner}
    return flat
