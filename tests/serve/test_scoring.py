"""Log-probabilities of ``/v1/completions``, of prompts and answers, against transformers and PEFT."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from peft import PeftModel
from starlette.testclient import TestClient
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from hone.model.rows import BatcherLimits
from hone.serve.completion_logprobs import CompletionLogprobs
from hone.types import JsonDict
from tests.serve.answering import Runs, make_runs, pieces_of, with_client
from tests.serve.conftest import settings_of, whole_app
from tests.tiny import VOCABULARY, save_tiny, tiny_tokenizer

ROUTE = "/v1/completions"
TEXTS = ["the lamp is lit", "naïve ☕ and more: the order is on the way, the lamp in red town is out", "a"]
IDS = [[5, 9, 200, 17, 3], [1, 120, 10, 2], [*range(3, 120)], [40]]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    return make_runs(tmp_path_factory.mktemp("scoring"))


@functools.cache
def _reference(base: str, folder: str) -> Any:
    model: Any = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32, attn_implementation="eager")
    return (model if folder == base else PeftModel.from_pretrained(model, Path(folder) / "adapter")).eval()


def _logprobs(runs: Runs, name: str, ids: Sequence[int]) -> Tensor:
    """[L, V] after each of the tokens, by transformers and PEFT."""
    model = _reference(runs.references["base"], runs.references[name])
    with torch.no_grad():
        return torch.log_softmax(model(input_ids=torch.tensor([list(ids)])).logits[0].double(), dim=-1)


def _check(found: JsonDict, expected_LV: Tensor, ids: Sequence[int], count: int, tokenizer: Any) -> None:
    """Hold a ``logprobs`` object against log-probabilities after each of ``ids``, all of which it is to have."""
    assert set(found) == {"tokens", "token_logprobs", "top_logprobs", "text_offset"}
    assert {len(values) for values in found.values()} == {len(ids)}
    assert found["token_logprobs"][0] is found["top_logprobs"][0] is None
    for place, token in enumerate(ids):
        text = tokenizer.decode([token])
        assert found["tokens"][place] == (f"token_id:{token}" if not text or "\ufffd" in text else text)
    for place, token in enumerate(ids[1:], 1):
        before_V, logprob = expected_LV[place - 1], found["token_logprobs"][place]
        assert logprob == pytest.approx(float(before_V[token]), abs=1e-4)
        top = found["top_logprobs"][place]
        assert top[found["tokens"][place]] == logprob
        # the likeliest, and the token itself where it is none of them
        best = before_V.topk(count)
        assert len(top) == count + (token not in best.indices.tolist())
        assert sorted(top.values())[-count:] == pytest.approx(sorted(best.values.tolist()), abs=1e-4) or not count
        assert max(top.values()) == pytest.approx(float(before_V.max() if count else before_V[token]), abs=1e-4)


@pytest.mark.parametrize("name", ["base", "four", "eight", "dora"])
@pytest.mark.parametrize("count", [0, 3])
def test_prompts_are_as_likely_as_transformers_says(runs: Runs, name: str, count: int) -> None:
    tokenizer: Any = AutoTokenizer.from_pretrained(runs.references["base"])
    asked = {"text": TEXTS, "ids": IDS, "one text": TEXTS[1], "one row": IDS[2]}

    async def work(client: httpx.AsyncClient) -> None:
        for prompt in asked.values():
            several = prompt if isinstance(prompt[0], list) or prompt is TEXTS else [prompt]
            rows = [tokenizer(one)["input_ids"] if isinstance(one, str) else one for one in several]
            body = {"model": name, "prompt": prompt, "echo": True, "logprobs": count, "temperature": 0}
            scored = (await client.post(ROUTE, json={**body, "max_tokens": 0})).json()
            assert [choice["index"] for choice in scored["choices"]] == list(range(len(rows)))
            assert scored["usage"]["completion_tokens"] == 0
            assert scored["usage"]["prompt_tokens"] == sum(map(len, rows))
            for choice, one, ids in zip(scored["choices"], several, rows, strict=True):
                assert choice["text"] == (one if isinstance(one, str) else tokenizer.decode(one))
                assert choice["finish_reason"] == "length"
                _check(choice["logprobs"], _logprobs(runs, name, ids), ids, count, tokenizer)
            written = (await client.post(ROUTE, json={**body, "max_tokens": 1})).json()
            for choice, ids in zip(written["choices"], rows, strict=True):
                expected_LV = _logprobs(runs, name, ids)
                whole = [*ids, int(expected_LV[-1].argmax())]
                _check(choice["logprobs"], expected_LV, whole, count, tokenizer)

    with_client(runs, work)


@pytest.mark.parametrize("name", ["base", "four"])
def test_an_answer_after_an_echo_is_the_answer_without_one(runs: Runs, name: str) -> None:
    async def work(client: httpx.AsyncClient) -> None:
        for prompt in (TEXTS, IDS):
            body = {"model": name, "prompt": prompt, "temperature": 0, "max_tokens": 9, "logprobs": 2}
            plain = (await client.post(ROUTE, json=body)).json()
            echoed = (await client.post(ROUTE, json={**body, "echo": True})).json()
            silent = (await client.post(ROUTE, json={**body, "echo": True, "logprobs": None})).json()
            assert plain["usage"]["completion_tokens"] == echoed["usage"]["completion_tokens"] > len(prompt)
            for one, other, third in zip(plain["choices"], echoed["choices"], silent["choices"], strict=True):
                assert other["text"].endswith(one["text"])
                assert other["text"] == third["text"]
                assert third["logprobs"] is None
                assert one["finish_reason"] == other["finish_reason"]
                count, begin = len(one["logprobs"]["tokens"]), len(other["text"]) - len(one["text"])
                assert other["logprobs"]["tokens"][-count:] == one["logprobs"]["tokens"]
                assert other["logprobs"]["text_offset"][-count:] == [
                    begin + offset for offset in one["logprobs"]["text_offset"]
                ]
                for field in ("token_logprobs", "top_logprobs"):
                    for value, again in zip(one["logprobs"][field], other["logprobs"][field][-count:], strict=True):
                        assert again == pytest.approx(value, abs=1e-5)

    with_client(runs, work, limits=BatcherLimits(chunk_tokens=11))


def test_a_stream_tells_what_the_whole_tells(runs: Runs) -> None:
    async def work(client: httpx.AsyncClient) -> None:
        for tokens in (0, 1, 6):
            body = {"model": "four", "prompt": TEXTS, "temperature": 0, "max_tokens": tokens, "logprobs": 1, "n": 2}
            body["echo"] = True
            whole = (await client.post(ROUTE, json=body)).json()["choices"]
            told: list[JsonDict] = [{"text": "", "finish_reason": None, "logprobs": {}} for _ in whole]
            for piece in pieces_of(await client.post(ROUTE, json={**body, "stream": True})):
                (choice,) = piece["choices"]
                one = told[choice["index"]]
                one["text"] += choice["text"]
                one["finish_reason"] = one["finish_reason"] or choice["finish_reason"]
                for field, values in (choice["logprobs"] or {}).items():
                    one["logprobs"].setdefault(field, []).extend(values)
            for index, (one, other) in enumerate(zip(told, whole, strict=True)):
                assert one["text"] == other["text"]
                assert one["text"].startswith(TEXTS[index // 2])
                assert one["finish_reason"] == other["finish_reason"]
                assert one["logprobs"]["tokens"] == other["logprobs"]["tokens"]
                assert one["logprobs"]["text_offset"] == other["logprobs"]["text_offset"]
                assert one["logprobs"]["token_logprobs"] == pytest.approx(other["logprobs"]["token_logprobs"], abs=1e-5)

    with_client(runs, work)


def test_the_token_that_ends_an_answer_is_told_with_the_others(runs: Runs) -> None:
    """Clients of echo ask for one token and leave out the last of the list, whatever it is."""
    end = 2

    async def work(client: httpx.AsyncClient) -> None:
        body = {"model": "base", "prompt": [IDS[0]], "temperature": 0, "max_tokens": 1, "logprobs": 1}
        body["logit_bias"] = {str(end): 100}
        for echo, ids in ((True, [*IDS[0], end]), (False, [end])):
            (choice,) = (await client.post(ROUTE, json={**body, "echo": echo})).json()["choices"]
            assert choice["finish_reason"] == "stop"
            found = choice["logprobs"]
            assert len(found["token_logprobs"]) == len(ids)
            expected = float(_logprobs(runs, "base", IDS[0])[-1, end])
            assert found["tokens"][-1] == "<|im_end|>"
            assert found["token_logprobs"][-1] == pytest.approx(expected, abs=1e-4), "before the bias"
            assert found["text_offset"][-1] == len(choice["text"])

    with_client(runs, work)


def test_offsets_are_the_places_of_tokens_in_the_text(runs: Runs) -> None:
    async def work(client: httpx.AsyncClient) -> None:
        text = "the lamp ☕ is naïve<|im_end|> and lit \U0001f4a1"
        body = {"model": "base", "prompt": text, "max_tokens": 0, "logprobs": 0, "echo": True}
        (choice,) = (await client.post(ROUTE, json=body)).json()["choices"]
        assert choice["text"] == text
        found = choice["logprobs"]
        cut = [place for place, token in enumerate(found["tokens"]) if token.startswith("token_id:")]
        assert len(cut) >= 6, "tokens that are parts of characters"
        for token, offset in zip(found["tokens"], found["text_offset"], strict=True):
            if token.startswith("token_id:"):
                assert text[offset] in "☕ï\U0001f4a1"
            else:
                assert text[offset:].startswith(token)
        assert sorted(found["text_offset"]) == found["text_offset"]

    with_client(runs, work)


def test_what_the_tokenizer_puts_before_a_text_stands_at_its_beginning() -> None:
    decode = tiny_tokenizer().decode
    ids = [1, *tiny_tokenizer()("the lamp")["input_ids"]]
    logprobs = CompletionLogprobs(lambda some: str(decode(list(some))))
    logprobs.go_on_at(-len("<|im_start|>"))
    for token in ids:
        logprobs.add(token, None if token == 1 else -float("inf"), [(7, -0.5)])
    found = logprobs.object()
    assert found["text_offset"][:2] == [0, 0]
    for token, offset in zip(found["tokens"][1:], found["text_offset"][1:], strict=True):
        assert "the lamp"[offset:].startswith(token)
    assert found["token_logprobs"][:2] == [None, -9999.0], "JSON has no infinity"
    assert min(found["top_logprobs"][1].values()) == -9999.0


@pytest.mark.parametrize(
    ("given", "param", "code"),
    [
        ({"prompt": [5, VOCABULARY]}, "prompt", None),
        ({"prompt": [[5, 6], [7, -1]]}, "prompt", None),
        ({"prompt": ""}, "prompt", None),
        ({"prompt": []}, "prompt", None),
        ({"prompt": [[5], []]}, "prompt", None),
        ({"prompt": [[5], "a"]}, "prompt", "invalid_value"),
        ({"prompt": [5.5]}, "prompt", "invalid_value"),
        ({"prompt": [True]}, "prompt", "invalid_value"),
        ({"prompt": None}, "prompt", "invalid_value"),
        ({"prompt": [[5] * 512]}, "prompt", "context_length_exceeded"),
        ({"prompt": [[5] * 513], "max_tokens": 0}, "prompt", "context_length_exceeded"),
        ({"prompt": "a " * 513}, "prompt", "context_length_exceeded"),
        ({"logprobs": 6}, "logprobs", "invalid_value"),
        ({"logprobs": -1}, "logprobs", "invalid_value"),
        ({"max_tokens": -1}, "max_tokens", "invalid_value"),
        ({"echo": "please"}, "echo", "invalid_value"),
        ({"suffix": "x"}, "suffix", "unsupported_parameter"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_what_cannot_be_scored_is_refused(
    small: TestClient, given: JsonDict, param: str, code: str | None, stream: bool
) -> None:
    body = {"model": "small", "prompt": "a", "echo": True, "logprobs": 1, "max_tokens": 1, "stream": stream} | given
    answered = small.post(ROUTE, json=body)
    assert answered.status_code == 400, answered.text
    error = answered.json()["error"]
    assert error["type"] == "invalid_request_error"
    assert (error["param"], error["code"]) == (param, code), error["message"]


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> TestClient:
    """A client of the whole application over a tiny base."""
    folder = tmp_path_factory.mktemp("small")
    base = save_tiny(folder / "tiny", max_position_embeddings=512)
    return TestClient(whole_app(settings_of(folder, bases={"small": str(base)})), raise_server_exceptions=False)


def test_a_prompt_may_fill_the_context_where_nothing_is_written(small: TestClient) -> None:
    body = {"model": "small", "prompt": [[5] * 512], "echo": True, "logprobs": 0, "max_tokens": 0}
    (choice,) = small.post(ROUTE, json=body).json()["choices"]
    assert len(choice["logprobs"]["token_logprobs"]) == 512
