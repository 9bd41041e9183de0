"""Answers for many clients at once: the asynchronous front of the engines.

A request is a prompt for a model that :meth:`InferenceService.ready` has loaded. Its events come as they are written,
and whoever stops reading them ends the rows.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import suppress
from pathlib import Path

from hone.data.render import Renderer
from hone.errors import HoneError
from hone.model.rows import BatcherLimits, FinishReason, RowRequest, RowToken
from hone.serve.answer_text import AnswerText
from hone.serve.asked import GenerationRequest, ReadyModel, ResolvedModel, TokenEvent
from hone.serve.engine import Engine, EngineFigures, Job
from hone.serve.loading import Loaded, Loader, Place
from hone.serve.wire import ApiError

__all__ = [
    "InferenceService",
]


class InferenceService:
    """Models in memory, and requests to them. Used from one event loop.

    Args:
        home: hone's home folder.
        device: as for training; chosen where None.
        dtype: the same.
        limits: of each engine.
        max_engines: bases in memory at the same time; the one used least goes when it is idle.
        note: receives sentences for whoever runs the server.
    """

    def __init__(
        self,
        home: Path,
        *,
        device: str | None = None,
        dtype: str | None = None,
        limits: BatcherLimits | None = None,
        max_engines: int = 2,
        note: Callable[[str], None] = lambda text: None,
    ) -> None:
        self.limits = limits or BatcherLimits()
        self._loader = Loader(home, device=device, dtype=dtype, limits=self.limits, note=note)
        self._max_engines = max_engines
        # in the order of their last use
        self._engines: dict[tuple[str, str], tuple[Engine, Renderer | None]] = {}
        self._loaded: dict[str, Loaded] = {}
        self._loading = asyncio.Lock()
        self._jobs: dict[Job, Engine] = {}
        self._closing = False
        self._drained = asyncio.Event()

    @property
    def figures(self) -> dict[str, EngineFigures]:
        """What each engine does now, by the name of its base."""
        return {engine.base.name: engine.figures for engine, _ in self._engines.values()}

    @property
    def num_requests(self) -> int:
        """Requests that are being answered."""
        return len(self._jobs)

    async def ready(self, resolved: ResolvedModel) -> ReadyModel:
        """Load a model, where it is not in memory yet.

        Args:
            resolved: what a name means.

        Raises:
            HoneError: it cannot be loaded, or is not what was registered.
            ApiError: the server is stopping, or all engines are busy.
        """
        self._refuse_when_closing()
        loaded = self._living(resolved.reference)
        if loaded is None:
            async with self._loading:
                loaded = self._living(resolved.reference) or await self._load(resolved.reference)
        key = next(key for key, (engine, _) in self._engines.items() if engine is loaded.engine)
        self._engines[key] = self._engines.pop(key)
        return ReadyModel(resolved, loaded)

    def _living(self, reference: str) -> Loaded | None:
        found = self._loaded.get(reference)
        if found is not None and not found.engine.alive:
            self._forget(found.engine)
            return None
        return found

    def _forget(self, engine: Engine) -> None:
        self._engines = {key: pair for key, pair in self._engines.items() if pair[0] is not engine}
        self._loaded = {name: one for name, one in self._loaded.items() if one.engine is not engine}

    async def _load(self, reference: str) -> Loaded:
        place: Place = await asyncio.to_thread(self._loader.place, reference)
        if place.engine not in self._engines:
            await self._make_room()
            self._engines[place.engine] = await asyncio.to_thread(self._loader.engine, place)
        engine, renderer = self._engines[place.engine]
        loaded = await asyncio.to_thread(self._loader.loaded, place, engine, renderer)
        self._loaded[reference] = loaded
        return loaded

    async def _make_room(self) -> None:
        while len(self._engines) >= self._max_engines:
            busy = set(self._jobs.values())
            idle = next((key for key, (engine, _) in self._engines.items() if engine not in busy), None)
            if idle is None:
                raise ApiError(
                    f"all {self._max_engines} models that fit into memory are busy; ask again a little later",
                    status=503,
                    kind="server_error",
                    code="model_busy",
                    headers={"Retry-After": "1"},
                )
            engine, _ = self._engines[idle]
            self._forget(engine)
            await asyncio.to_thread(engine.stop)

    async def stream(self, request: GenerationRequest) -> AsyncGenerator[TokenEvent, None]:
        """Answer a request; closing the generator ends its rows.

        Yields:
            Events in the order in which they happen, those of several answers mixed.

        Raises:
            HoneError: the prompt does not fit, or the model failed.
            ApiError: the server is stopping.
        """
        self._refuse_when_closing()
        arrived: asyncio.Queue[list[tuple[int, RowToken]] | HoneError] = asyncio.Queue()
        loop = asyncio.get_running_loop()

        def deliver(news: list[tuple[int, RowToken]] | HoneError) -> None:
            with suppress(RuntimeError):  # the loop has ended, and nobody reads any more
                loop.call_soon_threadsafe(arrived.put_nowait, news)

        engine = request.model.loaded.engine
        job = Job(_rows(request), request.model.loaded.adapter, deliver)
        self._jobs[job] = engine
        engine.submit(job)
        answers = [_Answer(index, request) for index in range(request.count * len(request.prompts))]
        try:
            while any(answer.finish is None for answer in answers):
                news = await arrived.get()
                if isinstance(news, HoneError):
                    raise news
                for place, token in news:
                    answer = answers[place]
                    if answer.finish is not None:
                        continue
                    event = answer.event(token)
                    yield event
                    if event.finish is not None and token.finish is None:
                        engine.cancel_row(job, place)
        finally:
            engine.cancel(job)
            del self._jobs[job]
            if not self._jobs:
                self._drained.set()

    async def close(self, drain_seconds: float) -> None:
        """Take no further requests, let those that are here end, and stop the engines.

        Args:
            drain_seconds: how long answers may still take; those that are left then are told that the server stops.
        """
        self._closing = True
        if self._jobs:
            self._drained.clear()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._drained.wait(), drain_seconds)
        for engine, _ in self._engines.values():
            await asyncio.to_thread(engine.stop)
        self._engines.clear()
        self._loaded.clear()

    def _refuse_when_closing(self) -> None:
        if self._closing:
            raise ApiError(
                "the server is stopping; ask again when it is back",
                status=503,
                kind="server_error",
                code="server_stopping",
                headers={"Retry-After": "5"},
            )


class _Answer:
    """The text of one answer, as its tokens come."""

    def __init__(self, index: int, request: GenerationRequest) -> None:
        self.index = index
        self.finish: FinishReason | None = None
        self._text = AnswerText(request.model.text, request.stops)
        self._tokens = 0

    def event(self, token: RowToken) -> TokenEvent:
        """What a row's event means for the text."""
        text = ""
        self.finish = token.finish
        if token.token is not None:
            self._tokens += 1
            text = self._text.add(token.token)
        if self.finish is not None:
            text += self._text.end()
        if self._text.stopped:
            self.finish = "stop"
        return TokenEvent(self.index, text, token, self.finish, self._tokens, token.cached_tokens)


def _rows(request: GenerationRequest) -> list[RowRequest]:
    loaded = request.model.loaded
    return [
        RowRequest(
            prompt=prompt,
            stop_ids=loaded.renderer.stop_ids,
            settings=request.settings,
            adapter=None if loaded.adapter is None else loaded.adapter.name,
            index=index,
            bias=request.bias,
            top_logprobs=request.top_logprobs,
            prompt_logprobs=request.prompt_logprobs,
            allowed=None if request.allowed is None else request.allowed(),
        )
        for prompt in request.prompts
        for index in range(request.count)
    ]
