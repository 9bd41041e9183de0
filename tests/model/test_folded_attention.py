"""Folded attention against transformers' SDPA: one new token a row over a cache, with padding and any heads."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from hone.model.folded_attention import folded_attention, folded_attention_enabled
from hone.model.generate import SamplingSettings, generate
from tests.tiny import FAMILIES, tiny_model, token_rows

ROWS, WIDTH, SEEN = 3, 16, 11


class _Layer(nn.Module):
    """What transformers' function asks of a layer."""

    def __init__(self, groups: int) -> None:
        super().__init__()
        self.num_key_value_groups = groups
        self.is_causal = True


def _states(heads: int, shared: int, count: int = 1) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(heads * 10 + shared)
    shapes = ((heads, count), (shared, SEEN), (shared, SEEN))
    query, key, value = (torch.randn(ROWS, *shape, WIDTH, generator=draw) for shape in shapes)
    return query, key, value


@pytest.mark.parametrize(("heads", "shared"), [(6, 2), (4, 1), (4, 4)])
@pytest.mark.parametrize("masked", ["none", "bool", "float"])
def test_one_new_token_gives_what_sdpa_gives(heads: int, shared: int, masked: str) -> None:
    query, key, value = _states(heads, shared)
    seen = torch.ones(ROWS, 1, 1, SEEN, dtype=torch.bool)
    seen[0, ..., :4] = False
    mask = {"none": None, "bool": seen, "float": torch.zeros(seen.shape).masked_fill(~seen, float("-inf"))}[masked]
    layer = _Layer(heads // shared)
    ours, _ = folded_attention(layer, query, key, value, mask, scaling=0.3)
    theirs, _ = sdpa_attention_forward(layer, query, key, value, mask, scaling=0.3)
    assert ours.shape == theirs.shape == (ROWS, 1, heads, WIDTH)
    torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-5)


def test_several_new_tokens_are_left_to_sdpa() -> None:
    query, key, value = _states(6, 2, count=4)
    layer = _Layer(3)
    mask = torch.ones(ROWS, 1, 4, SEEN, dtype=torch.bool).tril(SEEN - 4)
    ours, _ = folded_attention(layer, query, key, value, mask)
    theirs, _ = sdpa_attention_forward(layer, query, key, value, mask)
    torch.testing.assert_close(ours, theirs, atol=0.0, rtol=0.0)


@pytest.mark.parametrize("family", FAMILIES)
def test_answers_are_those_of_the_models_own_attention(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    prompts = [row.ids for row in token_rows([5, 19, 30, 3], seed=3)]
    model = tiny_model(family)
    settings = SamplingSettings(12)
    expected = generate(model, prompts, stop_ids=(), settings=settings)
    if not model._supports_sdpa:
        return
    model.set_attn_implementation("sdpa")
    seen: list[str] = []
    own = model.forward
    monkeypatch.setattr(
        model, "forward", lambda *a, **k: (seen.append(model.config._attn_implementation), own(*a, **k))[1]
    )
    assert generate(model, prompts, stop_ids=(), settings=settings) == expected
    assert set(seen) == {"hone_folded" if model._supports_attention_backend else "sdpa"}
    assert model.config._attn_implementation == "sdpa"


def test_another_attention_stays() -> None:
    model = tiny_model("llama")
    model.set_attn_implementation("eager")
    with folded_attention_enabled(model):
        assert model.config._attn_implementation == "eager"
