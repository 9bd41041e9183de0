"""``/v1/chat/completions``, ``/v1/completions`` and ``/v1/embeddings``: the routes that need a model in memory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextlib import aclosing, suppress
from typing import Any, TypeVar

from fastapi import APIRouter, Request
from fastapi.responses import Response, StreamingResponse

from hone.config.chat import ChatConfig
from hone.data.ledger import RowError
from hone.data.messages import parse_messages, parse_tools
from hone.errors import HoneError
from hone.serve.asked import GenerationRequest, ReadyModel, ResolveModel, TokenEvent
from hone.serve.chat_bodies import ChatBody, CompletionBody
from hone.serve.chat_objects import AnswerSet, Heading, done_line, event_line
from hone.serve.inference import InferenceService
from hone.serve.json_answers import json_answers
from hone.serve.wire import ERROR_RESPONSES, ApiError, WireResponse, as_api_error
from hone.types import JsonDict, Message

__all__ = ["StoreCompletion", "chat_router"]

StoreCompletion = Callable[[JsonDict, JsonDict], None]
"""Keeps a completion for ``store: true``: (the request's body, the completion)."""

_Result = TypeVar("_Result")
# What an answer may have where the client says nothing: as `hone generate` has it.
_DEFAULT_TOKENS = int(ChatConfig.model_fields["max_new_tokens"].default)
_LOOK_SECONDS = 0.25


def chat_router(
    service: InferenceService, resolve: ResolveModel, *, store: StoreCompletion | None = None, lenient: bool = False
) -> APIRouter:
    """The routes.

    Args:
        service: answers.
        resolve: finds what a model's name means now.
        store: keeps completions for ``store: true``; without it that is refused.
        lenient: leave out what cannot be honoured, instead of refusing it; for tests of shapes.
    """
    router = APIRouter(prefix="/v1", tags=["answers"], responses=ERROR_RESPONSES)

    @router.post("/chat/completions")
    async def chat_completions(body: ChatBody, http: Request) -> Response:
        """Answer a conversation."""
        body.check(lenient=lenient)
        if body.store and store is None and not lenient:
            raise ApiError("completions cannot be stored here", param="store", code="unsupported_parameter")

        async def answers() -> AnswerSet:
            model = await service.ready(resolve(body.model))
            return await _chat_answers(service, model, body)

        def keep(completion: JsonDict) -> None:
            if body.store and store is not None:
                store(body.model_dump(exclude_none=True), completion)

        return await _respond(service, answers(), http, stream=bool(body.stream), usage=body.include_usage, keep=keep)

    @router.post("/completions")
    async def completions(body: CompletionBody, http: Request) -> Response:
        """Go on with a text, as it stands: no template is applied."""
        body.check(lenient=lenient)

        async def answers() -> AnswerSet:
            model = await service.ready(resolve(body.model))
            return _text_answers(service, model, body)

        return await _respond(service, answers(), http, stream=bool(body.stream), usage=body.include_usage)

    @router.post("/embeddings")
    async def embeddings() -> Response:
        """Refuse: the models of this server write text."""
        raise ApiError(
            "no model of this server gives embeddings; chat and completions are answered",
            param="model",
            code="unsupported_model",
        )

    return router


async def _chat_answers(service: InferenceService, model: ReadyModel, body: ChatBody) -> AnswerSet:
    messages, tools = _conversation(body, model)
    citations: tuple[JsonDict, ...] = ()
    if model.resolved.add_passages is not None:
        limit = min(model.context_length, service.limits.cache_tokens)
        wanted = _DEFAULT_TOKENS if body.most_tokens is None else body.most_tokens

        def fits(asked: Sequence[Message]) -> bool:
            return len(model.renderer.prompt(asked, tools)) + wanted <= limit

        passages = await asyncio.to_thread(model.resolved.add_passages, messages, fits)
        messages, citations = passages.messages, passages.citations
    prompt = model.renderer.prompt(messages, tools)
    form = body.response_format.model_dump() if body.response_format else None
    request = GenerationRequest(
        model=model,
        prompts=(prompt,),
        settings=body.settings(_longest(service, model, [prompt], body.most_tokens)),
        count=body.n or 1,
        stops=body.stops,
        bias=body.bias(_vocabulary(model)),
        top_logprobs=(body.top_logprobs or 0) if body.logprobs else None,
        allowed=await asyncio.to_thread(json_answers, form, model),
    )
    return AnswerSet(Heading.new("chat", model), request, citations=citations)


def _text_answers(service: InferenceService, model: ReadyModel, body: CompletionBody) -> AnswerSet:
    size = _vocabulary(model)
    prompts = _prompt_ids(model, body, size)
    request = GenerationRequest(
        model=model,
        prompts=tuple(prompts),
        settings=body.settings(_longest(service, model, prompts, body.max_tokens, param="prompt")),
        count=body.n or 1,
        stops=body.stops,
        bias=body.bias(size),
        top_logprobs=body.logprobs,
        prompt_logprobs=body.logprobs if body.echo else None,
    )
    prefixes: list[str] = []
    if body.echo:
        told = zip(body.prompts, prompts, strict=True)
        prefixes = [prompt if isinstance(prompt, str) else model.written_out(ids) for prompt, ids in told]
    return AnswerSet(Heading.new("text", model), request, prefixes=prefixes)


def _prompt_ids(model: ReadyModel, body: CompletionBody, size: int) -> list[tuple[int, ...]]:
    prompts = []
    for place, prompt in enumerate(body.prompts):
        ids = model.plain_ids(prompt) if isinstance(prompt, str) else tuple(prompt)
        wrong = [token for token in ids if not 0 <= token < size]
        if wrong:
            raise ApiError(f"prompt {place}: {wrong[0]} is no token id (0 to {size - 1})", param="prompt")
        if not ids:
            raise ApiError(f"prompt {place} is empty; a prompt has at least one token", param="prompt")
        prompts.append(ids)
    if not prompts:
        raise ApiError("there is no prompt", param="prompt")
    return prompts


def _conversation(body: ChatBody, model: ReadyModel) -> tuple[tuple[Message, ...], tuple[JsonDict, ...]]:
    try:
        messages = parse_messages(body.messages, supervise=False)
        tools = tuple(dict(tool) for tool in parse_tools(body.shown_tools))
    except RowError as error:
        raise ApiError(error.reason, param="messages", code="invalid_value") from error
    system = model.loaded.system
    if system and not any(message.role == "system" for message in messages):
        # as in all its training rows, and as hone generate does
        messages = (Message("system", system), *messages)
    return messages, tools


def _vocabulary(model: ReadyModel) -> int:
    return int(model.loaded.engine.base.model.config.get_text_config().vocab_size)


def _longest(
    service: InferenceService,
    model: ReadyModel,
    prompts: list[tuple[int, ...]],
    wanted: int | None,
    *,
    param: str = "messages",
) -> int:
    """Tokens that each answer may have."""
    longest = max(map(len, prompts))
    limit = min(model.context_length, service.limits.cache_tokens)
    if longest > limit or (longest == limit and wanted != 0):
        raise ApiError(
            f"the prompt has {longest} tokens, and the model can read {limit} together with its answer",
            param=param,
            code="context_length_exceeded",
        )
    return min(_DEFAULT_TOKENS if wanted is None else wanted, limit - longest)


async def _respond(
    service: InferenceService,
    answers: Coroutine[Any, Any, AnswerSet],
    http: Request,
    *,
    stream: bool,
    usage: bool,
    keep: Callable[[JsonDict], None] = lambda completion: None,
) -> Response:
    found = await _while_connected(http, answers)
    if found.request.settings.max_new_tokens == 0 and found.request.prompt_logprobs is None:
        events: AsyncGenerator[TokenEvent, None] = _nothing()
    else:
        events = service.stream(found.request)
    if not stream:
        completion = await _while_connected(http, _gather(found, events))
        await asyncio.to_thread(keep, completion)
        return WireResponse(completion)
    # an error before the first token is the answer's status; later ones can only be told within the stream
    first = await _while_connected(http, _first(events))
    return StreamingResponse(
        _lines(found, first, events, usage=usage, keep=keep),
        media_type="text/event-stream",
        headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"},
    )


async def _nothing() -> AsyncGenerator[TokenEvent, None]:
    """The events of answers that may have no token."""
    none: tuple[TokenEvent, ...] = ()
    for event in none:
        yield event


async def _gather(answers: AnswerSet, events: AsyncGenerator[TokenEvent, None]) -> JsonDict:
    async with aclosing(events):
        async for event in events:
            answers.add(event)
    return answers.whole()


async def _first(events: AsyncGenerator[TokenEvent, None]) -> TokenEvent | None:
    try:
        return await anext(events)
    except StopAsyncIteration:
        return None
    except BaseException:
        await events.aclose()
        raise


async def _lines(
    answers: AnswerSet,
    first: TokenEvent | None,
    events: AsyncGenerator[TokenEvent, None],
    *,
    usage: bool,
    keep: Callable[[JsonDict], None],
) -> AsyncIterator[bytes]:
    """Server-sent events; where the client goes, this generator is closed, and the rows end."""
    async with aclosing(events):
        try:
            for opening in answers.openings():
                yield event_line(opening)
            event = first
            while event is not None:
                answers.add(event)
                if (piece := answers.piece(event)) is not None:
                    yield event_line(piece)
                event = await anext(events, None)
            if usage:
                yield event_line(answers.usage_chunk())
            await asyncio.to_thread(keep, answers.whole())
            yield done_line()
        except HoneError as error:
            yield event_line(as_api_error(error).body())


async def _while_connected(http: Request, work: Awaitable[_Result]) -> _Result:
    """The result of ``work``, which is cancelled where the client goes."""
    task = asyncio.ensure_future(work)
    try:
        while not task.done():
            await asyncio.wait({task}, timeout=_LOOK_SECONDS)
            if not task.done() and await http.is_disconnected():
                raise ApiError("the client has gone", status=499, kind="server_error")
        return task.result()
    finally:
        if not task.done():
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
