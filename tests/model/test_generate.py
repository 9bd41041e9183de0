"""Generation against transformers' own ``generate``, and sampling against an independent nucleus."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import pytest
import torch
from transformers import PreTrainedModel
from transformers.generation.logits_process import TopPLogitsWarper

from hone.model.generate import Generation, SamplingSettings, generate, shared_opening, stream
from tests.tiny import FAMILIES, row_logits, tiny_model, token_rows

# Ragged; the longest is longer than every sliding window here, and so are the answers.
PROMPTS = [row.ids for row in token_rows([5, 19, 1, 12, 12, 30, 3], seed=3)]
NEW_TOKENS = 14


def _reference(model: PreTrainedModel, prompt: Sequence[int], stop_ids: Sequence[int]) -> Generation:
    """transformers' greedy answer to one prompt by itself."""
    ids = torch.tensor([prompt])
    out = model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        do_sample=False,
        max_new_tokens=NEW_TOKENS,
        eos_token_id=list(stop_ids) or None,
        pad_token_id=0,
    )[0, len(prompt) :].tolist()
    stopped = bool(out) and out[-1] in stop_ids
    return Generation(tuple(out[:-1] if stopped else out), stopped)


def _greedy(model: PreTrainedModel, stop_ids: Sequence[int] = (), batch_size: int = 32) -> list[Generation]:
    settings = SamplingSettings(max_new_tokens=NEW_TOKENS)
    return generate(model, PROMPTS, stop_ids=stop_ids, settings=settings, batch_size=batch_size)


def _stops_that_end_some(model: PreTrainedModel) -> tuple[int, ...]:
    """Stop tokens at which some answers end in the middle: tokens that two of them pass where nothing stops them."""
    free = _greedy(model)
    return (free[0].ids[4], free[3].ids[7])


@pytest.mark.parametrize("family", FAMILIES)
def test_batched_greedy_answers_are_those_of_transformers(family: str) -> None:
    model = tiny_model(family)
    model.generation_config.eos_token_id = None
    stops = _stops_that_end_some(model)
    expected = [_reference(model, prompt, stops) for prompt in PROMPTS]
    assert any(answer.stopped for answer in expected)
    assert len({len(answer.ids) for answer in expected}) > 1, "answers of several lengths, so that rows leave"
    assert _greedy(model, stops, batch_size=32) == expected
    assert _greedy(model, stops, batch_size=3) == expected


@pytest.mark.parametrize(("count", "length", "together"), [
    (64, 2, [64]), (96, 2, [96]), (97, 2, [64, 33]), (40, 200, [40]), (49, 200, [32, 17]), (100, 200, [32, 32, 36]),
])  # fmt: skip
def test_short_rows_are_decoded_in_larger_batches_and_the_last_ones_join(
    monkeypatch: pytest.MonkeyPatch, count: int, length: int, together: list[int]
) -> None:
    seen: list[int] = []

    def answer(model: object, prompts: object, batch: Sequence[int], *_: object) -> list[tuple[int, Generation]]:
        seen.append(len(batch))
        return [(index, Generation((index,), True)) for index in batch]

    monkeypatch.setattr("hone.model.generate._decode_batch", answer)
    found = generate(tiny_model("llama"), [[1] * length] * count, stop_ids=(), settings=SamplingSettings(8))
    assert [one.ids for one in found] == [(index,) for index in range(count)]
    assert seen == together


@pytest.mark.parametrize("family", ["llama", "gemma3", "gpt2"])
def test_left_padding_is_exact_in_fused_attention_too(family: str) -> None:
    model = tiny_model(family)
    expected = _greedy(model, batch_size=1)
    model.set_attn_implementation("sdpa")
    assert _greedy(model) == expected


def test_greedy_is_the_argmax_of_the_whole_text_read_anew() -> None:
    # no cache, no batch: the slow definition
    model = tiny_model("gemma3")
    answer = _greedy(model)[1]
    text = list(PROMPTS[1])
    for token in answer.ids:
        assert token == int(row_logits(model, text)[-1].argmax())
        text.append(token)


def test_an_answer_ends_at_any_stop_token_and_at_the_limit() -> None:
    model = tiny_model("llama")
    free = _greedy(model)
    assert all(len(answer.ids) == NEW_TOKENS and not answer.stopped for answer in free)

    stops = (free[0].ids[4], free[3].ids[7])
    for answer, whole in zip(_greedy(model, stops), free, strict=True):
        places = [place for place, token in enumerate(whole.ids) if token in stops]
        assert answer == (Generation(whole.ids[: places[0]], True) if places else whole)


def test_an_answer_may_be_empty() -> None:
    model = tiny_model("llama")
    first = _greedy(model)[2].ids[0]
    assert _greedy(model, [first])[2] == Generation((), True)


