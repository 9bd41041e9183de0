"""The value head: alike on both paths, zero at the beginning, and without a gradient into the model."""

from __future__ import annotations

import pytest
import torch

from hone.data.pack import pack
from hone.model.attention import packed_attention_enabled
from hone.model.forward import packed_logprobs, padded_logprobs
from hone.model.value_head import make_value_head, values_pass
from tests.tiny import attach_random_adapter, tiny_model, token_rows


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt2"])
def test_both_paths_give_the_same(family: str) -> None:
    model = tiny_model(family)
    head = make_value_head(model)
    batch = pack(token_rows([23, 7, 12]))
    assert not bool(values_pass(padded_logprobs, head)(model, batch)[1].any()), "it begins at zero"
    torch.nn.init.normal_(head.weight)
    padded = values_pass(padded_logprobs, head)(model, batch)
    with packed_attention_enabled(model):
        packed = values_pass(packed_logprobs, head)(model, batch)
        torch.testing.assert_close(packed[0], packed_logprobs(model, batch))
    torch.testing.assert_close(packed, padded, rtol=1e-4, atol=1e-4)


def test_the_model_is_not_moved_by_the_values() -> None:
    model = tiny_model("llama")
    model.requires_grad_(False)
    attach_random_adapter(model)
    head = make_value_head(model)
    torch.nn.init.normal_(head.weight)
    with packed_attention_enabled(model):
        values_pass(packed_logprobs, head)(model, pack(token_rows([9, 5])))[1].sum().backward()  # type: ignore[no-untyped-call]
    assert head.weight.grad is not None
    assert bool(head.weight.grad.any())
    assert not any(one.grad is not None and bool(one.grad.any()) for one in model.parameters())
