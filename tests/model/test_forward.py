"""The packed path against padded rows in transformers' eager attention: logits, loss and every adapter gradient."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from hone.data.pack import PackedBatch, pack
from hone.model import attention
from hone.model.attention import packed_attention_enabled
from hone.model.forward import packed_logits, padded_logits, targets_of
from hone.model.lora import adapter_parameters
from hone.types import TokenSequence
from tests.tiny import FAMILIES, VOCABULARY, attach_random_adapter, row_logits, tiny_model, token_rows

# Ragged; several attention groups; one row of a single token; longer than every sliding window here.
LENGTHS = [23, 7, 1, 40, 12, 39]
ROWS = token_rows(LENGTHS)


def _padded_reference(model: PreTrainedModel, rows: list[TokenSequence]) -> tuple[Tensor, Tensor]:
    """(logits of supervised tokens, summed loss), written without hone: pad, mask, shift, ignore."""
    longest = max(len(row.ids) for row in rows)
    ids_BL = torch.tensor([[*row.ids, *[0] * (longest - len(row.ids))] for row in rows])
    mask_BL = torch.tensor([[1] * len(row.ids) + [0] * (longest - len(row.ids)) for row in rows])
    labels_BL = torch.full_like(ids_BL, -100)
    for index, row in enumerate(rows):
        for at, (token, supervised) in enumerate(zip(row.ids, row.supervised, strict=True)):
            if supervised:
                labels_BL[index, at] = token
    model.set_attn_implementation("eager")
    logits_BLV = model(input_ids=ids_BL, attention_mask=mask_BL, use_cache=False).logits[:, :-1].float()
    labels_BL = labels_BL[:, 1:]
    loss = torch.nn.functional.cross_entropy(
        logits_BLV.flatten(0, 1), labels_BL.flatten(), ignore_index=-100, reduction="sum"
    )
    return logits_BLV[labels_BL != -100], loss


def _loss(logits_SV: Tensor, batch: PackedBatch) -> Tensor:
    return torch.nn.functional.cross_entropy(logits_SV.float(), targets_of(batch, "cpu"), reduction="sum")


def _gradients(model: PreTrainedModel, loss: Tensor) -> dict[str, Tensor]:
    parameters = adapter_parameters(model)
    found = torch.autograd.grad(loss, list(parameters.values()))
    return dict(zip(parameters, found, strict=True))


@pytest.mark.parametrize("products_up_to", [512, 0], ids=["products", "fused"])
@pytest.mark.parametrize("family", FAMILIES)
def test_packed_equals_padded_in_logits_loss_and_gradients(
    monkeypatch: pytest.MonkeyPatch, family: str, products_up_to: int
) -> None:
    monkeypatch.setattr(attention, "_BY_PRODUCTS", {"cpu"} if products_up_to else {})
    model = tiny_model(family)
    attach_random_adapter(model)
    batch = pack(ROWS)
    reference_SV, reference_loss = _padded_reference(model, ROWS)
    reference = _gradients(model, reference_loss / batch.num_supervised)

    with packed_attention_enabled(model):
        packed_SV = packed_logits(model, batch)
        loss = _loss(packed_SV, batch) / batch.num_supervised
        gradients = _gradients(model, loss)

    assert packed_SV.shape == (batch.num_supervised, VOCABULARY)
    torch.testing.assert_close(packed_SV, reference_SV, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(loss, reference_loss / batch.num_supervised, atol=1e-5, rtol=0)
    for name, gradient in gradients.items():
        assert reference[name].abs().max() > 1e-5, f"{name}: nothing to compare"
        torch.testing.assert_close(
            gradient, reference[name], atol=1e-5, rtol=1e-5, msg=lambda text, n=name: f"{n}: {text}"
        )


@pytest.mark.parametrize("family", FAMILIES)
def test_padded_and_packed_equal_each_row_by_itself(family: str) -> None:
    model = tiny_model(family)
    attach_random_adapter(model)
    alone_SV = torch.cat(
        [
            row_logits(model, row.ids)[[at - 1 for at in range(1, len(row.ids)) if row.supervised[at]]]
            for row in ROWS
            if len(row.ids) > 1
        ]
    )
    batch = pack(ROWS)
    with torch.no_grad():
        padded_SV = padded_logits(model, batch)
        with packed_attention_enabled(model):
            packed_SV = packed_logits(model, batch)
    torch.testing.assert_close(padded_SV, alone_SV, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(packed_SV, alone_SV, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("family", ["llama", "gemma2", "gemma3", "gpt2"])
def test_in_bfloat16_both_paths_agree_roughly(family: str) -> None:
    model = tiny_model(family).to(torch.bfloat16)
    attach_random_adapter(model)
    batch = pack(ROWS)
    exact_model = tiny_model(family)
    attach_random_adapter(exact_model)
    with torch.no_grad():
        exact_SV, _ = _padded_reference(exact_model, ROWS)
        reference_SV, _ = _padded_reference(model, ROWS)
        with packed_attention_enabled(model):
            packed_SV = packed_logits(model, batch).float()
    scale = float(exact_SV.abs().max())
    error = float((packed_SV - exact_SV).abs().mean())
    assert error < 0.02 * scale
    # the packed path rounds no more than the reference path does
    assert error < 1.5 * float((reference_SV - exact_SV).abs().mean())


@pytest.mark.parametrize("products_up_to", [512, 0], ids=["products", "fused"])
@pytest.mark.parametrize("family", FAMILIES)
def test_packed_rows_do_not_read_each_other(monkeypatch: pytest.MonkeyPatch, family: str, products_up_to: int) -> None:
    monkeypatch.setattr(attention, "_BY_PRODUCTS", {"cpu"} if products_up_to else {})
    model = tiny_model(family)
    batch = pack(ROWS)
    owners_S = torch.tensor(batch.owners_S)
    with torch.no_grad(), packed_attention_enabled(model):
        before_SV = packed_logits(model, batch)
        for disturbed in range(len(ROWS)):
            other = tuple((token + 17) % VOCABULARY for token in ROWS[disturbed].ids)
            rows = [replace(row, ids=other) if index == disturbed else row for index, row in enumerate(ROWS)]
            after_SV = packed_logits(model, pack(rows))
            moved_S = (after_SV - before_SV).abs().amax(dim=-1)
            # a mixture of experts multiplies the tokens of an expert together, which may move the last bit
            assert moved_S[owners_S != disturbed].max() <= (1e-5 if family == "gpt_oss" else 0.0)
            if len(other) > 1:
                assert moved_S[owners_S == disturbed].min() > 1e-3


def test_a_later_token_never_changes_an_earlier_prediction() -> None:
    row = token_rows([30])[0]
    row = replace(row, supervised=(True,) * 30)
    changed = replace(row, ids=(*row.ids[:20], *[(token + 5) % VOCABULARY for token in row.ids[20:]]))
    model = tiny_model("llama")
    with torch.no_grad(), packed_attention_enabled(model):
        before, after = packed_logits(model, pack([row])), packed_logits(model, pack([changed]))
    # predictor i sees tokens 0..i, so the first 20 predictions stand
    assert torch.equal(before[:20], after[:20])
    assert not torch.equal(before[20:], after[20:])


def test_head_and_loss_touch_supervised_tokens_only() -> None:
    model = tiny_model("llama")
    seen = []
    batch = pack(ROWS)
    with torch.no_grad(), packed_attention_enabled(model):
        head = model.get_output_embeddings()
        head.register_forward_hook(lambda _module, inputs, _output: seen.append(inputs[0].shape))
        packed_logits(model, batch)
    assert seen == [(1, batch.num_supervised, 64)]


def test_a_batch_without_supervised_tokens_has_no_logits() -> None:
    model = tiny_model("llama")
    batch = pack([TokenSequence((5, 6, 7), (False, False, False), 1)])
    with torch.no_grad(), packed_attention_enabled(model):
        assert packed_logits(model, batch).shape == (0, VOCABULARY)
    with torch.no_grad():
        assert padded_logits(model, batch).shape == (0, VOCABULARY)
    assert targets_of(batch, "cpu").dtype == torch.long
