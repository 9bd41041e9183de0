"""What a training run writes for people and programs to read, beside its weights."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol, TypeVar

from hone.config.load import dump_resolved
from hone.config.schema import TrainConfig
from hone.data.formats import example_to_openai
from hone.data.preferences import PLAIN_PAIR, preference_to_json
from hone.data.tasks import task_to_json
from hone.engine.loop import LoopResult
from hone.errors import ConfigError
from hone.files import sha256_file, write_atomically, write_json
from hone.model.adaptation import Adaptation
from hone.model.fast_layers import FastLayers
from hone.model.load import LoadedModel
from hone.model.machine import peak_device_memory_bytes, peak_memory_bytes
from hone.model.quantize import count_parameters
from hone.planning.choose import TrainingChoices
from hone.proof.invariant import Invariant
from hone.recipe.rows import PreparedRows
from hone.registry.runs import RunFolder
from hone.retrieval import list_documents, read_documents
from hone.types import Example, JsonDict, Preference, Task

__all__ = [
    "PROBE_FILE",
    "describe_base",
    "describe_data",
    "describe_documents",
    "describe_training",
    "held_out_file",
    "say_what_was_used",
    "store_inputs",
    "store_proof",
]

# Options that may name a file or folder.
_PATHS = (
    "data", "model", "evaluation_data", "replay_data", "documents", "output", "reward", "watch_reward", "teacher",
)  # fmt: skip

PROBE_FILE = "probe.safetensors"
"""Log-probabilities of some rows of the training, in the run's folder, for invariants 10 and 11."""

_Config = TypeVar("_Config", bound=TrainConfig)


class _OfRow(Protocol):
    @property
    def row(self) -> int: ...


def held_out_file(folder: RunFolder) -> Path:
    """The rows of the comparison, as OpenAI chat JSONL or as preferences, whatever format they came in."""
    return folder.path / "held_out.jsonl"


def store_inputs(
    folder: RunFolder,
    config: _Config,
    rows: PreparedRows,
    choices: TrainingChoices,
    base: LoadedModel,
    *,
    resumed: bool,
) -> _Config:
    """Write config, ledger, manifest and held-out rows; give the config with every number resolved.

    Raises:
        ConfigError: the training goes on, and its rows are not those that it was begun with.
        StorageError: no space or no permission.
    """
    if resumed:
        _require_same_rows(folder, rows)
    resolved = config.model_copy(
        update={
            "rank": choices.rank,
            "alpha": choices.alpha,
            "learning_rate": choices.learning_rate,
            "epochs": choices.epochs,
            "batch_size": choices.batch_size,
            # not the longest training row: on resuming that would drop held-out rows that are longer, and split anew
            "max_length": config.max_length or base.context_length,
            "warmup_share": choices.warmup_share,
            "micro_batch_tokens": choices.micro_batch_tokens,
            "recompute_layers": choices.recompute_layers,
            "max_steps": choices.max_steps,
            "validation": len(rows.validation),
            # on some processors it is chosen by timing them: a resumed run must not choose again
            "dtype": str(base.dtype).removeprefix("torch."),
        }
    )
    dump_resolved(_with_absolute_paths(resolved), folder.config)
    rows.ledger.write(folder.ledger)
    if rows.held_out_ledger is not None:
        rows.held_out_ledger.write(folder.path / "held_out_ledger.jsonl")
    write_json(folder.manifest, rows.manifest)
    if rows.held_out:
        # a file has one shape of rows: where one of them is no plain pair, all compared answers are rankings
        as_ranking = any(isinstance(one, Preference) and one.ranks not in ((), PLAIN_PAIR) for one in rows.held_out)
        lines = [json.dumps(_row_of(one, as_ranking=as_ranking), ensure_ascii=False) for one in rows.held_out]
        write_atomically(held_out_file(folder), "\n".join(lines) + "\n")
    return resolved


def _require_same_rows(folder: RunFolder, rows: PreparedRows) -> None:
    before: JsonDict = json.loads(folder.manifest.read_text(encoding="utf-8"))
    changed = []
    for part in ("train", "validation", "held_out"):
        was, now = ([row["sha256"] for row in manifest[part]] for manifest in (before, rows.manifest))
        if was != now:
            same = len(set(was) & set(now))
            changed.append(f"{part.replace('_', '-')} rows: {len(was)} when it began, {len(now)} now, {same} the same")
    if changed:
        raise ConfigError(
            "the rows are not those that this run was begun with",
            where=str(rows.manifest["source"]["name"]),
            why="some steps have learned from other rows than the record would say, maybe from those held out now",
            details=changed,
            remedy="put the file back as it was, or begin a new run",
        )


def _row_of(example: Example, *, as_ranking: bool) -> JsonDict:
    if isinstance(example, Task):
        return task_to_json(example)
    if isinstance(example, Preference):
        return preference_to_json(example, as_ranking=as_ranking)
    return example_to_openai(example)


