"""The service against ``hone generate``: the same tokens for base, adapters and other methods, side by side."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import aclosing
from typing import Any

import pytest

from hone.errors import HoneError, ModelError, ProofError
from hone.model.generate import Generation
from hone.model.rows import BatcherLimits
from hone.model.sampling import SamplingSettings
from hone.serve.asked import GenerationRequest, ReadyModel, ResolvedModel, TokenEvent
from hone.serve.inference import InferenceService
from hone.serve.wire import ApiError
from tests.serve.answering import (
    NEW_TOKENS,
    QUESTIONS,
    Runs,
    alone,
    collect,
    generated,
    in_loop,
    make_runs,
    prompt_of,
    ready,
    serving,
)

GREEDY = SamplingSettings(NEW_TOKENS)
NAMES = ("base", "four", "eight", "dora")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    return make_runs(tmp_path_factory.mktemp("answering"))


def _ids(events: Sequence[TokenEvent]) -> tuple[int, ...]:
    return tuple(event.token.token for event in events if event.token is not None and event.token.token is not None)


def _text(events: Sequence[TokenEvent]) -> str:
    return "".join(event.text for event in events)


def _request(model: ReadyModel, prompt: tuple[int, ...], how: SamplingSettings = GREEDY, **given: Any) -> Any:
    return GenerationRequest(model=model, prompts=(prompt,), settings=how, **given)


def test_answers_are_those_of_generate_whatever_is_asked_beside(runs: Runs) -> None:
    answerers = {name: alone(runs, name) for name in NAMES}
    prompts = {(name, text): prompt_of(one, text) for name, one in answerers.items() for text in QUESTIONS}
    expected = {(name, text): generated(answerers[name], text, GREEDY)[0] for name, text in prompts}
    assert len({expected[name, QUESTIONS[0]].ids for name in NAMES}) == len(NAMES)
    found = {}

    async def ask(service: InferenceService, name: str, text: str, wait: float) -> None:
        await asyncio.sleep(wait)
        model = await ready(service, runs, name)
        events = (await collect(service, _request(model, prompts[name, text])))[0]
        found[name, text] = Generation(_ids(events), events[-1].finish == "stop")
        assert _text(events) == answerers[name].text(found[name, text].ids)

    async def work() -> None:
        async with serving(runs, limits=BatcherLimits(max_rows=5, chunk_tokens=32)) as service:
            await asyncio.gather(
                *(ask(service, name, text, 0.01 * place) for place, (name, text) in enumerate(prompts))
            )
            assert sorted(service.figures) == sorted({one.base.name for one in answerers.values()})

    in_loop(work)
    assert found == expected


def test_draws_of_a_seed_are_those_of_generate(runs: Runs) -> None:
    how = SamplingSettings(NEW_TOKENS, temperature=1.1, top_p=0.9, seed=5)
    answerer = alone(runs, "eight")
    expected = generated(answerer, QUESTIONS[0], how, count=3)
    prompt = prompt_of(answerer, QUESTIONS[0])

    async def work() -> None:
        async with serving(runs) as service:
            model = await ready(service, runs, "eight")
            told = await collect(service, _request(model, prompt, how, count=3))
            assert [_ids(told[index]) for index in range(3)] == [answer.ids for answer in expected]
            assert told[1][0].cached_tokens == len(prompt) - 1

    in_loop(work)


def test_a_stop_text_ends_the_answer_before_it(runs: Runs) -> None:
    answerer = alone(runs, "base")
    prompt = prompt_of(answerer, QUESTIONS[0])
    whole = answerer.text(generated(answerer, QUESTIONS[0], GREEDY)[0].ids)
    stop = whole[3:6]
    assert len(whole) > 8

    async def work() -> None:
        async with serving(runs) as service:
            model = await ready(service, runs, "base")
            events = (await collect(service, _request(model, prompt, stops=("never there", stop))))[0]
            assert _text(events) == whole[: whole.index(stop)]
            assert events[-1].finish == "stop"
            assert len(_ids(events)) < NEW_TOKENS
            await asyncio.sleep(0.2)
            assert sum(figures.rows for figures in service.figures.values()) == 0, "its row has left"

    in_loop(work)


def test_who_goes_ends_its_rows_and_nobody_elses(runs: Runs) -> None:
    answerer = alone(runs, "four")
    prompt = prompt_of(answerer, QUESTIONS[0])
    expected = generated(answerer, QUESTIONS[0], GREEDY)[0].ids

    async def work() -> None:
        async with serving(runs) as service:
            model = await ready(service, runs, "four")
            base = await ready(service, runs, "base")
            staying = asyncio.create_task(collect(service, _request(model, prompt)))
            endless = _request(base, prompt, SamplingSettings(400), count=4)
            async with aclosing(service.stream(endless)) as events:
                async for _ in events:
                    break
            assert _ids((await staying)[0]) == expected
            for _ in range(100):
                if not any(figures.rows + figures.waiting for figures in service.figures.values()):
                    break
                await asyncio.sleep(0.05)
            written = sum(figures.written_tokens for figures in service.figures.values())
            assert written < 4 * 400
            assert service.num_requests == 0

    in_loop(work)


def test_a_graceful_stop_lets_answers_end_and_takes_no_more(runs: Runs) -> None:
    answerer = alone(runs, "base")
    prompt = prompt_of(answerer, QUESTIONS[0])
    expected = generated(answerer, QUESTIONS[0], SamplingSettings(60))[0].ids

    async def work() -> None:
        async with serving(runs) as service:
            model = await ready(service, runs, "base")
            running = asyncio.create_task(collect(service, _request(model, prompt, SamplingSettings(60))))
            await asyncio.sleep(0)
            closing = asyncio.create_task(service.close(60))
            await asyncio.sleep(0)
            with pytest.raises(ApiError) as refused:
                await service.ready(model.resolved)
            assert (refused.value.status, refused.value.code) == (503, "server_stopping")
            await closing
            assert _ids((await running)[0]) == expected

    in_loop(work)


def test_what_is_left_after_the_last_wait_is_told(runs: Runs) -> None:
    async def work() -> None:
        async with serving(runs) as service:
            model = await ready(service, runs, "base")
            request = _request(model, (5, 6, 7), SamplingSettings(400), count=8)
            running = asyncio.create_task(collect(service, request))
            await asyncio.sleep(0.05)
            await service.close(0)
            with pytest.raises(HoneError, match="server is stopping"):
                await running
            with pytest.raises(ApiError):
                await collect(service, request)

    in_loop(work)


def test_an_idle_base_makes_room_for_another(runs: Runs) -> None:
    answerer = alone(runs, "dora")
    prompt = prompt_of(answerer, QUESTIONS[0])
    expected = generated(answerer, QUESTIONS[0], GREEDY)[0].ids

    async def work() -> None:
        async with serving(runs, max_engines=1) as service:
            base = await ready(service, runs, "base")
            busy = asyncio.create_task(collect(service, _request(base, prompt, SamplingSettings(300), count=4)))
            await asyncio.sleep(0.05)
            with pytest.raises(ApiError) as refused:
                await ready(service, runs, "dora")
            assert (refused.value.status, refused.value.code) == (503, "model_busy")
            busy.cancel()
            await asyncio.sleep(0.3)
            dora = await ready(service, runs, "dora")
            assert _ids((await collect(service, _request(dora, prompt)))[0]) == expected
            with pytest.raises(HoneError, match="left memory"):
                await collect(service, _request(base, prompt))
            again = await ready(service, runs, "base")
            assert (await collect(service, _request(again, prompt)))[0][-1].finish

    in_loop(work)


def test_a_step_that_fails_is_told_and_the_next_request_is_answered(
    runs: Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def work() -> None:
        async with serving(runs) as service:
            model = await ready(service, runs, "base")
            batcher = model.loaded.engine.batcher
            step = batcher.step

            def failing() -> Any:
                monkeypatch.setattr(batcher, "step", step)
                raise RuntimeError("out of memory: tried to allocate 9 GiB\nand more")

            monkeypatch.setattr(batcher, "step", failing)
            with pytest.raises(HoneError, match="tried to allocate 9 GiB"):
                await collect(service, _request(model, (5, 6, 7)))
            assert (await collect(service, _request(model, (5, 6, 7))))[0][-1].finish

    in_loop(work)


def test_a_version_that_is_not_what_was_saved_is_not_served(runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    read = "hone.serve.loading.read_adapter_weights"

    def other(*_given: Any, **named: Any) -> Any:
        from hone.model.adapter_weights import AdapterWeights, read_adapter_weights

        weights = read_adapter_weights(*_given, **named)
        return AdapterWeights(weights.rank, {name: (down, -up) for name, (down, up) in weights.layers.items()})

    async def work() -> None:
        async with serving(runs) as service:
            monkeypatch.setattr(read, other)
            with pytest.raises(ProofError, match="not what was saved"):
                await ready(service, runs, "four")
            with pytest.raises(ModelError):
                await service.ready(ResolvedModel("nothing", "/nowhere/at/all"))
            assert (await ready(service, runs, "base")).loaded.adapter is None

    in_loop(work)


def test_adapters_come_and_go_under_the_limit(runs: Runs) -> None:
    names = ("four", "eight")
    answerers = {name: alone(runs, name) for name in names}
    expected = {name: generated(one, QUESTIONS[0], GREEDY)[0].ids for name, one in answerers.items()}

    async def work() -> None:
        # room for the larger one alone
        async with serving(runs, limits=BatcherLimits(adapter_bytes=60_000)) as service:
            for _ in range(2):
                models = {name: await ready(service, runs, name) for name in names}
                found = await asyncio.gather(
                    *(collect(service, _request(models[n], prompt_of(answerers[n], QUESTIONS[0]))) for n in names)
                )
                assert [_ids(told[0]) for told in found] == [expected[name] for name in names]
                assert [figures.adapters for figures in service.figures.values()] == [1]

    in_loop(work)
