"""The routes that need a model in memory, put together: names from the registry, answers from the inference service."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass

from anyio import from_thread
from fastapi import APIRouter, FastAPI

from hone.evaluation.grading import AnswerChat
from hone.recipe.judge_request import judge_request
from hone.serve.app import Lifespan
from hone.serve.asked import GenerationRequest, ResolvedModel
from hone.serve.chat import chat_router
from hone.serve.inference import InferenceService
from hone.serve.metrics import Labels, Metrics
from hone.serve.models import resolve_served_model
from hone.serve.passages import attached_documents
from hone.serve.settings import ServerSettings
from hone.serve.stored import store_completion
from hone.types import JsonDict

__all__ = ["Answering", "answering"]

_DRAIN_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Answering:
    """What an application takes to answer.

    Args:
        router: the routes.
        answer_chat: asks a served model, for graders.
        lifespan: stops the models when the server ends.
    """

    router: APIRouter
    answer_chat: AnswerChat
    lifespan: Lifespan


def answering(settings: ServerSettings, service: InferenceService, *, metrics: Metrics, lenient: bool) -> Answering:
    """Put together what answers.

    Args:
        settings: of the server.
        service: holds the models.
        metrics: receives how many answers are being written.
        lenient: leave out what a request asks for and cannot have, for conformance tests.

    Raises:
        HoneError: documents cannot be attached; see :func:`hone.serve.passages.attached_documents`.
    """
    passages = attached_documents(settings)

    def resolve(name: str) -> ResolvedModel:
        return ResolvedModel(name, resolve_served_model(settings, name).reference, passages.get(name))

    async def answer(model: str, messages: Sequence[JsonDict], sampling: JsonDict) -> str:
        return await _answer(service, resolve(model), messages, sampling)

    def answer_chat(model: str, messages: list[JsonDict], sampling: JsonDict) -> str:
        return str(from_thread.run(answer, model, messages, sampling))

    def in_progress() -> dict[Labels, float]:
        return {(): float(service.num_requests)}

    metrics.gauge("hone_answers_in_progress", "Requests that a model is answering.", in_progress)

    def lifespan(_app: FastAPI) -> AbstractAsyncContextManager[None]:
        return _closing(service)

    router = chat_router(
        service,
        resolve,
        store=lambda body, completion: store_completion(settings.home, body, completion),
        lenient=lenient,
    )
    return Answering(router, answer_chat, lifespan)


@asynccontextmanager
async def _closing(service: InferenceService) -> AsyncIterator[None]:
    yield
    await service.close(_DRAIN_SECONDS)


async def _answer(
    service: InferenceService, resolved: ResolvedModel, messages: Sequence[JsonDict], sampling: JsonDict
) -> str:
    """One answer as text, for a grader; a JudgeError where the model cannot be asked about this one."""
    model = await service.ready(resolved)
    prompt, how = judge_request(messages, sampling, renderer=model.renderer, context_length=model.context_length)
    request = GenerationRequest(model=model, prompts=(prompt,), settings=how)
    return "".join([event.text async for event in service.stream(request)])
