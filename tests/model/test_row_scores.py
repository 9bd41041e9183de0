"""Scores of a prompt's tokens, against all logits of the prompt by itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch

from hone.model import row_scores
from hone.model.adapter_weights import AdapterWeights
from hone.model.batcher import Batcher
from hone.model.generate import generate
from hone.model.lora import adapted_layers
from hone.model.row_scores import TokenScore, token_scores
from hone.model.rows import BatcherLimits, RowRequest, RowToken
from hone.model.sampling import SamplingSettings
from tests.tiny import FAMILIES, VOCABULARY, attach_random_adapter, row_logits, tiny_model, token_rows

PROMPTS = [row.ids for row in token_rows([5, 40, 1, 2, 23], seed=4)]


def _adapted(family: str, adapter: str | None) -> Any:
    model = tiny_model(family)
    if adapter is not None:
        attach_random_adapter(model, rank=4, alpha=8.0, seed=1)
    return model


def _batcher(family: str, **limits: int) -> Batcher:
    layers = adapted_layers(_adapted(family, "a"))
    factors = {layer: (one.lora_A.detach(), (one.lora_B * one.scale).detach()) for layer, one in layers}
    batcher = Batcher(tiny_model(family), context_length=256, limits=BatcherLimits(**limits))
    assert batcher.add_adapter("a", AdapterWeights(4, factors))
    return batcher


def _request(prompt: Sequence[int], tokens: int, adapter: str | None = None, **given: Any) -> RowRequest:
    stops = given.pop("stop_ids", ())
    return RowRequest(tuple(prompt), stops, SamplingSettings(tokens), adapter=adapter, **given)


def _run(batcher: Batcher) -> dict[int, list[RowToken]]:
    told: dict[int, list[RowToken]] = {}
    while not batcher.idle:
        for event in batcher.step():
            told.setdefault(event.ticket, []).append(event)
    return told


def _check(scores: Sequence[TokenScore], family: str, adapter: str | None, ids: Sequence[int], count: int) -> None:
    logprobs_LV = torch.log_softmax(row_logits(_adapted(family, adapter), ids).double(), dim=-1)
    assert len(scores) == len(ids) - 1
    for place, score in enumerate(scores):
        assert score.logprob == pytest.approx(float(logprobs_LV[place, ids[place + 1]]), abs=1e-4)
        best = logprobs_LV[place].topk(count)
        assert [token for token, _ in score.top] == best.indices.tolist()
        assert [value for _, value in score.top] == pytest.approx(best.values.tolist(), abs=1e-4)


@pytest.mark.parametrize("chunk", [7, 256])
@pytest.mark.parametrize("family", FAMILIES)
def test_prompts_of_base_and_adapter_are_scored_side_by_side(family: str, chunk: int) -> None:
    batcher = _batcher(family, chunk_tokens=chunk, max_rows=6)
    asked = {}
    for place, prompt in enumerate(PROMPTS):
        for adapter in (None, "a"):
            for tokens, count in ((0, 2), (3, place % 3)):
                ticket = batcher.submit(_request(prompt, tokens, adapter, prompt_logprobs=count))
                asked[ticket] = (prompt, adapter, tokens, count)
            batcher.submit(_request(prompt, 4, adapter))  # which is not scored
    told = _run(batcher)
    assert len(told) == len(asked) * 3 // 2
    for ticket, (prompt, adapter, tokens, count) in asked.items():
        first, *others = told[ticket]
        _check(first.prompt_scores, family, adapter, prompt, count)
        assert not any(event.prompt_scores for event in others), "told once"
        assert told[ticket][-1].finish == "length"
        written = [event.token for event in told[ticket]]
        if tokens == 0:
            assert written == [None]
        else:
            settings = SamplingSettings(tokens)
            (alone,) = generate(_adapted(family, adapter), [prompt], stop_ids=(), settings=settings)
            assert tuple(written) == alone.ids
    assert all(event.prompt_scores == () for ticket in told.keys() - asked.keys() for event in told[ticket])


def test_a_cached_prompt_is_scored_too_and_scoring_pushes_nothing_out() -> None:
    batcher = _batcher("llama")
    batcher.submit(_request(PROMPTS[1], 3))
    _run(batcher)
    kept = len(batcher.prefixes)
    assert kept == 1
    tickets = [batcher.submit(_request(PROMPTS[1], 0, prompt_logprobs=0)) for _ in range(2)]
    told = _run(batcher)
    for ticket in tickets:
        (event,) = told[ticket]
        assert event.cached_tokens == 0
        _check(event.prompt_scores, "llama", None, PROMPTS[1], 0)
    batcher.submit(_request(PROMPTS[4], 0, prompt_logprobs=0))
    _run(batcher)
    assert len(batcher.prefixes) == kept


def test_a_stop_token_has_its_log_probability() -> None:
    prompt = PROMPTS[0]
    logprobs_V = torch.log_softmax(row_logits(tiny_model("llama"), prompt)[-1].double(), dim=-1)
    stop = int(logprobs_V.argmax())
    batcher = _batcher("llama")
    batcher.submit(_request(prompt, 5, stop_ids=(stop,), top_logprobs=1, prompt_logprobs=0))
    ((event,),) = _run(batcher).values()
    assert (event.token, event.stop_id, event.finish) == (None, stop, "stop")
    assert event.logprob == pytest.approx(float(logprobs_V[stop]), abs=1e-4)
    assert event.top == ((stop, event.logprob),)
    _check(event.prompt_scores, "llama", None, prompt, 0)


def test_logits_of_a_long_prompt_never_stand_together() -> None:
    batcher = _batcher("llama", chunk_tokens=16)
    sizes: list[int] = []
    batcher.model.get_output_embeddings().register_forward_hook(lambda _m, _i, output: sizes.append(output.shape[1]))
    batcher.submit(_request(range(3, 203), 0, prompt_logprobs=0))
    _run(batcher)
    assert max(sizes) <= 16 + 1
    assert len(sizes) == -(-200 // 16), "one pass over the prompt"


@pytest.mark.parametrize("values", [1, 3 * VOCABULARY, 1 << 23])
def test_chunks_of_rows_change_nothing(monkeypatch: pytest.MonkeyPatch, values: int) -> None:
    monkeypatch.setattr(row_scores, "_CHUNK_VALUES", values)
    torch.manual_seed(0)
    logits_SV, targets = torch.randn(10, VOCABULARY), list(range(10))
    logprobs_SV = torch.log_softmax(logits_SV, dim=-1)
    found = token_scores(logits_SV, targets, 2)
    assert [score.logprob for score in found] == pytest.approx([float(logprobs_SV[at, at]) for at in targets])
    assert [score.top[0][0] for score in found] == logprobs_SV.argmax(dim=-1).tolist()
    assert token_scores(logits_SV[:0], [], 2) == []
    half = token_scores(logits_SV.bfloat16(), targets, 0)
    assert [score.logprob for score in half] == pytest.approx([score.logprob for score in found], abs=0.05)
