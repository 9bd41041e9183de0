"""The model behind lm-evaluation-harness's interface: its parts by hand, then against the harness's own model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel

from hone.evaluation.harness_model import HarnessModel, cut_at_stops, encode_pair, generation_limits, rolling_windows
from hone.model.forward import packed_logprobs, padded_logprobs
from hone.recipe.inference import training_path
from tests.tiny import attach_random_adapter, row_logits, save_tiny, tiny_model, tiny_tokenizer

PREFIX = 2  # the tiny tokenizer has no token that begins a text, and the harness then takes the one that ends it


@dataclass(frozen=True)
class Request:
    """What the harness's Instance shows a model."""

    args: tuple[Any, ...]


def asked(*arguments: tuple[Any, ...]) -> list[Request]:
    return [Request(one) for one in arguments]


PAIRS = [
    ("what is the answer to this?", " the lamp is lit"),
    ("what is the answer to this?", " an order"),
    ("what is the answer to this? ", "on the way"),
    ("", "the order is on the way"),
    ("the lamp", "s"),
]
TEXTS = ["the lamp is lit and the order is on the way " * 12, "is it lit?", "é"]


def letters(text: str, whole: bool) -> list[int]:
    return [1] * whole + [ord(letter) for letter in text]


def test_a_pair_is_cut_where_the_context_ends() -> None:
    assert encode_pair("ab", " c", letters, 9) == ([1, 97, 98], [32, 99])


def test_spaces_at_the_end_of_a_context_belong_to_what_follows() -> None:
    assert encode_pair("ab ", "c", letters, 9) == ([1, 97, 98], [32, 99])


def test_an_empty_context_is_the_token_that_begins_a_text() -> None:
    assert encode_pair("", "ab", letters, 9) == ([9], [97, 98])
    assert encode_pair("", "ab", letters, 97) == ([97], [98])


