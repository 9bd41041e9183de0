"""A job as the options of ``hone run``: what was asked for by the words of OpenAI's API, by those of hone."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hone.config.load import load_config
from hone.config.schema import RunConfig
from hone.data.loader import load_examples
from hone.errors import BadInputError, DataError
from hone.evaluation.grading import parts_of
from hone.planning.choose import PREFERENCE_RATE_FACTOR, default_learning_rate
from hone.planning.rollouts import POLICY_RATE_FACTOR
from hone.recipe.planner import FREE_TEXT
from hone.recipe.preference import resolve_options
from hone.recipe.rows import shape_of_answers
from hone.registry.job_rows import Job
from hone.registry.names import slug, version_name_for
from hone.registry.uploads import find_upload, upload_path
from hone.serve.hyperparameters import auto_epochs
from hone.types import Example, JsonDict

__all__ = ["rate_multiplier", "resolved_numbers", "run_config", "unused_numbers"]

_METHODS = {"supervised": "sft", "dpo": "dpo", "reinforcement": "grpo"}
_RATE_FACTORS = {"supervised": 1.0, "dpo": PREFERENCE_RATE_FACTOR, "reinforcement": POLICY_RATE_FACTOR}
_GROUP_SIZE = 8
_UNUSED = {"eval_interval": "auto", "eval_samples": "auto", "reasoning_effort": "default"}


def run_config(job: Job, folder: Path, *, bases: Mapping[str, str], home: Path) -> RunConfig:
    """The options of a job's run.

    Args:
        job: as it was submitted.
        folder: of the run.
        bases: bases by their names on the wire.
        home: hone's home folder.

    Raises:
        BadInputError: its base is not served any more.
        DataError: its file is gone, or no row of it can be used.
    """
    spec = job.spec
    if spec["model"] not in bases:
        raise BadInputError(f"Model {spec['model']} is not available for fine-tuning on this server any more")
    upload = find_upload(home, spec["training_file"])
    if upload is None:
        raise DataError(f"No such File object: {spec['training_file']}")
    kind, numbers = spec["method"]["type"], {name: _chosen(value) for name, value in _numbers(spec).items()}
    data, rate = str(upload_path(home, spec["training_file"])), numbers["learning_rate_multiplier"]
    examples = [] if kind == "reinforcement" else load_examples(data, preferences=kind == "dpo").examples
    if rate is not None:
        rate *= _base_rate(bases[spec["model"]], examples if kind == "supervised" else (), home) * _RATE_FACTORS[kind]
    asked = {
        "data": data,
        "model": bases[spec["model"]],
        "method": _METHODS[kind],
        "output": folder,
        "name": slug(spec["suffix"]) or version_name_for(upload.filename),
        "epochs": numbers["n_epochs"],
        "batch_size": numbers["batch_size"],
        "learning_rate": rate,
        "seed": spec["seed"],
        "eval": str(upload_path(home, spec["validation_file"])) if spec["validation_file"] else None,
    }
    if kind == "reinforcement":
        asked |= _of_reinforcement(spec, numbers)
    elif asked["epochs"] is None:
        asked["epochs"] = auto_epochs(len(examples))
    if kind == "dpo":
        asked["beta"] = numbers["beta"]
    return load_config(RunConfig, asked)


def resolved_numbers(config: RunConfig, *, multiplier: float) -> JsonDict:
    """What the hyperparameters of a job became, by their names in the API.

    Args:
        config: as the run has it, with every number chosen.
        multiplier: of the learning rate.
    """
    numbers: JsonDict = {
        "n_epochs": config.epochs,
        "batch_size": config.batch_size,
        "learning_rate_multiplier": multiplier,
    }
    if config.method == "dpo":
        numbers["beta"] = resolve_options(config, config.method, ()).beta
    if config.method == "grpo":
        numbers["compute_multiplier"] = (config.group_size or _GROUP_SIZE) / _GROUP_SIZE
    return numbers


def rate_multiplier(spec: Mapping[str, Any]) -> float:
    """The multiplier of the learning rate that a job asks for; 1 where that is left open."""
    return float(_chosen(_numbers(spec)["learning_rate_multiplier"]) or 1.0)


def unused_numbers(spec: Mapping[str, Any]) -> list[str]:
    """The hyperparameters that a job asks for and that change nothing here."""
    numbers = _numbers(spec)
    return [name for name, usual in _UNUSED.items() if numbers.get(name, usual) != usual]


def _of_reinforcement(spec: Mapping[str, Any], numbers: Mapping[str, Any]) -> JsonDict:
    """The grader with the models that it asks by hone's names, and how many answers a prompt gets."""
    inside = spec["grader_models"]
    grader: JsonDict = copy.deepcopy(spec["method"]["reinforcement"]["grader"])
    for part in parts_of(grader):  # of a copy: a job shows its grader as it was sent
        if part["type"] == "score_model":
            part["model"] = inside[part["model"]]
    multiplier = numbers["compute_multiplier"]
    size = None if multiplier is None else max(2, round(_GROUP_SIZE * multiplier))
    return {"reward": json.dumps(grader, ensure_ascii=False), "group_size": size}


def _base_rate(base: str, examples: Sequence[Example], home: Path) -> float:
    """What a multiplier of 1 stands for: the rate that ``hone run`` chooses."""
    from hone.model.outline import load_outline
    from hone.model.quantize import count_parameters

    outline = load_outline(base, home=home, dtype=None, note=lambda _text: None)
    free_text = bool(examples) and shape_of_answers(examples).kind in FREE_TEXT
    return default_learning_rate(count_parameters(outline.model), free_text=free_text)


def _chosen(value: Any) -> Any:
    return None if value == "auto" else value


def _numbers(spec: Mapping[str, Any]) -> JsonDict:
    """The hyperparameters of a job, as they were asked for."""
    method = spec["method"]
    numbers: JsonDict = method[method["type"]]["hyperparameters"]
    return numbers