def _with_absolute_paths(config: _Config) -> _Config:
    """So that the run can be resumed or repeated from any working folder; a hub id stays what it is."""
    named = {name: getattr(config, name, None) for name in _PATHS}
    paths = {
        name: Path(value).absolute() for name, value in named.items() if value is not None and os.path.exists(value)
    }
    kept = {name: path if isinstance(named[name], Path) else str(path) for name, path in paths.items()}
    for name in ("reward", "watch_reward"):
        place, mark, function = (getattr(config, name) or "").rpartition(":")
        if place.endswith(".py"):
            kept[name] = f"{Path(place).absolute()}{mark}{function}"
    return config.model_copy(update=kept)


def store_proof(folder: RunFolder, proof: Sequence[Invariant]) -> None:
    """Write ``proof.json``."""
    write_json(folder.proof, [invariant.to_json() for invariant in proof])


def describe_base(base: LoadedModel) -> JsonDict:
    """The ``base`` object of the result; to be asked for before anything is attached."""
    return {
        "name": base.name,
        "hash": base.base_hash,
        "parameters": count_parameters(base.model),
        "architecture": type(base.model).__name__,
        "dtype": str(base.dtype).removeprefix("torch."),
        "device": base.device,
        "context_length": base.context_length,
        "notes": list(base.notes),
    }


def describe_data(rows: PreparedRows) -> JsonDict:
    """The ``data`` object of the result; ``rows = kept + cut + dropped`` of the training file."""
    summary = rows.ledger.summary()
    return {
        "source": rows.manifest["source"]["name"],
        "rows": summary["rows"],
        "kept": summary["kept"],
        "cut": summary["cut"],
        "dropped": summary["dropped"],
        "held_out": len(rows.held_out),
        "train": len(rows.train),
        "validation": len(rows.validation),
        "codes": summary["codes"],
        "held_out_file": (
            rows.held_out_ledger.summary() | {"source": rows.manifest["held_out_source"]["name"]}
            if rows.held_out_ledger
            else None
        ),
    }


def describe_training(
    config: TrainConfig, result: LoopResult, base: LoadedModel, adaptation: Adaptation, fast_layers: FastLayers | None,
    *, items: Sequence[_OfRow],
) -> JsonDict:  # fmt: skip
    """The ``training`` object of the result.

    Args:
        config: as it was resolved.
        result: of the loop.
        base: trained on.
        adaptation: what was trained.
        fast_layers: None on the reference path.
        items: what the loop's steps took their batches from.
    """
    progress = result.progress
    return {
        "method": config.method,
        "adaptation": config.adaptation,
        "steps": progress.step,
        "total_steps": result.total_steps,
        "stopped_early": result.stopped_early,
        "rows_used": len({items[index].row for index in result.taken} - {0}),  # 0: outside of the data
        "tokens": progress.tokens,
        "supervised_tokens": progress.supervised_tokens,
        "seconds": round(progress.seconds, 3),
        "tokens_per_second": round(progress.tokens / progress.seconds, 1) if progress.seconds else None,
        "peak_memory_bytes": peak_memory_bytes(),
        "peak_device_memory_bytes": peak_device_memory_bytes(base.device),
        "best_step": progress.best_step,
        "validation_loss": progress.best_loss,
        "rank": config.rank,
        "alpha": config.alpha,
        "learning_rate": config.learning_rate,
        "epochs": config.epochs,
        "batch_size": config.batch_size,
        "max_length": config.max_length,
        "seed": config.seed,
        "adapted_layers": adaptation.num_parts,
        "fast_layers": None if fast_layers is None else {**asdict(fast_layers), "left": list(fast_layers.left)},
        "quantize": config.quantize,
        "recompute_layers": config.recompute_layers or 0,
        "trained_values": sum(parameter.numel() for parameter in adaptation.parameters().values()),
    }


def describe_documents(folder: Path | None) -> JsonDict | None:
    """Names and hashes of the documents that the user gave.

    Every document is read too, so that what cannot be read is found before the training and not after it.

    Raises:
        HoneError: as for :func:`hone.retrieval.read_documents`.
    """
    if folder is None:
        return None
    read_documents(folder)
    files = {path.relative_to(folder).as_posix(): sha256_file(path) for path in list_documents(folder)}
    return {"folder": str(folder), "files": files}


def say_what_was_used(
    documents: JsonDict | None, evaluation: Mapping[str, Any], training: Mapping[str, Any]
) -> JsonDict | None:
    """The ``documents`` object of a run's result: whether training or an arm of the evaluation has read them.

    Args:
        documents: as :func:`describe_documents` gave it.
        evaluation: the ``evaluation`` object.
        training: the ``training`` object.
    """
    if documents is None:
        return None
    readers = [arm for arm in ("retrieval", "tuned_retrieval") if arm in evaluation["arms"]]
    reason = f"read by the arms {' and '.join(readers)}" if readers else "no arm that reads them was asked for"
    passages = training["passages"]
    if passages is not None:
        reason = f"passages stand in the prompts of {passages['rows']} training rows; {reason}"
    return {**documents, "used": bool(readers) or passages is not None, "reason": reason}
