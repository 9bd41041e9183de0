"""Packed attention against the definition of attention, row by row in float64."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch
import transformers
from torch import Tensor, nn
from transformers import CONFIG_MAPPING, MODEL_FOR_CAUSAL_LM_MAPPING

from hone.data.pack import pack
from hone.model import attention, attention_products
from hone.model import attention_groups as attention_groups_module
from hone.model.attention import packed_attention, packed_attention_enabled, supports_packing
from hone.model.attention_groups import AttentionGroups
from hone.types import TokenSequence
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


OPTIONS = {
    "plain": (4, {}),
    "grouped": (2, {}),
    "one-kv-head": (1, {"scaling": 0.4}),
    "window": (2, {"sliding_window": 8}),
    "window-1": (2, {"sliding_window": 1}),
    "window-longer": (2, {"sliding_window": 4096}),
    "softcap": (2, {"softcap": 0.7}),
    "gemma2": (4, {"softcap": 2.0, "sliding_window": 5, "scaling": 0.3}),
    "sinks": (2, {"s_aux": torch.tensor([0.5, -1.0, 2.0, 0.0], dtype=torch.float64)}),
}
PREFIX = tuple(range(300, 330))
BATCHES = {
    "rows": token_rows(LENGTHS),
    "shared": [
        TokenSequence(PREFIX[:used] + row.ids, (False,) * used + row.supervised, row.row)
        for used, row in zip([30, 30, 20, 20, 0, 30], token_rows(LENGTHS), strict=True)
    ],
}


@pytest.mark.parametrize("block_queries", [256, 16], ids=["whole", "blocks"])
@pytest.mark.parametrize("by_products", [True, False], ids=["products", "fused"])
@pytest.mark.parametrize("rows", BATCHES)
@pytest.mark.parametrize("kind", OPTIONS)
def test_packed_attention_is_attention_of_each_row(
    monkeypatch: pytest.MonkeyPatch, kind: str, rows: str, by_products: bool, block_queries: int
) -> None:
    monkeypatch.setattr(attention, "_BY_PRODUCTS", {"cpu"} if by_products else {})
    monkeypatch.setattr(attention_groups_module, "BLOCK_QUERIES", block_queries)
    # some probabilities are kept, some are computed again
    monkeypatch.setattr(attention_products, "KEPT_PROBABILITIES", 3000)
    kv_heads, options = OPTIONS[kind]
    torch.manual_seed(0)
    batch = pack(BATCHES[rows])
    tokens = len(batch.ids_T)
    states = [
        torch.randn(1, heads, tokens, WIDTH, dtype=torch.float64, requires_grad=True)
        for heads in (HEADS, kv_heads, kv_heads)
    ]
    groups = AttentionGroups(batch, "cpu")
    out, weights = packed_attention(nn.Identity(), *states, None, groups=groups, **options)
    assert weights is None
    assert out.shape == (1, tokens, HEADS, WIDTH)

    expected = torch.zeros_like(out)
    for leaf in batch.leaves:
        path = batch.path(leaf)
        of_row = _attention_of_one_row(
            *(state[0][:, path] for state in states),
            scale=options.get("scaling", 1 / math.sqrt(WIDTH)),
            window=options.get("sliding_window"),
            softcap=options.get("softcap"),
            sinks_H=options.get("s_aux"),
        )
        expected = expected.index_copy(1, torch.tensor(path), of_row.transpose(0, 1).unsqueeze(0))
    torch.testing.assert_close(out, expected, atol=1e-12, rtol=1e-12)

    slope = torch.randn_like(out)
    found = torch.autograd.grad((out * slope).sum(), states)
    wanted = torch.autograd.grad((expected * slope).sum(), states)
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("rows", BATCHES)
def test_every_token_is_a_query_once_and_sees_its_path(monkeypatch: pytest.MonkeyPatch, rows: str) -> None:
    monkeypatch.setattr(attention_groups_module, "BLOCK_QUERIES", 16)
    batch = pack(BATCHES[rows])
    groups = AttentionGroups(batch, "cpu")
    packed_T = torch.arange(len(batch.ids_T))
    flat = torch.cat([group.queries_BQ.flatten() for group in groups.groups])
    assert torch.equal(flat[groups.queries_T], packed_T)
    paths = {index: path[: place + 1] for path in map(batch.path, batch.leaves) for place, index in enumerate(path)}
    seen = {}
    for group in groups.groups:
        bias_BQL = group.bias(None, torch.float32).expand(len(group.queries_BQ), -1, -1)
        for row, queries_Q in enumerate(group.queries_BQ.tolist()):
            for place, query in enumerate(queries_Q):
                if group.padding_BQ is None or not group.padding_BQ[row, place]:
                    seen[query] = group.keys_BL[row][bias_BQL[row, place] == 0].tolist()
    assert seen == paths


def test_similar_rows_share_a_group_and_others_do_not() -> None:
    assert len(AttentionGroups(pack(token_rows([50] * 7)), "cpu").groups) == 1
    sizes = [len(group.queries_BQ) for group in AttentionGroups(pack(token_rows([120, 110, 9, 8, 7])), "cpu").groups]
    assert sizes == [3, 2], "one short row costs less than a group of its own"


def test_scores_of_a_group_of_long_rows_stay_small() -> None:
    groups = AttentionGroups(pack(token_rows([900] * 4)), "cpu").groups
    pairs = [group.queries_BQ.numel() * group.keys_BL.shape[1] for group in groups]
    assert max(pairs) <= 1 << 18
    assert len(groups) < 4 * -(-900 // 128), "blocks of several rows stand together"


def test_values_may_be_narrower_than_keys() -> None:
    # multi-head latent attention (DeepSeek) has such heads
    torch.manual_seed(0)
    batch = pack(token_rows([9, 4]))
    query, key = (torch.randn(1, 4, 13, 24, dtype=torch.float64) for _ in range(2))
    value = torch.randn(1, 4, 13, 10, dtype=torch.float64)
    out, _ = packed_attention(nn.Identity(), query, key, value, None, groups=AttentionGroups(batch, "cpu"))
    expected = _attention_of_one_row(
        query[0, :, 9:], key[0, :, 9:], value[0, :, 9:], scale=24**-0.5, window=None, softcap=None, sinks_H=None
    )
    torch.testing.assert_close(out[0, 9:].transpose(0, 1), expected, atol=1e-12, rtol=1e-12)


def test_attention_dropout_is_refused() -> None:
    batch = pack(token_rows([4]))
    states = torch.randn(1, 2, 4, 8)
    with pytest.raises(ValueError, match="dropout"):
        packed_attention(nn.Identity(), states, states, states, None, groups=AttentionGroups(batch, "cpu"), dropout=0.1)


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
    if model_type not in CONFIG_MAPPING:
        pytest.skip(f"transformers {transformers.__version__} has no {model_type}")
    config = CONFIG_MAPPING[model_type]()
    kind = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
    stand_in = SimpleNamespace(config=config, _supports_attention_backend=kind._supports_attention_backend)
    assert not supports_packing(stand_in)


def test_a_short_convolution_beside_attention_keeps_to_padded_batches() -> None:
    config = CONFIG_MAPPING["lfm2"](num_hidden_layers=2, layer_types=["conv", "full_attention"])
    assert not supports_packing(SimpleNamespace(config=config, _supports_attention_backend=True))
