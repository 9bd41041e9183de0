"""A version goes on: trained further on new rows beside a sample of the old ones, or anew without some of them.

Afterwards the version that it went on from and the new one answer the old and the new held-out rows, so that what the
update broke is seen.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from hone.config.continuing import ContinueConfig
from hone.config.schema import RunConfig
from hone.engine.events import Event, Recorder
from hone.errors import ConfigError
from hone.files import write_json
from hone.recipe.composition import Composition, compose
from hone.recipe.head_to_head import answer_rows, compare_on_rows
from hone.recipe.old_rows import options_of_version
from hone.recipe.run import run
from hone.recipe.starting import require_continuable
from hone.registry.versions import Version, resolve_version
from hone.types import JsonDict

__all__ = ["continue_version"]

# Options of the version that its successor keeps; all others follow from the rows, or are given.
_KEPT = (
    "model", "quantize", "reference_path", "metric", "max_new_tokens", "weight_decay", "max_gradient_norm",
    "learning_rate_ratio", "early_stop", "arms", "instruction", "documents", "keep", "probes", "retention",
    "lm_eval", "lm_eval_limit",
)  # fmt: skip
_KEPT_ANEW = ("adaptation", "layers", "add_tokens", "rank", "alpha")
_GIVEN = ("allow_few_rows", "epochs", "max_steps", "batch_size", "learning_rate", "validation", "max_new_tokens",
          "seed", "device", "dtype")  # fmt: skip


def continue_version(
    config: ContinueConfig, *, home: Path, recorder: Recorder, should_stop: Callable[[], bool] = lambda: False
) -> JsonDict:
    """Train the next version from a version.

    Args:
        config: which version, with which rows.
        home: hone's home folder.
        recorder: receives events.
        should_stop: asked after each training step.

    Returns:
        The result of the run, and ``update``: the lineage, and both versions on the ``old`` and the ``new`` held-out
        rows. It stands in ``update.json`` of the run's folder too.

    Raises:
        HoneError: as its parts do.
    """

    def note(text: str) -> None:
        recorder.record(Event("note", {"text": text}))

    version = resolve_version(home, config.version)
    if config.without is None:
        require_continuable(version)
    elif config.replay is not None:
        raise ConfigError(
            "has no meaning together with --without", where="--replay", why="all old rows that stay are trained on anew"
        )
    composed = compose(config, version, home=home, note=note)
    rows = composed.lineage["rows"]
    note(
        f"{rows['new']} new rows and {rows['replayed']} of {rows['old']} old ones "
        f"({composed.lineage['replay_share']:.0%}), from {composed.lineage['starts_from']}"
    )
    result = run(_run_config(config, version, composed), home=home, recorder=recorder, should_stop=should_stop)
    options = {name: value for name in ("device", "dtype") if (value := getattr(config, name)) is not None}
    update = {"lineage": composed.lineage} | _compare(
        version, result["version"], composed, home=home, recorder=recorder, options=options,
        max_new_tokens=result["generation"]["max_new_tokens"],
    )  # fmt: skip
    write_json(Path(result["run_dir"]) / "update.json", update)
    return result | {"update": update}


def _run_config(config: ContinueConfig, version: Version, composed: Composition) -> RunConfig:
    before = options_of_version(version)
    kept = [*_KEPT, *(() if config.without is None else _KEPT_ANEW)]
    values: dict[str, Any] = {name: getattr(before, name) for name in kept}
    values |= {name: value for name in _GIVEN if (value := getattr(config, name)) is not None}
    values |= {"data": str(composed.rows), "evaluation_data": str(composed.held_out), "name": version.name}
    if config.without is None:
        values["start_from"] = version.reference
    return RunConfig.model_validate(values)


def _compare(
    version: Version,
    successor: str,
    composed: Composition,
    *,
    home: Path,
    recorder: Recorder,
    options: Mapping[str, Any],
    max_new_tokens: int,
) -> JsonDict:
    """Both versions on the old and on the new held-out rows."""
    compared: JsonDict = {}
    newer = resolve_version(home, successor)
    for part in ("old", "new"):
        path = composed.held_out_part(part)
        if path is None:
            compared[part] = None
            continue
        recorder.record(Event("stage", {"name": "update", "detail": f"{version.reference}, {part} held-out rows"}))
        answers = [
            answer_rows(
                one.reference, path, home=home, recorder=recorder, options=options, max_new_tokens=max_new_tokens
            )
            for one in (version, newer)
        ]
        found = compare_on_rows(
            path, f"the {part} held-out rows", old=answers[0], new=answers[1], trained=[version, newer], metric=None
        )
        compared[part] = found.to_json()
    return compared
