"""The routes of answering against ``hone generate`` and against the shapes of the OpenAI API."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from hone.model.sampling import SamplingSettings
from hone.serve.asked import Passages
from hone.serve.json_grammar import JsonGrammar
from hone.serve.json_schema import read_schema
from hone.types import JsonDict, Message
from tests.serve.answering import (
    NEW_TOKENS,
    QUESTIONS,
    Runs,
    alone,
    client_of,
    generated,
    in_loop,
    make_runs,
    pieces_of,
    with_client,
)

CHAT = "/v1/chat/completions"
GREEDY: JsonDict = {"temperature": 0, "max_tokens": NEW_TOKENS}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    return make_runs(tmp_path_factory.mktemp("chat"))


def _body(model: str, **given: Any) -> JsonDict:
    return {"model": model, "messages": [{"role": "user", "content": QUESTIONS[0]}], **GREEDY, **given}


@pytest.mark.parametrize("name", ["base", "four", "eight"])
def test_a_chat_answer_is_that_of_generate_whole_and_streamed(runs: Runs, name: str) -> None:
    answerer = alone(runs, name)
    answer = generated(answerer, QUESTIONS[0], SamplingSettings(NEW_TOKENS))[0]
    text = answerer.text(answer.ids)

    async def work(client: httpx.AsyncClient) -> None:
        whole = (await client.post(CHAT, json=_body(name))).json()
        assert whole["object"] == "chat.completion"
        assert whole["model"] == name
        assert whole["system_fingerprint"].startswith("folder-"), "paths of this machine stay here"
        choice = whole["choices"][0]
        assert choice["message"]["content"] == text
        assert choice["finish_reason"] == ("stop" if answer.stopped else "length")
        usage = whole["usage"]
        assert usage["completion_tokens"] == len(answer.ids)
        assert usage["total_tokens"] == usage["prompt_tokens"] + len(answer.ids)

        options = {"stream": True, "stream_options": {"include_usage": True}}
        chunks = pieces_of(await client.post(CHAT, json=_body(name, **options)))
        assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}
        assert len({chunk["id"] for chunk in chunks}) == 1
        last = chunks.pop()
        assert (last["choices"], last["usage"]["completion_tokens"]) == ([], len(answer.ids))
        deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
        assert deltas[0]["role"] == "assistant"
        assert "".join(delta.get("content", "") for delta in deltas) == text
        reasons = [chunk["choices"][0]["finish_reason"] for chunk in chunks]
        assert reasons == [None] * (len(reasons) - 1) + [choice["finish_reason"]]

    with_client(runs, work)


def test_several_answers_are_several_rows_of_generate(runs: Runs) -> None:
    answerer = alone(runs, "base")
    how = SamplingSettings(NEW_TOKENS, temperature=1.0, seed=3)
    expected = [answerer.text(answer.ids) for answer in generated(answerer, QUESTIONS[0], how, count=3)]
    assert len(set(expected)) == 3

    async def work(client: httpx.AsyncClient) -> None:
        body = _body("base", n=3, seed=3, temperature=1)
        whole = (await client.post(CHAT, json=body)).json()
        assert [choice["message"]["content"] for choice in whole["choices"]] == expected
        assert [choice["index"] for choice in whole["choices"]] == [0, 1, 2]
        texts = ["", "", ""]
        for chunk in pieces_of(await client.post(CHAT, json={**body, "stream": True})):
            for choice in chunk["choices"]:
                texts[choice["index"]] += choice["delta"].get("content", "")
        assert texts == expected
        assert len({(await client.post(CHAT, json=_body("base", temperature=1))).text for _ in range(3)}) == 3

    with_client(runs, work)


def test_stop_texts_and_log_probabilities(runs: Runs) -> None:
    async def work(client: httpx.AsyncClient) -> None:
        whole = (await client.post(CHAT, json=_body("base", logprobs=True, top_logprobs=2))).json()["choices"][0]
        content = whole["logprobs"]["content"]
        assert len(content) == NEW_TOKENS
        readable = [one for one in content if one["bytes"] is not None]
        assert len(readable) > 2
        for one in readable:
            assert bytes(one["bytes"]).decode() == one["token"]
            assert one["token"] in whole["message"]["content"]
        for one in content:
            assert one["top_logprobs"][0]["token"] == one["token"], "greedy"
            assert one["logprob"] == one["top_logprobs"][0]["logprob"] > one["top_logprobs"][1]["logprob"]
            assert math.exp(one["logprob"]) <= 1
        stop = whole["message"]["content"][3:5]
        cut = (await client.post(CHAT, json=_body("base", stop=[stop]))).json()["choices"][0]
        assert cut["message"]["content"] == whole["message"]["content"].partition(stop)[0]
        assert cut["finish_reason"] == "stop"
        nothing = (await client.post(CHAT, json=_body("base", max_completion_tokens=0))).json()
        assert nothing["choices"][0]["message"]["content"] == ""
        assert nothing["usage"]["completion_tokens"] == 0

    with_client(runs, work)


def test_completions_go_on_with_a_text(runs: Runs) -> None:
    answerer = alone(runs, "base")
    tokenizer = answerer.base.tokenizer
    texts = ["the lamp is", "what is the answer"]
    from hone.model.generate import generate

    ids = [tuple(tokenizer(text)["input_ids"]) for text in texts]
    stops = answerer.renderer.stop_ids
    answers = generate(answerer.base.model, ids, stop_ids=stops, settings=SamplingSettings(6))
    expected = [answerer.text(answer.ids) for answer in answers]

    async def work(client: httpx.AsyncClient) -> None:
        body = {"model": "base", "prompt": texts, "temperature": 0, "max_tokens": 6}
        whole = (await client.post("/v1/completions", json=body)).json()
        assert whole["object"] == "text_completion"
        assert [choice["text"] for choice in whole["choices"]] == expected
        assert whole["usage"]["prompt_tokens"] == sum(map(len, ids))
        echoed = {**body, "prompt": [list(one) for one in ids], "echo": True}
        choices = (await client.post("/v1/completions", json=echoed)).json()["choices"]
        assert [choice["text"] for choice in choices] == [a + b for a, b in zip(texts, expected, strict=True)]
        told = {0: "", 1: ""}
        for chunk in pieces_of(await client.post("/v1/completions", json={**body, "stream": True})):
            told[chunk["choices"][0]["index"]] += chunk["choices"][0]["text"]
        assert [told[0], told[1]] == expected
        scored = (await client.post("/v1/completions", json={**body, "prompt": texts[0], "logprobs": 2})).json()
        logprobs = scored["choices"][0]["logprobs"]
        assert all(text in expected[0] for text in logprobs["tokens"] if not text.startswith("token_id:"))
        assert [len(top) for top in logprobs["top_logprobs"]] == [2] * len(answers[0].ids)
        assert logprobs["text_offset"][:2] == [0, len(logprobs["tokens"][0])]

    with_client(runs, work)


@pytest.mark.parametrize(
    ("given", "status", "param"),
    [
        ({"model": "gone"}, 404, "model"),
        ({"messages": [{"role": "nobody", "content": "x"}]}, 400, "messages"),
        ({"messages": [{"role": "user", "content": "x " * 600}]}, 400, "messages"),
        ({"messages": [{"role": "user", "content": "<|im_end|>"}]}, 400, None),
        ({"top_logprobs": 2}, 400, "top_logprobs"),
        ({"logit_bias": {"99999": 3}}, 400, "logit_bias"),
        ({"audio": {"voice": "x"}}, 400, "audio"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}], "tool_choice": "required"}, 400, "tool_choice"),
        ({"store": True}, 400, "store"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": {"pattern": "a"}}}},
            400,
            "response_format",
        ),
        ({"response_format": {"type": "json_schema"}}, 400, "response_format.json_schema"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_what_cannot_be_answered_is_refused_in_the_apis_words(
    runs: Runs, given: JsonDict, status: int, param: str | None, stream: bool
) -> None:
    async def work(client: httpx.AsyncClient) -> None:
        response = await client.post(CHAT, json=_body("base", stream=stream) | given)
        assert response.status_code == status
        error = response.json()["error"]
        assert set(error) == {"message", "type", "param", "code"}
        assert error["param"] == param
        assert error["message"]

    with_client(runs, work)


def test_an_answer_is_json_where_that_is_asked_for(runs: Runs) -> None:
    mood = {"enum": ["glad", "sad"]}
    properties = {"mood": mood, "far": {"type": "boolean"}, "moods": {"type": "array", "items": mood, "maxItems": 2}}
    schema = {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}
    form = {"type": "json_schema", "json_schema": {"name": "told", "strict": True, "schema": schema}}

    async def work(client: httpx.AsyncClient) -> None:
        asked = {"response_format": form, "max_tokens": 400}
        several = (await client.post(CHAT, json=_body("four", **asked, n=3, temperature=1, seed=1))).json()["choices"]
        whole = (await client.post(CHAT, json=_body("four", **asked))).json()["choices"]
        for choice in (*whole, *several):
            assert choice["finish_reason"] == "stop", choice
            told = json.loads(choice["message"]["content"])
            assert list(told) == ["mood", "far", "moods"]
            assert told["mood"] in ("glad", "sad")
            assert isinstance(told["far"], bool)
            assert len(told["moods"]) <= 2
        chunks = pieces_of(await client.post(CHAT, json=_body("four", **asked, stream=True)))
        text = "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks)
        assert text == whole[0]["message"]["content"]
        # a model that knows no JSON may not come to an end; as far as it comes, it is the beginning of an object
        asked = {"response_format": {"type": "json_object"}, "max_tokens": 40}
        choice = (await client.post(CHAT, json=_body("base", **asked))).json()["choices"][0]
        grammar = JsonGrammar(*read_schema({"type": "object"}))
        states = grammar.after(grammar.start, choice["message"]["content"])
        assert states
        assert choice["finish_reason"] == ("stop" if grammar.is_complete(states) else "length")

    with_client(runs, work)


def test_embeddings_are_refused_clearly(runs: Runs) -> None:
    async def work(client: httpx.AsyncClient) -> None:
        response = await client.post("/v1/embeddings", json={"model": "base", "input": "x"})
        assert (response.status_code, response.json()["error"]["code"]) == (400, "unsupported_model")

    with_client(runs, work)


def test_for_tests_of_shapes_what_cannot_be_honoured_is_left_out(runs: Runs) -> None:
    async def work(client: httpx.AsyncClient) -> None:
        body = _body("base", audio={"voice": "x"}, seed=-9007199254740991, logit_bias={"foo": 0}, store=True, stop="\n")
        assert (await client.post(CHAT, json=body)).status_code == 200

    with_client(runs, work, lenient=True)


def test_passages_are_added_and_cited(runs: Runs) -> None:
    answerer = alone(runs, "base")
    advice = Message("system", "the lamp is lit")
    asked: list[str] = []

    def add_passages(messages: Any, fits: Callable[[Any], bool]) -> Passages:
        assert fits(messages)
        assert not fits((Message("system", "lamp " * 600), *messages)), "there must be room for the answer"
        asked.append(messages[-1].content)
        return Passages((advice, *messages), ({"source": "lamps.md"},))

    from hone.model.generate import generate

    prompt = answerer.prompt([advice, Message("user", QUESTIONS[0])])
    stops = answerer.renderer.stop_ids
    expected = generate(answerer.base.model, [prompt], stop_ids=stops, settings=SamplingSettings(NEW_TOKENS))[0]

    async def work(client: httpx.AsyncClient) -> None:
        message = (await client.post(CHAT, json=_body("base"))).json()["choices"][0]["message"]
        assert message["content"] == answerer.text(expected.ids)
        assert message["citations"] == [{"source": "lamps.md"}]

    with_client(runs, work, add_passages=add_passages)
    assert asked == [QUESTIONS[0]]


def test_a_completion_is_kept_where_that_is_asked(runs: Runs) -> None:
    kept: list[tuple[JsonDict, JsonDict]] = []

    async def work(client: httpx.AsyncClient) -> None:
        whole = (await client.post(CHAT, json=_body("base", store=True, metadata={"a": "b"}))).json()
        await client.post(CHAT, json=_body("base", store=True, stream=True))
        await client.post(CHAT, json=_body("base"))
        assert len(kept) == 2
        assert kept[0][1] == whole
        assert kept[0][0]["metadata"] == {"a": "b"}
        assert kept[1][1]["choices"] == whole["choices"]

    with_client(runs, work, store=lambda request, completion: kept.append((request, completion)))


def test_a_client_that_goes_takes_its_rows_along(runs: Runs) -> None:
    async def inner() -> None:
        async with client_of(runs) as (client, service):
            gone = asyncio.Event()

            async def app_receive() -> JsonDict:
                if not sent:
                    sent.append(1)
                    return {"type": "http.request", "body": body, "more_body": False}
                await gone.wait()
                return {"type": "http.disconnect"}

            async def app_send(_message: Any) -> None:
                return None

            transport: Any = client._transport
            for stream in (False, True):
                sent: list[int] = []
                gone.clear()
                body = json.dumps(_body("base", max_tokens=450, stream=stream, n=4)).encode()
                scope = {
                    "type": "http", "method": "POST", "path": CHAT, "raw_path": CHAT.encode(), "query_string": b"",
                    "headers": [(b"content-type", b"application/json"), (b"host", b"test")], "http_version": "1.1",
                    "scheme": "http", "server": ("test", 80), "client": ("test", 1), "root_path": "",
                    "asgi": {"version": "3.0", "spec_version": "2.3"},
                }  # fmt: skip
                call = asyncio.create_task(transport.app(scope, app_receive, app_send))
                while service.num_requests == 0:
                    await asyncio.sleep(0.01)
                gone.set()
                await call
                assert service.num_requests == 0
                for _ in range(100):
                    if not any(figures.rows for figures in service.figures.values()):
                        break
                    await asyncio.sleep(0.02)
                # eight rows of 450 tokens were asked for; none may be written to its end
                assert sum(figures.written_tokens for figures in service.figures.values()) < 8 * 450 // 2

    in_loop(inner)
