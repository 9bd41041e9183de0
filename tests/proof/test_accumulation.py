"""Invariant 4, and gradients that are wrong on one path: what each planted fault does to which invariant."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel

from hone.data.pack import PackedBatch
from hone.engine.step import Objective, accumulate_gradients
from hone.errors import ProofError
from hone.model import fused_lora
from hone.model.attention import packed_attention_enabled
from hone.model.fast_layers import fast_layers_enabled
from hone.model.forward import Forward, packed_logprobs
from hone.model.lora import adapter_parameters, attach_adapter
from hone.proof.invariant import Invariant, require_all
from hone.proof.preflight import Accumulate, check_model
from tests.proof.subjects import FAMILIES, Subject, by_number, failing, subject


def checked(one: Subject, accumulate: Accumulate = accumulate_gradients) -> dict[int, Invariant]:
    parameters = adapter_parameters(one.model)
    with fast_layers_enabled(one.model), packed_attention_enabled(one.model):
        return by_number(
            check_model(one.model, one.sequences, parameters=parameters, forward=packed_logprobs, accumulate=accumulate)
        )


def with_adapter(family: str, dtype: torch.dtype = torch.float32) -> Subject:
    one = subject(family)
    one.model.to(dtype)
    attach_adapter(one.model, rank=4, alpha=8.0)
    return one


def averaged_means(
    model: PreTrainedModel, batches: Sequence[PackedBatch], *, forward: Forward, objective: Objective
) -> float:
    """The fault of many trainers: each micro-batch is averaged over its own tokens, and the averages are averaged."""
    total = 0.0
    for batch in batches:
        mean = objective(forward(model, batch))[0] / batch.num_supervised / len(batches)
        mean.backward()  # type: ignore[no-untyped-call]
        total += mean.item()
    return total


def only_the_last(
    model: PreTrainedModel, batches: Sequence[PackedBatch], *, forward: Forward, objective: Objective
) -> float:
    """Gradients are cleared between micro-batches."""
    supervised = sum(batch.num_supervised for batch in batches)
    total = 0.0
    for batch in batches:
        model.zero_grad()
        loss = objective(forward(model, batch))[0] / supervised
        loss.backward()  # type: ignore[no-untyped-call]
        total += loss.item()
    return total


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("family", FAMILIES)
def test_it_holds_with_hones_own_step(family: str, dtype: torch.dtype) -> None:
    found = checked(with_adapter(family, dtype))
    assert failing(found) == []
    assert found[4].measured < (1e-5 if dtype == torch.float32 else 0.04)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("fault", [averaged_means, only_the_last])
def test_a_step_that_adds_up_wrongly_is_caught(family: str, fault: Accumulate, dtype: torch.dtype) -> None:
    found = checked(with_adapter(family, dtype), fault)
    assert failing(found) == [4]
    assert found[4].measured > 0.05
    assert "lora_" in found[4].found, "the tensor that differs most is named"


def test_a_wrong_gradient_of_the_fused_layers_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """The values are right and A's gradient has its rows in another order: no loss would show it."""
    backward = fused_lora._LoraProducts.backward

    def wrong(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        grad_x, grad_A_RD, *rest = backward(ctx, *grads)
        return (grad_x, None if grad_A_RD is None else grad_A_RD.flip(0), *rest)

    one = with_adapter("llama")
    assert failing(checked(one)) == []
    monkeypatch.setattr(fused_lora._LoraProducts, "backward", staticmethod(wrong))
    found = checked(one)
    assert failing(found) == [5]
    assert found[5].measured < 1e-5, "the log-probabilities agree"
    assert "lora_A" in found[5].found


def test_an_adapter_with_no_layer_is_caught_before_training() -> None:
    """Nothing matched: the loss would be computed, and nothing would learn."""
    one = with_adapter("llama")
    with fast_layers_enabled(one.model), packed_attention_enabled(one.model):
        found = by_number(check_model(one.model, one.sequences, parameters={}, forward=packed_logprobs))
    assert failing(found) == [4, 5]
    with pytest.raises(ProofError) as raised:
        require_all(list(found.values()))
    assert all("no trained tensor has a gradient" in detail for detail in raised.value.details)


def test_no_gradient_is_left_behind() -> None:
    one = with_adapter("llama")
    checked(one)
    assert all(parameter.grad is None for parameter in one.model.parameters())