def test_a_continuation_that_merges_with_its_context_keeps_a_token() -> None:
    assert encode_pair("ab", "c", lambda text, whole: [7] * max(1, len(text) // 2), 9) == ([9], [7])


def test_windows_are_those_of_the_harness() -> None:
    """The example of ``LM.loglikelihood_rolling``; the context of its last window as long as it can be."""
    windows = rolling_windows(list(range(10)), -1, 4)
    assert windows == [([-1], [0, 1, 2, 3]), ([3], [4, 5, 6, 7]), ([5, 6, 7], [8, 9])]
    assert rolling_windows([], -1, 4) == []


def test_limits_of_a_generation() -> None:
    assert generation_limits({}) == ((), 256)
    assert generation_limits({"until": "\n", "max_gen_toks": 8, "max_tokens": 9}) == (("\n",), 8)
    assert generation_limits({"until": ["a", "", "b"], "max_new_tokens": 3}) == (("a", "b"), 3)


def test_a_text_ends_before_the_first_stop() -> None:
    assert cut_at_stops("one two three", ["three", "two"]) == "one "
    assert cut_at_stops("one", ["two"]) == "one"


def harness_model(model: PreTrainedModel, **given: Any) -> HarnessModel:
    settings = {"stop_ids": (2,), "context_length": 256, "forward": padded_logprobs, "own_attention": "sdpa"}
    return HarnessModel(model, tiny_tokenizer(), **{**settings, **given})


@pytest.fixture(scope="module")
def tuned() -> PreTrainedModel:
    model = tiny_model("llama", seed=3)
    attach_random_adapter(model)
    return model.eval()


def by_hand(model: PreTrainedModel, ids: list[int], start: int) -> tuple[float, bool]:
    """Log-probability of ``ids`` from ``start`` on in one plain row, and whether each was the likeliest."""
    logs = torch.log_softmax(row_logits(model, ids).double(), dim=-1)
    places = range(start, len(ids))
    likeliest = all(int(logs[place - 1].argmax()) == ids[place] for place in places)
    return sum(float(logs[place - 1, ids[place]]) for place in places), likeliest


def test_log_likelihoods_by_hand(tuned: PreTrainedModel) -> None:
    encode = tiny_tokenizer().encode
    done: list[int] = []
    found = harness_model(tuned, on_done=done.append).loglikelihood(asked(*PAIRS))
    for (context, continuation), (value, likeliest) in zip(PAIRS, found, strict=True):
        before = encode(context.rstrip()) if context else [PREFIX]
        ids = encode(context + continuation) if context else [PREFIX, *encode(continuation)]
        expected, expected_likeliest = by_hand(tuned, ids, len(before))
        assert value == pytest.approx(expected, abs=1e-4)
        assert likeliest == expected_likeliest
    assert done[-1] == len(PAIRS)


def test_what_the_model_would_write_is_the_likeliest(tuned: PreTrainedModel) -> None:
    ours = harness_model(tuned)
    context = "what is the answer to this?"
    tokenizer = tiny_tokenizer()
    ids = tokenizer.encode(context)
    ids.append(int(row_logits(tuned, ids)[-1].argmax()))
    text = tokenizer.decode(ids)[len(context) :]
    if tokenizer.encode(context + text) != ids:
        pytest.skip("the likeliest token is no text of its own")
    assert ours.loglikelihood(asked((context, text)))[0][1]


def test_a_long_text_is_the_sum_of_its_windows(tuned: PreTrainedModel) -> None:
    found = harness_model(tuned, context_length=33).loglikelihood_rolling(asked(*((text,) for text in TEXTS)))
    for text, value in zip(TEXTS, found, strict=True):
        ids = tiny_tokenizer().encode(text)
        expected = 0.0
        for start in range(0, len(ids), 32):
            end = min(start + 32, len(ids))
            window = ids[max(0, end - 33) : end] if start else [PREFIX, *ids[:end]]
            expected += by_hand(tuned, window, len(window) - (end - start))[0]
        assert value == pytest.approx(expected, abs=1e-3)


def test_a_request_that_is_too_long_loses_its_beginning(tuned: PreTrainedModel) -> None:
    ids = tiny_tokenizer().encode("the lamp is lit " * 40 + "now")
    expected, _ = by_hand(tuned, ids[-64:], 63)
    (found,) = harness_model(tuned, context_length=64).loglikelihood(asked(("the lamp is lit " * 40 + "no", "w")))
    assert len(tiny_tokenizer().encode("the lamp is lit " * 40 + "no")) == len(ids) - 1
    assert found[0] == pytest.approx(expected, abs=1e-4)


def test_generation_ends_at_a_stop_text(tuned: PreTrainedModel) -> None:
    ours = harness_model(tuned)
    (whole,) = ours.generate_until(asked(("what is", {"until": [], "max_gen_toks": 24})))
    stop = next(letter for letter in whole[3:] if letter.isascii())
    contexts = [("what is", {"until": [stop], "max_gen_toks": 24}), ("what is", {"until": ["<|im_end|>"]})]
    short, other = ours.generate_until(asked(*contexts))
    assert short == whole[: whole.index(stop)]
    assert other.startswith(whole)


def test_generation_on_the_packed_path_is_that_of_the_models_own_attention(tuned: PreTrainedModel) -> None:
    requests = asked(*((text, {"until": ["zz"], "max_gen_toks": 12}) for text in ("what is", "the lamp is lit and")))
    plain = harness_model(tuned).generate_until(requests)
    likely = harness_model(tuned).loglikelihood(asked(*PAIRS))
    own = str(tuned.config._attn_implementation)
    forward, path = training_path(tuned)
    assert forward is packed_logprobs
    with path:
        ours = harness_model(tuned, forward=forward, own_attention=own)
        assert ours.generate_until(requests) == plain
        again = ours.loglikelihood(asked(*PAIRS))
    assert [value for value, _ in again] == pytest.approx([value for value, _ in likely], abs=1e-4)


# --- against lm-evaluation-harness itself, where it is installed ---


def test_the_interface_is_the_harnesss() -> None:
    api = pytest.importorskip("lm_eval.api.model")
    wanted = set(api.LM.__abstractmethods__) | {"rank", "world_size"}
    assert wanted <= set(dir(HarnessModel))


def test_figures_are_those_of_the_harnesss_own_model(tmp_path: Path) -> None:
    pytest.importorskip("lm_eval")
    from lm_eval.models.huggingface import HFLM

    folder = save_tiny(tmp_path / "tiny", seed=3)
    theirs = HFLM(pretrained=str(folder), device="cpu", dtype="float32", batch_size=4)
    ours = harness_model(tiny_model("llama", seed=3))
    pairs, texts = asked(*PAIRS), asked(*((text,) for text in TEXTS))
    for mine, other in zip(ours.loglikelihood(pairs), theirs.loglikelihood(pairs, disable_tqdm=True), strict=True):
        assert mine[0] == pytest.approx(other[0], abs=1e-4)
        assert mine[1] == bool(other[1])
    rolled = theirs.loglikelihood_rolling(texts, disable_tqdm=True)
    assert ours.loglikelihood_rolling(texts) == pytest.approx(rolled, abs=1e-3)
    settings = {"until": ["th", "\n"], "max_gen_toks": 16, "do_sample": False}
    written = asked(*((context, settings) for context in ("what is", "the lamp is lit and", "an order")))
    assert ours.generate_until(written) == theirs.generate_until(written, disable_tqdm=True)