def test_rows_leave_the_batch_when_they_end() -> None:
    model = tiny_model("llama")
    free = [answer.ids for answer in _greedy(model)]
    stops = _stops_that_end_some(model)
    sizes: list[int] = []
    model.register_forward_pre_hook(
        lambda _module, _args, keywords: sizes.append(len(keywords["input_ids"])), with_kwargs=True
    )
    _greedy(model, stops)

    def lives(ids: tuple[int, ...], step: int) -> bool:
        return not any(token in stops for token in ids[:step])

    wanted = [sum(lives(ids, step) for ids in free) for step in range(NEW_TOKENS)]
    assert sizes == wanted
    assert sizes[0] == len(PROMPTS) > sizes[-1] > 0


def test_decoding_ends_with_the_last_row() -> None:
    model = tiny_model("llama")
    calls = []
    model.register_forward_pre_hook(lambda _module, _args, _keywords: calls.append(1), with_kwargs=True)
    everything = range(model.config.vocab_size)
    answers = _greedy(model, everything)
    assert answers == [Generation((), True)] * len(PROMPTS)
    assert len(calls) == 1


def test_each_answer_is_counted_once() -> None:
    counts: list[int] = []
    settings = SamplingSettings(max_new_tokens=3)
    generate(tiny_model("llama"), PROMPTS, stop_ids=[], settings=settings, batch_size=3, on_done=counts.append)
    assert counts == list(range(1, len(PROMPTS) + 1))


def test_no_prompts_no_answers() -> None:
    assert generate(tiny_model("llama"), [], stop_ids=[], settings=SamplingSettings(max_new_tokens=3)) == []


@pytest.mark.parametrize("family", ["llama", "gemma3"])
def test_a_draw_depends_on_seed_and_index_and_not_on_the_neighbours(family: str) -> None:
    model = tiny_model(family)
    settings = SamplingSettings(max_new_tokens=NEW_TOKENS, temperature=1.0, top_p=0.95, seed=4)
    together = generate(model, PROMPTS, stop_ids=[7, 9, 11], settings=settings)
    assert generate(model, PROMPTS, stop_ids=[7, 9, 11], settings=settings, batch_size=2) == together
    # row 3 keeps its index and its prompt while all others change
    others = [PROMPTS[3] if index == 3 else (*prompt[::-1], 5, 6, 7) for index, prompt in enumerate(PROMPTS)]
    assert generate(model, others, stop_ids=[7, 9, 11], settings=settings)[3] == together[3]


def test_seeds_and_rows_draw_differently() -> None:
    model = tiny_model("llama")

    def draws(seed: int) -> list[Generation]:
        settings = SamplingSettings(max_new_tokens=NEW_TOKENS, temperature=1.0, seed=seed)
        return generate(model, [PROMPTS[0]] * 4, stop_ids=[], settings=settings)

    assert draws(0) == draws(0)
    # two seeds, four equal prompts: eight answers, all different
    assert len({answer.ids for answer in draws(0) + draws(1)}) == 8


@pytest.mark.parametrize(("temperature", "top_p"), [(1.0, 1.0), (0.7, 1.0), (1.0, 0.8), (1.3, 0.5), (1.0, 1e-9)])
def test_draws_follow_the_nucleus(temperature: float, top_p: float) -> None:
    # a small vocabulary, so that 3000 draws see all of it
    model = tiny_model("llama", vocab_size=24)
    prompt, draws = [5, 9, 3, 17], 3000
    logits_1V = row_logits(model, prompt)[-1:] / temperature
    if top_p < 1:
        logits_1V = TopPLogitsWarper(top_p=top_p)(torch.tensor([prompt]), logits_1V)
    expected_V = torch.softmax(logits_1V[0], dim=-1)

    settings = SamplingSettings(max_new_tokens=1, temperature=temperature, top_p=top_p, seed=1)
    answers = generate(model, [prompt] * draws, stop_ids=[], settings=settings, batch_size=500)

    counts = Counter(answer.ids[0] for answer in answers)
    assert all(expected_V[token] > 0 for token in counts), "a token outside the nucleus was drawn"
    for token, probability in enumerate(expected_V.tolist()):
        deviation = (draws * probability * (1 - probability)) ** 0.5
        assert abs(counts[token] - draws * probability) <= 4.5 * deviation + 1e-6


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_stream_gives_what_generate_gives(temperature: float) -> None:
    model = tiny_model("gemma3")
    settings = SamplingSettings(max_new_tokens=NEW_TOKENS, temperature=temperature, top_p=0.9, seed=2)
    free = generate(model, [PROMPTS[1]], stop_ids=[], settings=settings)[0]
    assert tuple(stream(model, PROMPTS[1], stop_ids=[], settings=settings)) == free.ids

    stops = [free.ids[6]]
    ended = generate(model, [PROMPTS[1]], stop_ids=stops, settings=settings)[0]
    assert ended.stopped
    assert tuple(stream(model, PROMPTS[1], stop_ids=stops, settings=settings)) == ended.ids


