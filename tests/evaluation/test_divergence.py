"""KL from the base, by hand and against torch."""

from __future__ import annotations

import math

import pytest
import torch

from hone.evaluation.divergence import answer_divergence, kl_divergence
from hone.model.attention import packed_attention_enabled
from hone.model.forward import packed_logits, padded_logits
from hone.model.lora import adapted_layers, adapter_disabled
from tests.tiny import attach_random_adapter, row_logits, tiny_model, token_rows


def test_kl_by_hand() -> None:
    base = torch.tensor([[0.5, 0.25, 0.25]]).log()
    tuned = torch.tensor([[0.25, 0.25, 0.5]]).log()
    by_hand = 0.5 * math.log(2) + 0.25 * math.log(0.5)
    assert kl_divergence(base, tuned).tolist() == pytest.approx([by_hand], abs=1e-6)
    assert kl_divergence(base, base).tolist() == [0.0]
    shifted = kl_divergence(base + 3, tuned - 2)  # logits, not probabilities
    assert shifted.tolist() == pytest.approx([by_hand], abs=1e-6)


def test_tokens_that_the_base_does_not_have_take_no_part() -> None:
    base = torch.tensor([[0.5, 0.5, 0.0]]).log()
    tuned = torch.tensor([[0.25, 0.25, 0.5]]).log()
    assert kl_divergence(base, tuned).tolist() == pytest.approx([math.log(2)], abs=1e-6)


def test_an_adapted_model_against_plain_rows() -> None:
    model = tiny_model("llama")
    attach_random_adapter(model)
    rows = token_rows([12, 30, 7])
    with packed_attention_enabled(model):
        packed = answer_divergence(model, rows, logits=packed_logits, max_tokens=40)
    padded = answer_divergence(model, rows, logits=padded_logits)
    for row, found, again in zip(rows, packed, padded, strict=True):
        tuned = torch.log_softmax(row_logits(model, row.ids).double(), dim=-1)
        with adapter_disabled(model):
            base = torch.log_softmax(row_logits(model, row.ids).double(), dim=-1)
        places = [place for place in range(1, len(row.ids)) if row.supervised[place]]
        expected = sum(float((base[p - 1].exp() * (base[p - 1] - tuned[p - 1])).sum()) for p in places)
        bits = -sum(float(tuned[p - 1, row.ids[p]]) for p in places) / math.log(2)
        base_bits = -sum(float(base[p - 1, row.ids[p]]) for p in places) / math.log(2)
        for one in (found, again):
            assert one.kl_nats == pytest.approx(expected, rel=1e-3)
            assert one.tuned_bits == pytest.approx(bits, rel=1e-4)
            assert one.base_bits == pytest.approx(base_bits, rel=1e-4)
        assert found.kl_nats > 0.1


def test_an_untouched_adapter_is_no_distance_away() -> None:
    model = tiny_model("llama")
    attach_random_adapter(model)
    for _, layer in adapted_layers(model):
        layer.strength = 0.0
    for one in answer_divergence(model, token_rows([9, 21]), logits=padded_logits):
        assert one.kl_nats == 0.0
        assert one.tuned_bits == one.base_bits
