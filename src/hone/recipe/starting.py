"""Training that begins with the adapter of a version in place of a new one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, TypeVar

from hone.config.schema import TrainConfig
from hone.data.render import Renderer
from hone.errors import ConfigError, ModelError, StorageError
from hone.model.adaptation import Adaptation
from hone.model.adapter_files import adapter_kind, load_adapter, read_adapter_notes
from hone.model.continued import ContinuedAdaptation
from hone.model.forward import Forward
from hone.model.load import LoadedModel
from hone.planning.choose import TrainingChoices
from hone.proof.invariant import Invariant
from hone.recipe.adapting import NewTokens, attach_method
from hone.recipe.inference import make_renderer
from hone.recipe.proving import reproduce
from hone.registry.leftovers import is_composed
from hone.registry.versions import Version, resolve_version, verify_version
from hone.types import AdaptationName, JsonDict

__all__ = [
    "begin_adaptation",
    "check_start",
    "like_start",
    "lineage_of",
    "require_continuable",
    "unlimited_renderer",
]

_Config = TypeVar("_Config", bound=TrainConfig)


def require_continuable(version: Version) -> dict[str, Any]:
    """The adapter's config, where training can go on from it.

    Raises:
        ModelError: it is no low-rank adapter, or it was trained with tokens of its own.
        StorageError: its files are not those that were registered.
    """
    verify_version(version)
    remedy = "train anew on all rows: hone run DATA"
    if not (version.adapter / "adapter_config.json").is_file() or adapter_kind(version.adapter) != "LORA":
        raise ModelError(
            f"{version.reference} is no low-rank adapter (lora, rslora, dora, pissa), and only those can go on",
            where="--start-from",
            remedy=remedy,
        )
    notes = read_adapter_notes(version.adapter)
    if notes.get("method") not in (None, "sft"):
        raise ModelError(
            f"{version.reference} was trained by {notes['method']}, and only supervised fine-tuning goes on",
            where="--start-from",
            remedy=remedy,
        )
    if notes.get("added_tokens"):
        raise ModelError(
            f"{version.reference} was trained with tokens of its own, which a further training cannot take over",
            where="--start-from",
            remedy=remedy,
        )
    config: dict[str, Any] = json.loads((version.adapter / "adapter_config.json").read_text(encoding="utf-8"))
    if not config["lora_alpha"]:
        raise ModelError(
            f"{version.reference} was saved at strength 0, so nothing of its adapter could be trained further",
            where="--start-from",
            remedy=remedy,
        )
    return config


def like_start(config: _Config, *, home: Path) -> _Config:
    """The options with rank, alpha and adaptation of the version that training begins with; as they are without one.

    Raises:
        ConfigError: another rank, alpha or adaptation, or further tokens, were asked for.
        HoneError: there is no such version, or training cannot go on from it.
    """
    if config.start_from is None:
        return config
    version = resolve_version(home, config.start_from)
    adapter = require_continuable(version)
    rank, alpha = int(adapter["r"]), float(adapter["lora_alpha"])
    if adapter.get("use_rslora"):
        alpha = alpha * rank**0.5
    own: AdaptationName = "dora" if adapter.get("use_dora") else "lora"
    problems = [
        f"{option} {asked} was asked for, and {version.reference} has {has}"
        for option, asked, has in (("--rank", config.rank, rank), ("--alpha", config.alpha, alpha))
        if asked is not None and asked != has
    ]
    if config.adaptation not in ("lora", own):
        problems.append(f"--adaptation {config.adaptation} was asked for, and {version.reference} goes on as {own}")
    if config.method not in (None, "sft"):
        problems.append(f"--method {config.method} was asked for, and only supervised fine-tuning goes on")
    problems += ["--add-tokens cannot be given"] if config.add_tokens else []
    problems += ["--layers cannot be given"] if config.layers else []
    if problems:
        raise ConfigError(
            f"the adapter of {version.reference} goes on as it is",
            where="--start-from",
            details=problems,
            remedy="leave these options out; or train a new adapter on top of the version: "
            f"--model {version.reference} in place of --start-from",
        )
    # the number stays where the user named the newest version or an alias, which may move
    return config.model_copy(update={"start_from": version.reference, "rank": rank, "alpha": alpha, "adaptation": own})


def _attach_start(config: TrainConfig, base: LoadedModel, *, home: Path) -> ContinuedAdaptation:
    """Put the version's adapter on the base, to be trained further.

    Raises:
        ModelError: the base is another one.
        StorageError: the adapter's files are not those that were registered.
    """
    assert config.start_from is not None, "asked for only where there is one"
    version = resolve_version(home, config.start_from)
    require_continuable(version)
    if version.base_hash != base.base_hash:
        raise ModelError(
            f"{version.reference} was trained on another base than {base.name}",
            where="--start-from",
            details=[f"hash of its base {version.base_hash[:16]}, of this one {base.base_hash[:16]}"],
            why="an adapter on another base gives answers that nobody has measured",
            remedy=f"use --model {version.base_name}",
        )
    load_adapter(base.model, version.adapter)
    return ContinuedAdaptation(base.model, title="DoRA" if config.adaptation == "dora" else "LoRA")


def check_start(
    found: list[Invariant], config: TrainConfig, base: LoadedModel, renderer: Renderer, *, home: Path, forward: Forward
) -> list[Invariant]:
    """Where training begins with a version, another invariant 6: the model equals that version, by its stored probe.

    Args:
        found: the invariants before training.
        config: names the version, or none.
        base: with its adapter.
        renderer: of the rows.
        home: hone's home folder.
        forward: the path of training, inside its block.

    Returns:
        The invariants by number; without 6 where the version was made before probes were stored.
    """
    if config.start_from is None:
        return found
    version = resolve_version(home, config.start_from)
    others = [one for one in found if one.number != 6]
    begun = reproduce(version.adapter, base.model, unlimited_renderer(base, renderer), forward=forward)
    if begun is None:
        return others
    sixth = Invariant(6, f"at the start the model equals {version.reference}", begun.holds, begun.measured, begun.bound,
                      begun.checked, "train anew on all rows: hone run DATA", begun.found)  # fmt: skip
    return sorted([*others, sixth], key=lambda one: one.number)


def unlimited_renderer(base: LoadedModel, renderer: Renderer) -> Renderer:
    """The renderer of a version in the making, with no limit on the length but the context."""
    thinking = bool(renderer.describe()["thinking"])
    return make_renderer(base, (), max_length=None, note=lambda _text: None, thinking=thinking)


def begin_adaptation(
    config: TrainConfig, base: LoadedModel, choices: TrainingChoices, new_tokens: NewTokens | None, *, home: Path
) -> Adaptation:
    """Put on the base what is to be trained: the adapter of a version, or a new one.

    Raises:
        HoneError: as :func:`hone.recipe.adapting.attach_method`; or training cannot go on from the version.
    """
    if config.start_from is None:
        return attach_method(config, base, choices, new_tokens, home=home)
    return _attach_start(config, base, home=home)


def lineage_of(config: TrainConfig, *, home: Path, num_rows: int) -> JsonDict | None:
    """Where the version of a run comes from; None straight from its base.

    Args:
        config: of the run, as :func:`like_start` gave it.
        home: hone's home folder.
        num_rows: rows that it was trained on.

    Raises:
        StorageError: its rows were composed, and the file that says of what is damaged.
    """
    if is_composed(home, config.data):
        path = Path(config.data).parent / "lineage.json"
        try:
            composed: JsonDict = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise StorageError(
                f"cannot be read: {error}", where=str(path), remedy="continue the version anew"
            ) from error
        return composed
    if config.start_from is None:
        return None
    return {
        "parent": config.start_from,
        "relation": "continued",
        "starts_from": config.start_from,
        "rows": {"old": None, "replayed": 0, "new": num_rows, "held_out_old": 0, "held_out_new": None},
        "replay_share": 0.0,
        "seed": config.seed,
        "new_data": None,
        "forgotten": [],
    }
