"""Bits of the reference answers, against log-probabilities summed by hand."""

from __future__ import annotations

import math

import pytest
import torch
from transformers import PreTrainedModel

from hone.evaluation.likelihood import answer_bits
from hone.model.attention import packed_attention_enabled
from hone.model.forward import packed_logprobs, padded_logprobs
from hone.types import TokenSequence
from tests.tiny import VOCABULARY, row_logits, tiny_model, token_rows

# Not in order of length, one row of a single token, one without an answer.
ROWS = [*token_rows([12, 31, 1, 7, 31, 22], seed=4), TokenSequence((5, 6, 7), (False,) * 3, 7)]


def _bits_by_hand(model: PreTrainedModel, row: TokenSequence) -> float:
    probabilities_LV = torch.softmax(row_logits(model, row.ids).double(), dim=-1)
    chosen = [float(probabilities_LV[at - 1, row.ids[at]]) for at in range(1, len(row.ids)) if row.supervised[at]]
    return -math.fsum(math.log2(probability) for probability in chosen)


@pytest.mark.parametrize("max_tokens", [1, 40, 2048])
@pytest.mark.parametrize("family", ["llama", "gemma3"])
def test_bits_are_those_of_each_row_by_itself_in_order(family: str, max_tokens: int) -> None:
    model = tiny_model(family)
    expected = [_bits_by_hand(model, row) for row in ROWS]
    with packed_attention_enabled(model):
        bits = answer_bits(model, ROWS, forward=packed_logprobs, max_tokens=max_tokens)
    assert bits == pytest.approx(expected, abs=1e-4)
    assert bits[2] == bits[6] == 0.0
    assert answer_bits(model, ROWS, forward=padded_logprobs, max_tokens=max_tokens) == pytest.approx(expected, abs=1e-4)


def test_a_model_that_knows_nothing_needs_the_logarithm_of_the_vocabulary() -> None:
    model = tiny_model("llama")
    with torch.no_grad():
        model.get_output_embeddings().weight.zero_()
    row = token_rows([20])[0]
    with packed_attention_enabled(model):
        bits = answer_bits(model, [row], forward=packed_logprobs)
    assert bits == pytest.approx([sum(row.supervised[1:]) * math.log2(VOCABULARY)], rel=1e-5)


def test_progress_is_told_and_ends_at_all_rows() -> None:
    model = tiny_model("llama")
    counts: list[int] = []
    with packed_attention_enabled(model):
        answer_bits(model, ROWS, forward=packed_logprobs, max_tokens=40, on_done=counts.append)
    assert counts == sorted(set(counts))
    assert counts[-1] == len(ROWS)
    assert len(counts) > 2


def test_no_rows_no_bits() -> None:
    assert answer_bits(tiny_model("llama"), [], forward=padded_logprobs) == []
