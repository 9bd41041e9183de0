"""``/v1/fine_tuning/alpha/graders``: try a grader on an answer, or only see whether it could run."""

from __future__ import annotations

import time
from typing import Annotated, Any

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field

from hone.evaluation.grading import AnswerChat, Grading, check_grader, grade
from hone.serve.settings import ServerSettings
from hone.serve.wire import ERROR_RESPONSES
from hone.types import JsonDict

__all__ = ["AnswerChat", "GraderRun", "GraderValidation", "graders_router"]

_FLAGS = (
    "formula_parse_error", "sample_parse_error", "truncated_observation_error", "unresponsive_reward_error",
    "invalid_variable_error", "other_error", "python_grader_server_error", "python_grader_runtime_error",
    "model_grader_server_error", "model_grader_refusal_error", "model_grader_parse_error",
)  # fmt: skip
_DETAILS = (
    "python_grader_server_error_type", "python_grader_runtime_error_details", "model_grader_server_error_details",
)  # fmt: skip


class GraderValidation(BaseModel):
    """The body of ``POST .../validate``."""

    model_config = ConfigDict(extra="forbid")

    grader: dict[str, Any]


class GraderRun(GraderValidation):
    """The body of ``POST .../run``."""

    model_sample: Annotated[str, Field(description="The answer to be graded.")]
    item: Any = None
    reference_answer: Any = None


def graders_router(settings: ServerSettings, answer_chat: AnswerChat | None) -> APIRouter:
    """The routes of graders."""
    router = APIRouter(prefix="/v1/fine_tuning/alpha/graders", tags=["graders"], responses=ERROR_RESPONSES)

    @router.post("/validate")
    def validate(asked: GraderValidation) -> JsonDict:
        """See whether a grader could run."""
        check_grader(asked.grader)
        return {"grader": asked.grader}

    @router.post("/run")
    def run(asked: GraderRun) -> JsonDict:
        """Grade an answer."""
        check_grader(asked.grader)
        began = time.perf_counter()
        item = asked.item
        if asked.reference_answer is not None and (item is None or isinstance(item, dict)):
            item = {"reference_answer": asked.reference_answer, **(item or {})}
        grading = Grading.of(
            asked.model_sample, item, answer_chat=answer_chat, run_programs=settings.run_python_graders
        )
        reward, parts = grade(asked.grader, grading)
        return _run_object(asked.grader, grading, reward, parts, time.perf_counter() - began)

    return router


def _run_object(grader: JsonDict, grading: Grading, reward: float, parts: dict[str, float], seconds: float) -> JsonDict:
    errors: JsonDict = {name: name in grading.errors for name in _FLAGS}
    errors |= {name: grading.details.get(name) for name in _DETAILS}
    return {
        "reward": reward,
        "sub_rewards": parts,
        "model_grader_token_usage_per_model": {},
        "metadata": {
            "name": grader["name"],
            "type": grader["type"],
            "errors": errors,
            "execution_time": round(seconds, 6),
            "scores": parts or {grader["name"]: reward},
            "token_usage": None,
            "sampled_model_name": grader["model"] if grader["type"] == "score_model" else None,
        },
    }
