"""The models that score_model graders ask in training: versions and bases of this machine, and endpoints."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from hone.errors import ModelError
from hone.evaluation.grading import JudgeError
from hone.model.endpoint import Endpoint, ask_endpoint, parse_endpoint
from hone.model.generate import generate
from hone.recipe.arm_answers import KEY_VARIABLE
from hone.recipe.inference import Answerer, load_answerer
from hone.recipe.judge_request import judge_request, judge_settings, judge_turns
from hone.types import JsonDict

__all__ = ["GraderJudges"]


@dataclass
class GraderJudges:
    """Judges, each loaded when it is first asked.

    Args:
        home: hone's home folder.
        device: on which they answer; chosen where None.
        dtype: of their weights; chosen where None.
        note: receives sentences for the user.
    """

    home: Path
    device: str | None
    dtype: str | None
    note: Callable[[str], None]
    _loaded: dict[str, Answerer] = field(default_factory=dict)

    def answer(self, model: str, messages: list[JsonDict], sampling: JsonDict) -> str:
        """What a judge says: an :data:`hone.evaluation.grading.AnswerChat`.

        Args:
            model: a version, a base, or ``URL#MODEL``.
            messages: of the grader, filled.
            sampling: its sampling_params.

        Raises:
            JudgeError: it cannot be asked about this answer, or its endpoint refuses that.
            VersionError, ModelError: there is no such model.
            HoneError: its endpoint cannot be reached.
        """
        endpoint = parse_endpoint(model)
        if endpoint is not None:
            return _endpoint_answer(endpoint, messages, sampling)
        if model not in self._loaded:
            self._loaded[model] = load_answerer(
                model, home=self.home, device=self.device, dtype=self.dtype, note=self.note
            )
        judge = self._loaded[model]
        prompt, settings = judge_request(
            messages, sampling, renderer=judge.renderer, context_length=judge.base.context_length
        )
        (given,) = generate(judge.base.model, [prompt], stop_ids=judge.renderer.stop_ids, settings=settings)
        return judge.text(given.ids)


def _endpoint_answer(endpoint: Endpoint, messages: list[JsonDict], sampling: JsonDict) -> str:
    turns: list[JsonDict] = [{"role": one.role, "content": one.content} for one in judge_turns(messages)]
    limit, key = judge_settings(sampling).max_new_tokens, os.environ.get(KEY_VARIABLE)
    given = {name: value for name, value in sampling.items() if name != "max_completions_tokens" and value is not None}
    try:
        return ask_endpoint(endpoint, [(turns, [])], max_new_tokens=limit, sampling=given, key=key)[0].text
    except ModelError as error:  # as too long a text; a wrong key fails on every answer, and so ends the run
        raise JudgeError(f"{endpoint.name} {error.what}") from error