def test_a_stream_gives_each_token_as_soon_as_it_is_chosen() -> None:
    model = tiny_model("llama")
    calls = []
    model.register_forward_pre_hook(lambda _module, _args, _keywords: calls.append(1), with_kwargs=True)
    tokens = stream(model, PROMPTS[0], stop_ids=[], settings=SamplingSettings(max_new_tokens=5))
    for number in range(1, 4):
        next(tokens)
        assert len(calls) == number


# --- what all prompts begin with is computed once ---


@pytest.mark.parametrize("family", FAMILIES)
def test_a_shared_opening_changes_no_token(family: str) -> None:
    """Sixteen tokens and more in common, against each prompt by itself; also where a window forbids the sharing."""
    model = tiny_model(family)
    model.generation_config.eos_token_id = None
    opening = token_rows([21], seed=9)[0].ids
    prompts = [opening + prompt for prompt in PROMPTS]
    stops = (generate(model, prompts, stop_ids=(), settings=SamplingSettings(NEW_TOKENS))[0].ids[4],)
    expected = [_reference(model, prompt, stops) for prompt in prompts]
    settings = SamplingSettings(NEW_TOKENS)
    assert generate(model, prompts, stop_ids=stops, settings=settings) == expected
    assert generate(model, prompts, stop_ids=stops, settings=settings, batch_size=3) == expected


def test_a_shared_opening_is_computed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model("llama")
    opening = token_rows([40], seed=9)[0].ids
    prompts = [opening + prompt for prompt in PROMPTS]
    seen: list[int] = []
    inner = model.forward
    monkeypatch.setattr(model, "forward", lambda *a, **k: (seen.append(k["input_ids"].numel()), inner(*a, **k))[1])
    generate(model, prompts, stop_ids=(), settings=SamplingSettings(1))
    assert seen == [40, len(prompts) * max(map(len, PROMPTS))]


@pytest.mark.parametrize(
    ("prompts", "length"),
    [([], 0), ([(1, 2, 3)], 2), ([(1, 2, 3), (1, 2, 4)], 2), ([(1, 2), (1, 2, 3)], 1), ([(1,), (2,)], 0)],
)
def test_every_prompt_keeps_a_token_of_its_own(prompts: list[tuple[int, ...]], length: int) -> None:
    assert shared_opening(prompts) == length


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt2"])
def test_samples_of_a_prompt_share_its_reading(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model(family)
    settings = SamplingSettings(max_new_tokens=6, temperature=1.0)
    prompts = [prompt for prompt in PROMPTS[:3] for _ in range(4)]
    seeds = [1000 + number for number in range(len(prompts))]
    alone = [
        generate(model, [prompt], stop_ids=[7], settings=settings, seeds=[seed])[0]
        for prompt, seed in zip(prompts, seeds, strict=True)
    ]
    read: list[int] = []
    forward = model.forward

    def counted(*args: object, **named: object) -> object:
        read.append(named["input_ids"].shape[0])  # type: ignore[attr-defined]
        return forward(*args, **named)

    monkeypatch.setattr(model, "forward", counted)
    together = generate(model, prompts, stop_ids=[7], settings=settings, seeds=seeds)
    assert together == alone
    assert read[0] == 3, "each prompt is read once"
    assert read[1] == 12
    assert len(set(together[:4])) > 1, "each sample has draws of its own"
    assert all(answer.stop_id == (7 if answer.stopped else None) for answer in together)


@pytest.mark.parametrize("family", FAMILIES)
def test_drawn_tokens_have_the_log_probabilities_of_a_whole_pass(family: str) -> None:
    model = tiny_model(family)
    settings = SamplingSettings(max_new_tokens=NEW_TOKENS, temperature=1.0, seed=1)
    answers = generate(model, PROMPTS, stop_ids=tuple(range(40)), settings=settings, batch_size=3)
    assert any(one.stopped for one in answers)
    for prompt, answer in zip(PROMPTS, answers, strict=True):
        drawn = [*answer.ids, *([] if answer.stop_id is None else [answer.stop_id])]
        with torch.no_grad():
            logits_LV = model(torch.tensor([[*prompt, *drawn]])).logits[0].float()
        expected_LV = torch.log_softmax(logits_LV[len(prompt) - 1 : -1], dim=-1)
        expected_L = expected_LV.gather(1, torch.tensor(drawn).unsqueeze(1)).squeeze(1)
        torch.testing.assert_close(torch.tensor(answer.logprobs), expected_L, atol=1e-4, rtol=1e-4)
    assert all(not one.logprobs for one in _greedy(model)), "nothing is drawn at temperature 0"
