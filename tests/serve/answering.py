"""What the tests of answering share: small runs on a tiny base, and a service that is closed at the end."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from fastapi import FastAPI, Request, Response

from hone.config import TrainConfig
from hone.errors import HoneError
from hone.model.generate import Generation, SamplingSettings, generate
from hone.recipe.inference import Answerer, load_answerer
from hone.recipe.run import train
from hone.serve.asked import GenerationRequest, ReadyModel, ResolvedModel, TokenEvent
from hone.serve.chat import chat_router
from hone.serve.inference import InferenceService
from hone.serve.wire import ApiError, error_response
from hone.types import JsonDict, Message
from tests.recipe.conftest import Listener, row, write_jsonl
from tests.tiny import save_tiny

QUESTIONS = ("what of the lamp number 37 in red town?", "who?", "what of the bell number 74 in blue town? " * 6)
NEW_TOKENS = 12


@dataclass(frozen=True)
class Runs:
    """A home with a tiny base and runs on it, by name."""

    home: Path
    references: dict[str, str]


def make_runs(folder: Path) -> Runs:
    """Two plain adapters of different ranks, one of them with a system message, a DoRA, and their base."""
    base = save_tiny(folder / "tiny", max_position_embeddings=512)
    plain = [row(number) for number in range(24)]
    advised = [
        {"messages": [
            {"role": "system", "content": "say who you are"},
            {"role": "user", "content": one["prompt"]},
            {"role": "assistant", "content": one["completion"][::-1]},
        ]}
        for one in plain
    ]  # fmt: skip
    references = {"base": str(base)}
    for name, rows, given in (
        ("four", plain, {"rank": 4}),
        ("eight", advised, {"rank": 8}),
        ("dora", plain[::-1], {"rank": 4, "adaptation": "dora"}),
    ):
        data = write_jsonl(folder / f"{name}.jsonl", rows)
        config = TrainConfig.model_validate(
            {"data": str(data), "model": str(base), "epochs": 2, "learning_rate": 2e-2, "dtype": "float32",
             "device": "cpu", **given}
        )  # fmt: skip
        references[name] = str(train(config, home=folder / "home", recorder=Listener())["run_dir"])
    return Runs(folder / "home", references)


def alone(runs: Runs, name: str) -> Answerer:
    """The same model as ``hone generate`` loads it."""
    return load_answerer(runs.references[name], home=runs.home, device="cpu", dtype="float32", note=lambda text: None)


def prompt_of(answerer: Answerer, question: str) -> tuple[int, ...]:
    """As ``hone generate`` asks: with the system message of the training rows."""
    system = answerer.notes.get("system_prompt")
    opening = [Message("system", system)] if system else []
    return answerer.prompt([*opening, Message("user", question)])


def generated(answerer: Answerer, question: str, how: SamplingSettings, count: int = 1) -> list[Generation]:
    """What ``hone generate`` answers; further answers are further rows of it."""
    prompts = [prompt_of(answerer, question)] * count
    return generate(answerer.base.model, prompts, stop_ids=answerer.renderer.stop_ids, settings=how)


@asynccontextmanager
async def serving(runs: Runs, **given: Any) -> AsyncIterator[InferenceService]:
    """A service over the runs."""
    service = InferenceService(runs.home, device="cpu", dtype="float32", **given)
    try:
        yield service
    finally:
        await service.close(0)


async def ready(service: InferenceService, runs: Runs, name: str) -> ReadyModel:
    """A model in memory."""
    return await service.ready(ResolvedModel(name, runs.references[name]))


async def collect(service: InferenceService, request: GenerationRequest) -> dict[int, list[TokenEvent]]:
    """All events by answer."""
    told: dict[int, list[TokenEvent]] = {}
    async for event in service.stream(request):
        told.setdefault(event.index, []).append(event)
    return told


def in_loop(work: Callable[[], Awaitable[None]], seconds: float = 120) -> None:
    """Run a test's body in an event loop of its own; one that hangs fails."""

    async def bounded() -> None:
        await asyncio.wait_for(work(), seconds)

    asyncio.run(bounded())


def _told(_request: Request, error: Exception) -> Response:
    assert isinstance(error, HoneError)
    return error_response(error)


@asynccontextmanager
async def client_of(runs: Runs, **given: Any) -> AsyncIterator[tuple[httpx.AsyncClient, InferenceService]]:
    """A client of the routes over the runs, and what answers behind them; ``limits`` are the engines'."""

    def resolve(name: str) -> ResolvedModel:
        if name not in runs.references:
            raise ApiError(f"no model {name}", status=404, param="model", code="model_not_found")
        return ResolvedModel(name, runs.references[name], given.get("add_passages"))

    async with serving(runs, limits=given.get("limits")) as service:
        app = FastAPI()
        app.add_exception_handler(HoneError, _told)
        options = {name: given[name] for name in ("store", "lenient") if name in given}
        app.include_router(chat_router(service, resolve, **options))
        transport = httpx.ASGITransport(app=app)
        async with httpx.AsyncClient(transport=transport, base_url="http://test", timeout=60) as client:
            yield client, service


def with_client(runs: Runs, work: Callable[[httpx.AsyncClient], Awaitable[None]], **given: Any) -> None:
    """Run a test's body with a client."""

    async def inner() -> None:
        async with client_of(runs, **given) as (client, _):
            await work(client)

    in_loop(inner)


def pieces_of(response: httpx.Response) -> list[JsonDict]:
    """The pieces of a stream that ended well."""
    assert response.headers["content-type"].startswith("text/event-stream")
    lines = [line for line in response.text.split("\n\n") if line]
    assert lines.pop() == "data: [DONE]"
    return [json.loads(line.removeprefix("data: ")) for line in lines]
