"""What a fine-tuning job may ask for, and what ``auto`` becomes.

Source: the OpenAI API reference, fine-tuning jobs; the rule for ``n_epochs`` is its guide's.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from hone.serve.wire import ApiError
from hone.types import JsonDict

__all__ = ["JobRequest", "auto_epochs", "job_spec", "with_resolved"]

_WANTED_EPOCHS = 3
_FEWEST_EXAMPLES = 100
_MOST_EXAMPLES = 25_000
_MOST_EPOCHS = 25

_Auto = Literal["auto"]
_Loose = ConfigDict(extra="forbid")


class _Supervised(BaseModel):
    model_config = _Loose
    batch_size: _Auto | Annotated[int, Field(ge=1, le=256)] = "auto"
    learning_rate_multiplier: _Auto | Annotated[float, Field(gt=0, le=1000, allow_inf_nan=False)] = "auto"
    n_epochs: _Auto | Annotated[int, Field(ge=1, le=50)] = "auto"


class _Preference(_Supervised):
    beta: _Auto | Annotated[float, Field(gt=0, le=2)] = "auto"


class _Reinforcement(_Supervised):
    compute_multiplier: _Auto | Annotated[float, Field(gt=0, le=10)] = "auto"
    eval_interval: _Auto | Annotated[int, Field(ge=1)] = "auto"
    eval_samples: _Auto | Annotated[int, Field(ge=1)] = "auto"
    reasoning_effort: Literal["default", "low", "medium", "high"] = "default"


class _SupervisedMethod(BaseModel):
    model_config = _Loose
    hyperparameters: _Supervised | None = None


class _PreferenceMethod(BaseModel):
    model_config = _Loose
    hyperparameters: _Preference | None = None


class _ReinforcementMethod(BaseModel):
    model_config = _Loose
    grader: dict[str, Any]
    response_format: dict[str, Any] | None = None
    hyperparameters: _Reinforcement | None = None


class _Method(BaseModel):
    model_config = _Loose
    type: Literal["supervised", "dpo", "reinforcement"]
    supervised: _SupervisedMethod | None = None
    dpo: _PreferenceMethod | None = None
    reinforcement: _ReinforcementMethod | None = None


class _WeightsAndBiases(BaseModel):
    model_config = _Loose
    project: Annotated[str, Field(max_length=256)]
    entity: Annotated[str, Field(max_length=256)] | None = None
    name: Annotated[str, Field(max_length=256)] | None = None
    tags: Annotated[list[Annotated[str, Field(max_length=256)]], Field(max_length=64)] | None = None


class _Integration(BaseModel):
    model_config = _Loose
    type: Literal["wandb"]
    wandb: _WeightsAndBiases


class JobRequest(BaseModel):
    """The body of ``POST /v1/fine_tuning/jobs``."""

    model_config = _Loose

    model: Annotated[str, Field(min_length=1, max_length=256, description="The base to fine-tune.")]
    training_file: Annotated[str, Field(min_length=1, max_length=256, description="Id of an uploaded file.")]
    validation_file: Annotated[str, Field(min_length=1, max_length=256)] | None = None
    hyperparameters: _Supervised | None = Field(None, description="As in method; the older place for them.")
    method: _Method | None = None
    suffix: Annotated[str, Field(max_length=64)] | None = Field(None, description="A part of the model's name.")
    seed: Annotated[int, Field(ge=0, lt=2**31)] | None = None
    metadata: (
        Annotated[
            dict[Annotated[str, Field(max_length=64)], Annotated[str, Field(max_length=512)]], Field(max_length=16)
        ]
        | None
    ) = None
    integrations: Annotated[list[_Integration], Field(max_length=8)] | None = None


def job_spec(request: JobRequest) -> JsonDict:
    """What a job's row keeps of a request, with every default filled in.

    Raises:
        ApiError: it asks for reinforcement without a grader, or with a response_format.
    """
    kind = request.method.type if request.method else "supervised"
    chosen: _SupervisedMethod | _PreferenceMethod | _ReinforcementMethod | None = None
    if request.method:
        chosen = {"dpo": request.method.dpo, "reinforcement": request.method.reinforcement}.get(
            kind, request.method.supervised
        )
    numbers = (chosen and chosen.hyperparameters) or request.hyperparameters or _Supervised()
    if kind != "supervised":
        numbers = (_Preference if kind == "dpo" else _Reinforcement)(**numbers.model_dump())
    method: JsonDict = {"hyperparameters": numbers.model_dump()}
    if kind == "reinforcement":
        method = {"grader": _grader(chosen), **method}
    return {
        "model": request.model,
        "training_file": request.training_file,
        "validation_file": request.validation_file,
        "suffix": request.suffix or "",
        "method": {"type": kind, kind: method},
        "seed": request.seed or 0,
        "metadata": request.metadata,
        "integrations": [one.model_dump() for one in request.integrations or ()],
    }


def _grader(method: object) -> JsonDict:
    """What answers are graded by.

    Raises:
        ApiError: there is none, or answers are to be of a form that rollouts are not held to.
    """
    place = "method.reinforcement"
    if not isinstance(method, _ReinforcementMethod):
        raise ApiError("The method 'reinforcement' needs a grader.", param=f"{place}.grader", code="missing_grader")
    if method.response_format is not None:
        raise ApiError(
            "Answers are not held to a response_format while a job trains; let the grader reward the form.",
            param=f"{place}.response_format",
            code="unsupported_parameter",
        )
    return method.grader


def auto_epochs(num_examples: int) -> int:
    """What ``n_epochs: auto`` becomes: 3, more where there are few examples, fewer where there are very many."""
    if _WANTED_EPOCHS * num_examples < _FEWEST_EXAMPLES:
        return min(_MOST_EPOCHS, _FEWEST_EXAMPLES // num_examples)
    if _WANTED_EPOCHS * num_examples > _MOST_EXAMPLES:
        return max(1, _MOST_EXAMPLES // num_examples)
    return _WANTED_EPOCHS


def with_resolved(method: JsonDict, resolved: JsonDict | None) -> tuple[JsonDict, JsonDict]:
    """(method, hyperparameters) of a job as the API shows them, with the numbers that ``auto`` became.

    Args:
        method: of the job's spec.
        resolved: the numbers; None before it runs.
    """
    kind = method["type"]
    numbers = {**method[kind]["hyperparameters"], **(resolved or {})}
    return {"type": kind, kind: {**method[kind], "hyperparameters": numbers}}, numbers
