"""Continuous batching against ``generate``: whatever stands beside a row, its tokens are its own."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hone.errors import ConfigError, ModelError
from hone.model.adapter_weights import AdapterWeights
from hone.model.batcher import Batcher
from hone.model.generate import Generation, generate
from hone.model.lora import adapted_layers
from hone.model.rows import BatcherLimits, RowRequest, RowToken
from hone.model.sampling import SamplingSettings, TokenBias
from tests.tiny import FAMILIES, VOCABULARY, attach_random_adapter, row_logits, tiny_model, token_rows

# Ragged, some beginning alike; the longest is longer than every sliding window here.
_ROWS = [row.ids for row in token_rows([5, 19, 1, 12, 30, 3], seed=3)]
PROMPTS = [*_ROWS, _ROWS[4][:20] + _ROWS[1][:7], _ROWS[4][:25]]
RANKS: dict[str | None, int] = {None: 0, "a": 4, "b": 3, "c": 8}
NEW_TOKENS = 14


def _adapted(family: str, name: str | None) -> Any:
    model = tiny_model(family)
    if name is not None:
        attach_random_adapter(model, rank=RANKS[name], alpha=8.0, seed=RANKS[name])
    return model


@functools.cache
def _weights(family: str, name: str) -> AdapterWeights:
    layers = adapted_layers(_adapted(family, name))
    factors = {layer: (one.lora_A.detach(), (one.lora_B * one.scale).detach()) for layer, one in layers}
    return AdapterWeights(RANKS[name], factors)


@functools.cache
def _expected(
    family: str, name: str | None, stop_ids: tuple[int, ...] = (), tokens: int = NEW_TOKENS
) -> list[Generation]:
    return generate(_adapted(family, name), PROMPTS, stop_ids=stop_ids, settings=SamplingSettings(tokens))


def _batcher(family: str = "llama", *names: str, **limits: int) -> Batcher:
    batcher = Batcher(tiny_model(family), context_length=256, limits=BatcherLimits(**limits))
    for name in names:
        assert batcher.add_adapter(name, _weights(family, name))
    return batcher


def _request(prompt: Sequence[int], adapter: str | None = None, tokens: int = NEW_TOKENS, **given: Any) -> RowRequest:
    stops = given.pop("stop_ids", ())
    how = given.pop("settings", None) or SamplingSettings(tokens)
    return RowRequest(tuple(prompt), stops, how, adapter=adapter, **given)


def _run(batcher: Batcher, before: Sequence[RowToken] = ()) -> dict[int, list[RowToken]]:
    told: dict[int, list[RowToken]] = {}
    for event in before:
        told.setdefault(event.ticket, []).append(event)
    while not batcher.idle:
        for event in batcher.step():
            told.setdefault(event.ticket, []).append(event)
    return told


def _answer(events: Sequence[RowToken]) -> Generation:
    assert [event.finish for event in events[:-1]] == [None] * (len(events) - 1)
    ids = tuple(event.token for event in events if event.token is not None)
    return Generation(ids, events[-1].finish == "stop")


def _tokens_of_passes(batcher: Batcher) -> list[int]:
    """Tokens of each forward pass from now on."""
    sizes: list[int] = []
    batcher.model.register_forward_pre_hook(
        lambda _module, _args, keywords: sizes.append(keywords["input_ids"].shape[1]), with_kwargs=True
    )
    return sizes


@pytest.mark.parametrize("family", FAMILIES)
def test_rows_of_several_adapters_and_of_the_base_answer_as_alone(family: str) -> None:
    stops = tuple({_expected(family, name)[index].ids[5] for name, index in ((None, 0), ("a", 1), ("c", 4))})
    batcher = _batcher(family, "a", "b", "c", max_rows=5, chunk_tokens=16)
    asked = {
        batcher.submit(_request(prompt, name, stop_ids=stops)): (name, index)
        for index, prompt in enumerate(PROMPTS)
        for name in RANKS
    }
    found = {asked[ticket]: _answer(events) for ticket, events in _run(batcher).items()}
    expected = {(name, index): _expected(family, name, stops)[index] for name, index in asked.values()}
    assert found == expected
    assert any(answer.stopped for answer in expected.values())


def test_adapters_change_the_answers_that_are_compared() -> None:
    for family in ("llama", "qwen2", "phi", "gpt2"):
        assert len({tuple(answer.ids for answer in _expected(family, name)) for name in RANKS}) == len(RANKS), family


_ARRIVALS = st.lists(
    st.tuples(
        st.integers(0, len(PROMPTS) - 1),
        st.sampled_from(list(RANKS)),
        st.integers(1, NEW_TOKENS),
        st.integers(0, 6),  # steps before it comes
        st.one_of(st.none(), st.integers(0, 8)),  # steps until it is cancelled
    ),
    min_size=1,
    max_size=10,
)


@settings(max_examples=40)
@given(arrivals=_ARRIVALS, max_rows=st.integers(1, 4), chunk=st.integers(1, 40), cache=st.sampled_from([48, 90, 4096]))
def test_any_order_of_coming_and_going(arrivals: list[Any], max_rows: int, chunk: int, cache: int) -> None:
    batcher = _shared_batcher(max_rows, chunk, cache)
    wanted: dict[int, tuple[str | None, int, int]] = {}
    cancels: dict[int, list[int]] = {}
    cancelled: set[int] = set()
    told: dict[int, list[RowToken]] = {}
    coming = list(arrivals)
    step = pause = 0
    while coming or not batcher.idle:
        while coming and pause >= coming[0][3]:
            index, name, tokens, _, patience = coming.pop(0)
            pause = 0
            ticket = batcher.submit(_request(PROMPTS[index], name, tokens))
            wanted[ticket] = (name, index, tokens)
            if patience is not None:
                cancels.setdefault(step + patience, []).append(ticket)
        for ticket in cancels.pop(step, []):
            batcher.cancel(ticket)
            cancelled.add(ticket)
        for event in batcher.step():
            told.setdefault(event.ticket, []).append(event)
        assert batcher.num_rows <= max_rows
        step, pause = step + 1, pause + 1
    for ticket, (name, index, tokens) in wanted.items():
        expected = _expected("llama", name)[index].ids[:tokens]
        ids = tuple(event.token for event in told.get(ticket, []))
        assert ids == expected[: len(ids)]
        assert ids == expected or ticket in cancelled


@functools.cache
def _shared_model_batcher() -> Batcher:
    return _batcher("llama", "a", "b", "c")


def _shared_batcher(max_rows: int, chunk: int, cache: int) -> Batcher:
    """One batcher for all examples: what one leaves behind must not change the next."""
    batcher = _shared_model_batcher()
    if not batcher.idle:  # an example failed in the middle
        _shared_model_batcher.cache_clear()
        batcher = _shared_model_batcher()
    batcher.limits = BatcherLimits(max_rows=max_rows, chunk_tokens=chunk, cache_tokens=cache, max_live_ranks=12)
    return batcher


def test_a_long_prompt_holds_others_up_by_its_chunk_alone() -> None:
    batcher = _batcher(chunk_tokens=8)
    sizes = _tokens_of_passes(batcher)
    writing = batcher.submit(_request(PROMPTS[2], tokens=40))
    batcher.step()
    long = batcher.submit(_request([*range(3, 103)], tokens=1))
    short = batcher.submit(_request([7, 9, 5, 11], tokens=1))
    first: dict[int, int] = {}
    for step in range(20):
        events = batcher.step()
        assert writing in [event.ticket for event in events], "a row that writes gets a token in every step"
        for event in events:
            first.setdefault(event.ticket, step)
    assert max(sizes) <= 1 + 8
    assert first[short] == 0, "a short prompt has its share of the first step"
    assert first[long] == -(-(100 - 4) // 8)


def test_a_prefix_is_read_once() -> None:
    batcher = _batcher("llama", "a")
    sizes = _tokens_of_passes(batcher)
    first = batcher.submit(_request(PROMPTS[4]))
    asked = [first] + [batcher.submit(_request(PROMPTS[4], tokens=NEW_TOKENS)) for _ in range(3)]
    told = _run(batcher)
    assert [_answer(told[ticket]) for ticket in asked] == [_expected("llama", None)[4]] * 4
    assert [told[ticket][0].cached_tokens for ticket in asked] == [0, 29, 29, 29], "beside the one that reads it"
    assert sum(sizes) == 30 + 3 + 4 * (NEW_TOKENS - 1)

    again = batcher.submit(_request(PROMPTS[6]))
    assert _run(batcher)[again][0].cached_tokens == 20, "from the store, once the rows have left"
    # the next turn of a conversation: prompt, answer and more
    turn = [*PROMPTS[4], *_expected("llama", None)[4].ids, 9, 8, 7]
    events = _run_one(batcher, _request(turn))
    assert events[0].cached_tokens == 30 + NEW_TOKENS - 1
    assert (
        _answer(events) == generate(tiny_model("llama"), [turn], stop_ids=(), settings=SamplingSettings(NEW_TOKENS))[0]
    )
    other = _run_one(batcher, _request(PROMPTS[4], "a"))
    assert other[0].cached_tokens == 0, "keys and values follow from the adapter"
    assert _answer(other) == _expected("llama", "a")[4]


def _run_one(batcher: Batcher, request: RowRequest) -> list[RowToken]:
    ticket = batcher.submit(request)
    return _run(batcher)[ticket]


def test_stored_prefixes_stay_under_their_limit() -> None:
    batcher = _batcher(prefix_bytes=40_000)
    for prompt in PROMPTS:
        _run_one(batcher, _request(prompt))
        assert batcher.prefixes.num_bytes <= 40_000
    assert len(batcher.prefixes) > 1
    nothing = _batcher(prefix_bytes=0)
    assert [_run_one(nothing, _request(PROMPTS[4]))[0].cached_tokens for _ in range(2)] == [0, 0]


def test_the_adapter_used_least_goes_and_one_in_use_stays() -> None:
    sizes = {name: _weights("llama", name).num_bytes for name in "abc"}
    batcher = _batcher("llama", "a", "b", adapter_bytes=sizes["a"] + sizes["c"])
    _run_one(batcher, _request(PROMPTS[0], "a", 1))
    assert batcher.add_adapter("c", _weights("llama", "c"))
    assert [batcher.has_adapter(name) for name in "abc"] == [True, False, True]
    with pytest.raises(ModelError, match="not in memory"):
        batcher.submit(_request(PROMPTS[0], "b"))

    busy = [batcher.submit(_request(PROMPTS[1], name)) for name in "ac"]
    events = batcher.step()
    assert not batcher.add_adapter("b", _weights("llama", "b")), "both are in use"
    told = _run(batcher, events)
    assert [_answer(told[ticket]) for ticket in busy] == [_expected("llama", name)[1] for name in "ac"]
    assert batcher.add_adapter("b", _weights("llama", "b"))
    assert _answer(_run_one(batcher, _request(PROMPTS[1], "b"))) == _expected("llama", "b")[1]

    with pytest.raises(ModelError, match="raise the server's limits"):
        _batcher(adapter_bytes=10).add_adapter("a", _weights("llama", "a"))
    with pytest.raises(ModelError, match="rank 8"):
        _batcher(max_live_ranks=7).add_adapter("c", _weights("llama", "c"))


def test_who_has_no_room_in_the_layers_waits_and_is_not_passed() -> None:
    batcher = _batcher("llama", "a", "b", "c", max_live_ranks=8)
    asked = [(batcher.submit(_request(PROMPTS[0], name, tokens)), name, tokens)
             for name, tokens in (("a", 6), ("c", 3), ("a", 3), (None, 3))]  # fmt: skip
    events = batcher.step()
    assert (batcher.num_rows, batcher.num_waiting) == (1, 3)
    told = _run(batcher, events)
    for ticket, name, tokens in asked:
        assert _answer(told[ticket]).ids == _expected("llama", name)[0].ids[:tokens]


@pytest.mark.parametrize(("temperature", "top_p"), [(0.9, 1.0), (1.2, 0.7)])
def test_draws_are_those_of_generate(temperature: float, top_p: float) -> None:
    how = SamplingSettings(NEW_TOKENS, temperature, top_p, seed=11)
    expected = generate(_adapted("llama", "a"), [PROMPTS[1]] * 3, stop_ids=(9,), settings=how)
    batcher = _batcher("llama", "a", "b")
    noise = [batcher.submit(_request(prompt, "b")) for prompt in PROMPTS]
    asked = [batcher.submit(_request(PROMPTS[1], "a", settings=how, index=index, stop_ids=(9,))) for index in range(3)]
    told = _run(batcher)
    assert [_answer(told[ticket]) for ticket in asked] == expected
    assert len({answer.ids for answer in expected}) == 3
    assert len(noise) + 3 == len(told)


def test_log_probabilities_are_those_of_the_whole_text() -> None:
    events = _run_one(_batcher("llama", "b"), _request(PROMPTS[3], "b", 5, top_logprobs=3))
    model, text = _adapted("llama", "b"), list(PROMPTS[3])
    for event in events:
        logprobs_V = torch.log_softmax(row_logits(model, text)[-1], dim=-1)
        assert event.token is not None
        assert event.logprob == pytest.approx(float(logprobs_V[event.token]), abs=1e-4)
        best = logprobs_V.topk(3)
        assert [token for token, _ in event.top] == best.indices.tolist()
        assert [value for _, value in event.top] == pytest.approx(best.values.tolist(), abs=1e-4)
        text.append(event.token)


def test_bias_and_penalties_change_what_is_chosen() -> None:
    free = _expected("llama", None)[0].ids
    batcher = _batcher()
    banned = _run_one(batcher, _request(PROMPTS[0], bias=TokenBias({free[0]: -100.0})))
    assert free[0] not in [event.token for event in banned]
    forced = _run_one(batcher, _request(PROMPTS[0], bias=TokenBias({77: 100.0})))
    assert [event.token for event in forced] == [77] * NEW_TOKENS

    # the formula, worked on logits: 77 twice and 5 once before
    logits_V = torch.zeros(VOCABULARY)
    changed = TokenBias({3: 1.5}, presence_penalty=0.5, frequency_penalty=0.25).applied(logits_V, [77, 5, 77])
    assert {int(i): float(changed[i]) for i in changed.nonzero().flatten()} == {3: 1.5, 77: -1.0, 5: -0.75}
    assert not logits_V.any()


def test_a_refused_token_is_never_written_and_the_next_likely_one_is() -> None:
    def even(written: Sequence[int], token: int) -> bool:
        return token % 2 == 0

    events = _run_one(_batcher(), _request(PROMPTS[3], tokens=6, allowed=even))
    model, text = tiny_model("llama"), list(PROMPTS[3])
    for event in events:
        logits_V = row_logits(model, text)[-1]
        logits_V[1::2] = float("-inf")
        assert event.token == int(logits_V.argmax())
        text.append(event.token)


def test_what_cannot_fit_is_refused_at_once() -> None:
    batcher = _batcher(cache_tokens=100)
    for request in (_request(()), _request([3] * 90, tokens=11), _request([3], tokens=0)):
        with pytest.raises(ConfigError):
            batcher.submit(request)
    assert len(_run_one(batcher, _request([3] * 90, tokens=10))) == 10


def test_rows_grow_past_every_pool() -> None:
    # 128 is the first pool's length
    model = tiny_model("llama", max_position_embeddings=1024)
    batcher = Batcher(tiny_model("llama", max_position_embeddings=1024), context_length=1024)
    prompts = [tuple(range(3, 123)), tuple(range(40, 300, 2)), (5, 6)]
    expected = generate(model, prompts, stop_ids=(), settings=SamplingSettings(20))
    asked = [batcher.submit(_request(prompt, tokens=20)) for prompt in prompts]
    told = _run(batcher)
    assert [_answer(told[ticket]) for ticket in asked] == expected


def test_an_architecture_that_cannot_be_batched_is_refused() -> None:
    model = tiny_model("llama")
    type(model)._supports_attention_backend, before = False, type(model)._supports_attention_backend
    try:
        with pytest.raises(ModelError, match="cannot be served"):
            Batcher(model, context_length=256)
    finally:
        type(model)._supports_attention_backend = before


def test_other_logits_than_the_models_own_are_noticed() -> None:
    model: Any = tiny_model("llama")
    for layer in model.model.layers:
        layer.self_attn.layer_idx = 0  # both layers would share one cache
    with pytest.raises(ModelError, match="gives other logits"):
        Batcher(model, context_length=256)
