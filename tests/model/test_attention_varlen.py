"""The varlen path against the definition of attention, through a kernel of the documented semantics on the CPU.

torch's own kernel runs on CUDA alone: ``benchmarks/gpu.py`` holds that one against the oracle. What is held here is all
that hone does around it: which tokens are a sequence's queries and keys, where the window ends, when it is refused.
"""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hone.data.pack import pack
from hone.model import attention, attention_varlen
from hone.model.attention import attention_in_words, packed_attention, packed_attention_enabled
from hone.model.attention_groups import AttentionGroups
from hone.model.forward import packed_logprobs, padded_logprobs
from hone.types import TokenSequence
from tests.tiny import tiny_model, token_rows

PREFIX = tuple(range(300, 330))
ROWS = token_rows([23, 7, 1, 40, 12])
SHARED = [
    TokenSequence(PREFIX[:used] + row.ids, (False,) * used + row.supervised, row.row)
    for used, row in zip([30, 30, 20, 0, 30], ROWS, strict=True)
]
# one row is the beginning of another, and one beginning is shared at two depths
NESTED = [*SHARED, TokenSequence((*SHARED[0].ids, 5, 6, 7), SHARED[0].supervised + (True,) * 3, 6)]
BATCHES = {"rows": ROWS, "shared": SHARED, "nested": NESTED, "one": ROWS[:1]}


class _Kernel:
    """``torch.nn.attention.varlen.varlen_attn`` as its page describes it; counts its calls."""

    def __init__(self, *, grouped: bool) -> None:
        self.calls = 0
        self.grouped = grouped

    def __call__(
        self, query: Tensor, key: Tensor, value: Tensor, cu_seq_q: Tensor, cu_seq_k: Tensor, max_q: int, max_k: int, *,
        scale: float, window_size: tuple[int, int], **named: Any,
    ) -> Tensor:  # fmt: skip
        self.calls += 1
        assert all(t.is_contiguous() for t in (query, key, value))
        assert cu_seq_q.dtype == cu_seq_k.dtype == torch.int32
        assert cu_seq_q[-1] == query.shape[0]
        assert cu_seq_k[-1] == key.shape[0] == value.shape[0]
        assert max_q == int(cu_seq_q.diff().max())
        assert max_k == int(cu_seq_k.diff().max())
        assert named == ({"enable_gqa": True} if self.grouped and query.shape[1] != key.shape[1] else {})
        assert self.grouped or query.shape[1] == key.shape[1], "torch 2.11 takes as many key heads as query heads"
        shared = query.shape[1] // key.shape[1]
        outputs = []
        for place in range(len(cu_seq_q) - 1):
            own, path = slice(*cu_seq_q[place : place + 2].tolist()), slice(*cu_seq_k[place : place + 2].tolist())
            heads = [t.transpose(0, 1) for t in (query[own], key[path], value[path])]
            keys_HLD, values_HLD = (t.repeat_interleave(shared, dim=0) for t in heads[1:])
            scores_HQL = heads[0] @ keys_HLD.transpose(1, 2) * scale
            queries, keys = scores_HQL.shape[1:]
            # bottom right: the last query stands at the last key
            ahead = torch.arange(keys) - (torch.arange(queries).unsqueeze(1) + keys - queries)
            left, right = window_size
            seen = (ahead <= right) & (ahead >= -left if left >= 0 else torch.ones_like(ahead, dtype=torch.bool))
            weights = scores_HQL.masked_fill(~seen, float("-inf")).softmax(-1)
            outputs.append((weights @ values_HLD).transpose(0, 1))
        return torch.cat(outputs)


