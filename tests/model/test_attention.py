"""Packed attention against the definition of attention, row by row in float64."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn
from transformers import CONFIG_MAPPING, MODEL_FOR_CAUSAL_LM_MAPPING

from hone.data.pack import pack
from hone.model import attention
from hone.model.attention import attention_groups, packed_attention, packed_attention_enabled, supports_packing
from tests.tiny import FAMILIES, row_logits, tiny_model, token_rows

LENGTHS = [23, 7, 1, 40, 12, 39]
HEADS, WIDTH = 4, 16


def _attention_of_one_row(
    query_HLD: Tensor, key_KLD: Tensor, value_KLD: Tensor, *, scale: float, window: int | None, softcap: float | None,
    sinks_H: Tensor | None,
) -> Tensor:  # fmt: skip
    """The definition, one head and one token at a time."""
    heads, length, _ = query_HLD.shape
    shared = heads // key_KLD.shape[0]
    out = torch.zeros(heads, length, value_KLD.shape[-1], dtype=query_HLD.dtype)
    for head in range(heads):
        for at in range(length):
            first = 0 if window is None else max(0, at - window + 1)
            scores = key_KLD[head // shared, first : at + 1] @ query_HLD[head, at] * scale
            if softcap is not None:
                scores = softcap * torch.tanh(scores / softcap)
            weights = torch.exp(scores)
            total = weights.sum() + (torch.exp(sinks_H[head]) if sinks_H is not None else 0.0)
            out[head, at] = (weights / total) @ value_KLD[head // shared, first : at + 1]
    return out


@pytest.mark.parametrize("products_up_to", [512, 0], ids=["products", "fused"])
@pytest.mark.parametrize(
    ("kv_heads", "options"),
    [
        (4, {}),
        (2, {}),
        (1, {"scaling": 0.4}),
        (2, {"sliding_window": 8}),
        (2, {"sliding_window": 1}),
        (2, {"sliding_window": 4096}),
        (2, {"softcap": 0.7}),
        (4, {"softcap": 2.0, "sliding_window": 5, "scaling": 0.3}),
        (2, {"s_aux": torch.tensor([0.5, -1.0, 2.0, 0.0], dtype=torch.float64)}),
    ],
    ids=["plain", "grouped", "one-kv-head", "window", "window-1", "window-longer", "softcap", "gemma2", "sinks"],
)
def test_packed_attention_is_attention_of_each_row(
    monkeypatch: pytest.MonkeyPatch, products_up_to: int, kv_heads: int, options: dict[str, object]
) -> None:
    monkeypatch.setattr(attention, "_PRODUCTS_UP_TO_LENGTH", products_up_to)
    torch.manual_seed(0)
    batch = pack(token_rows(LENGTHS))
    query, key, value = (
        torch.randn(1, heads, batch.num_tokens, WIDTH, dtype=torch.float64) for heads in (HEADS, kv_heads, kv_heads)
    )

    out, weights = packed_attention(
        nn.Identity(), query, key, value, None, groups=attention_groups(batch, "cpu"), **options
    )

    assert weights is None
    assert out.shape == (1, batch.num_tokens, HEADS, WIDTH)
    start = 0
    for length in LENGTHS:
        rows = slice(start, start + length)
        expected = _attention_of_one_row(
            query[0, :, rows],
            key[0, :, rows],
            value[0, :, rows],
            scale=options.get("scaling", 1 / math.sqrt(WIDTH)),
            window=options.get("sliding_window"),
            softcap=options.get("softcap"),
            sinks_H=options.get("s_aux"),
        )
        torch.testing.assert_close(out[0, rows].transpose(0, 1), expected, atol=1e-12, rtol=1e-12)
        start += length


def test_values_may_be_narrower_than_keys() -> None:
    # multi-head latent attention (DeepSeek) has such heads
    torch.manual_seed(0)
    batch = pack(token_rows([9, 4]))
    query, key = (torch.randn(1, 4, 13, 24, dtype=torch.float64) for _ in range(2))
    value = torch.randn(1, 4, 13, 10, dtype=torch.float64)
    out, _ = packed_attention(nn.Identity(), query, key, value, None, groups=attention_groups(batch, "cpu"))
    expected = _attention_of_one_row(
        query[0, :, 9:], key[0, :, 9:], value[0, :, 9:], scale=24**-0.5, window=None, softcap=None, sinks_H=None
    )
    torch.testing.assert_close(out[0, 9:].transpose(0, 1), expected, atol=1e-12, rtol=1e-12)


def test_gather_and_scatter_undo_each_other() -> None:
    batch = pack(token_rows(LENGTHS))
    groups = attention_groups(batch, "cpu")
    packed_T = torch.arange(batch.num_tokens)
    grouped = torch.cat([packed_T[index_BL].flatten() for index_BL in groups.gather])
    assert torch.equal(grouped[groups.scatter_T], packed_T)
    assert len(groups.gather) == len(batch.groups)
    # the rows of a group are consecutive tokens of one sequence, then padding
    for index_BL, members in zip(groups.gather, batch.groups, strict=True):
        for index_L, member in zip(index_BL, members, strict=True):
            start = sum(batch.lengths[:member])
            real = index_L[: batch.lengths[member]].tolist()
            assert real == list(range(start, start + batch.lengths[member]))
            assert not index_L[batch.lengths[member] :].any()


def test_attention_dropout_is_refused() -> None:
    batch = pack(token_rows([4]))
    states = torch.randn(1, 2, 4, 8)
    with pytest.raises(ValueError, match="dropout"):
        packed_attention(
            nn.Identity(), states, states, states, None, groups=attention_groups(batch, "cpu"), dropout=0.1
        )


def test_a_models_own_attention_is_back_after_the_block() -> None:
    model = tiny_model("llama")
    model.set_attn_implementation("sdpa")
    before = row_logits(model, range(3, 20))
    with packed_attention_enabled(model):
        assert model.config._attn_implementation != "sdpa"
    assert model.config._attn_implementation == "sdpa"
    with pytest.raises(RuntimeError, match="inside"), packed_attention_enabled(model):
        raise RuntimeError("inside")
    assert model.config._attn_implementation == "sdpa"
    assert torch.equal(row_logits(model, range(3, 20)), before)


@pytest.mark.parametrize("family", FAMILIES)
def test_attention_only_families_are_packed(family: str) -> None:
    assert supports_packing(tiny_model(family))


@pytest.mark.parametrize(
    "model_type",
    [
        # recurrence or convolution beside attention, or instead of it
        "mamba", "mamba2", "falcon_mamba", "jamba", "bamba", "zamba2", "nemotron_h", "falcon_h1", "granitemoehybrid",
        "recurrent_gemma", "rwkv", "qwen3_next", "minimax", "kimi_linear", "lfm3",
        # positions as a bias on the scores, chunks, sparse selection: what the packed path does not compute
        "bloom", "mpt", "falcon", "llama4_text", "deepseek_v32", "doge",
        # the window or the groups never reach the attention function
        "phimoe", "nemotron",
    ],
)  # fmt: skip
def test_other_mixing_of_tokens_keeps_to_padded_batches(model_type: str) -> None:
    config = CONFIG_MAPPING[model_type]()
    kind = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
    stand_in = SimpleNamespace(config=config, _supports_attention_backend=kind._supports_attention_backend)
    assert not supports_packing(stand_in)


def test_a_short_convolution_beside_attention_keeps_to_padded_batches() -> None:
    config = CONFIG_MAPPING["lfm2"](num_hidden_layers=2, layer_types=["conv", "full_attention"])
    assert not supports_packing(SimpleNamespace(config=config, _supports_attention_backend=True))