@pytest.fixture(params=[True, False], ids=["enable_gqa", "torch-2.11"])
def kernel(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> _Kernel:
    found = _Kernel(grouped=request.param)
    monkeypatch.setattr(attention_varlen, "varlen_attn", found)
    monkeypatch.setattr(attention_varlen, "_takes_groups", lambda: request.param)
    monkeypatch.setattr(attention_varlen, "_DEVICES", {"cpu"})
    monkeypatch.setattr(attention_varlen, "_DTYPES", {torch.float64, torch.float32})
    return found


@pytest.mark.parametrize("rows", BATCHES)
@pytest.mark.parametrize(("kv_heads", "window"), [(4, None), (2, None), (1, 8), (2, 1), (4, 4096)])
def test_it_is_what_the_groups_give(kernel: _Kernel, rows: str, kv_heads: int, window: int | None) -> None:
    torch.manual_seed(0)
    batch = pack(BATCHES[rows])
    shapes = [(1, heads, len(batch.ids_T), 16) for heads in (4, kv_heads, kv_heads)]
    states = [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]
    slope = torch.randn(1, len(batch.ids_T), 4, 16, dtype=torch.float64)
    results = []
    for varlen in (True, False):
        groups = AttentionGroups(batch, "cpu")
        out, _ = packed_attention(
            nn.Identity(), *states, None, groups=groups, sliding_window=window, scaling=0.3, varlen=varlen
        )
        # keys of several paths are read in float32
        results.append([out, *torch.autograd.grad((out * slope).sum(), states)])
    assert kernel.calls == 1
    for found, expected in zip(*results, strict=True):
        torch.testing.assert_close(found, expected, atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("family", ["llama", "qwen3", "mistral", "gemma3"])
@pytest.mark.parametrize("rows", ["rows", "nested"])
def test_a_model_gives_the_logprobs_of_padded_rows(kernel: _Kernel, family: str, rows: str) -> None:
    model, batch = tiny_model(family), pack(BATCHES[rows])
    with torch.no_grad():
        expected = padded_logprobs(model, batch)
        with packed_attention_enabled(model, varlen=True):
            found = packed_logprobs(model, batch)
    assert kernel.calls == 2, "one call a layer"
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_it_is_not_chosen_unless_asked_for(kernel: _Kernel) -> None:
    model = tiny_model("llama")
    with torch.no_grad(), packed_attention_enabled(model):
        packed_logprobs(model, pack(ROWS))
        assert attention_in_words(model) == "matrix products"
    assert kernel.calls == 0


def test_the_words_say_what_was_seen(kernel: _Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    capped = tiny_model("gemma2")
    with packed_attention_enabled(capped, varlen=True):
        said = "plain softmax on padded groups (bounded scores and sinks are not in the kernel)"
        assert attention_in_words(capped, varlen=True) == said
        before = kernel.calls
        with torch.no_grad():
            packed_logprobs(capped, pack(ROWS))
        assert kernel.calls == before == 0
    model = tiny_model("llama")
    with packed_attention_enabled(model, varlen=True):
        assert attention_in_words(model, varlen=True) == "the varlen kernel"
        monkeypatch.setattr(attention_varlen, "_DEVICES", {"cuda"})
        assert attention_in_words(model, varlen=True) == "matrix products (there is no kernel for cpu)"
        monkeypatch.setattr(attention, "_BY_PRODUCTS", set())
        assert attention_in_words(model) == "SDPA on padded groups"


@pytest.mark.parametrize(
    ("shapes", "dtype", "plain", "said"),
    [
        ((16, 16), torch.bfloat16, True, ""),
        ((256, 256), torch.float16, True, ""),
        ((16, 16), torch.float32, True, "does not compute in float32"),
        ((24, 16), torch.bfloat16, True, "24 and 16"),
        ((12, 12), torch.bfloat16, True, "12 and 12"),
        ((288, 288), torch.bfloat16, True, "288 and 288"),
        ((16, 16), torch.bfloat16, False, "bounded scores"),
    ],
)
def test_what_the_kernel_cannot_is_refused(
    monkeypatch: pytest.MonkeyPatch, shapes: tuple[int, int], dtype: torch.dtype, plain: bool, said: str
) -> None:
    monkeypatch.setattr(attention_varlen, "_DEVICES", {"cpu"})
    query, value = (torch.empty(3, 2, width, dtype=dtype) for width in shapes)
    refusal = attention_varlen.varlen_refusal(query, value, plain=plain)
    assert said in refusal
    assert bool(refusal) is bool(said)


def test_gradients_of_a_shared_prefix_are_added_up_in_float32(kernel: _Kernel) -> None:
    """256 rows under one prefix: added up in bfloat16, the later ones would be rounded away."""
    rows = [TokenSequence((*PREFIX, 40 + index), (False,) * 30 + (True,), index + 1) for index in range(256)]
    batch = pack(rows)
    starts = AttentionGroups(batch, "cpu").starts
    assert starts.paths is not None
    states = torch.zeros(len(batch.ids_T), 1, 8, dtype=torch.bfloat16, requires_grad=True)
    attention_varlen._along(states, starts.paths).backward(
        torch.full((len(starts.paths), 1, 8), 1.0078125, dtype=torch.bfloat16)
    )
    assert states.grad is not None
    # the prefix is a segment of its own, and stands on the path of each row
    expected = 257 * 1.0078125
    assert float(states.grad[0, 0, 0]) == pytest.approx(expected, rel=2**-8)
    assert math.isclose(float(states.grad[-1, 0, 0]), 1.0078125)
