"""General rows hold the model to its base: loss and gradient by torch's own KL, and what a step adds up."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import pytest
import torch
from torch import Tensor
from torch.nn.functional import kl_div
from transformers import PreTrainedModel

from hone.data.pack import PackedBatch
from hone.engine.loop import micro_batches
from hone.engine.step import accumulate_gradients, mean_loss
from hone.model.attention import packed_attention_enabled
from hone.model.forward import Forward, packed_logprobs, padded_logprobs
from hone.model.head import find_output_head
from hone.model.lora import adapted_layers, adapter_disabled
from hone.objective.supervised import supervised_loss
from hone.recipe.general_rows import HeldBatch, held_to_base
from hone.recipe.method import Method
from hone.types import TokenSequence
from tests.tiny import attach_random_adapter, tiny_model, token_rows

DOMAIN = token_rows([9, 14, 11], seed=1)
GENERAL = token_rows([8, 13], seed=2)


def method(forward: Forward = packed_logprobs) -> Method:
    plain = Method(DOMAIN, DOMAIN[:1], micro_batches, forward, supervised_loss)
    return held_to_base(plain, GENERAL, max_tokens=16)


@pytest.fixture
def model() -> PreTrainedModel:
    found = tiny_model("llama").float().eval()
    attach_random_adapter(found)
    return found


def gradients(model: PreTrainedModel) -> Tensor:
    parts = []
    for _, layer in adapted_layers(model):
        for parameter in layer.parameters():
            if parameter.grad is not None:
                parts.append(parameter.grad.flatten().clone())
                parameter.grad = None
    return torch.cat(parts)


def _path(model: PreTrainedModel, forward: Forward) -> AbstractContextManager[object]:
    return packed_attention_enabled(model) if forward is packed_logprobs else nullcontext()


def plain_logits(model: PreTrainedModel, row: TokenSequence) -> Tensor:
    logits: Tensor = model(input_ids=torch.tensor([row.ids])).logits[0]
    return logits


def by_hand(model: PreTrainedModel) -> Tensor:
    """KL(base || model) of the general rows, summed over supervised tokens, by torch and on plain rows."""
    total = torch.zeros(())
    for one in GENERAL:
        with torch.no_grad(), adapter_disabled(model):
            base = torch.log_softmax(plain_logits(model, one), dim=-1)
        tuned = torch.log_softmax(plain_logits(model, one), dim=-1)
        places = [place - 1 for place, supervised in enumerate(one.supervised) if supervised and place]
        total = total + kl_div(tuned[places], base[places], reduction="sum", log_target=True)
    return total


@pytest.mark.parametrize("forward", [packed_logprobs, padded_logprobs])
def test_the_loss_of_general_rows_is_the_kl_from_the_base(model: PreTrainedModel, forward: Forward) -> None:
    held = method(forward)
    batches = held.collate(GENERAL, max_tokens=100)
    assert all(isinstance(batch, HeldBatch) for batch in batches)
    tokens = sum(batch.num_supervised for batch in batches)
    with _path(model, forward):
        loss = accumulate_gradients(model, batches, forward=held.forward, objective=held.objective)
    found = gradients(model)
    expected = by_hand(model)
    (expected / tokens).backward()  # type: ignore[no-untyped-call]
    assert float(expected) > 0.01, "the adapter has moved the model"
    assert loss == pytest.approx(float(expected) / tokens, rel=1e-5)
    torch.testing.assert_close(found, gradients(model), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("trained_head", [False, True])
def test_a_head_that_is_trained_is_not_taken_for_the_bases(model: PreTrainedModel, trained_head: bool) -> None:
    held = method()
    batches = held.collate([*GENERAL, *DOMAIN], max_tokens=100)
    tokens = sum(batch.num_supervised for batch in batches)
    with packed_attention_enabled(model):
        before = mean_loss(model, batches, forward=held.forward, objective=held.objective)
        head = find_output_head(model)
        assert head is not None
        head.layer.weight.requires_grad_(trained_head)
        anew = method()
        found = mean_loss(model, batches, forward=anew.forward, objective=anew.objective)
        domain = mean_loss(model, micro_batches(DOMAIN, max_tokens=100), forward=packed_logprobs,
                           objective=supervised_loss)  # fmt: skip
        weights = sum(one.num_supervised for one in micro_batches(DOMAIN, max_tokens=100))
    assert found == pytest.approx(before, rel=1e-5)
    assert found == pytest.approx((domain * weights + float(by_hand(model))) / tokens, rel=1e-5)


def test_a_step_is_the_mean_over_the_tokens_of_both(model: PreTrainedModel) -> None:
    held = method()
    rows = [DOMAIN[0], GENERAL[0], DOMAIN[1], GENERAL[1], DOMAIN[2]]
    both = held.collate(rows, max_tokens=100)
    assert len(both) == 1, "a pass of their own would cost more than their tokens"
    in_parts = held.collate(rows, max_tokens=30)
    assert len(in_parts) > 1
    tokens = both[0].num_supervised
    with packed_attention_enabled(model):
        plain = micro_batches(DOMAIN, max_tokens=100)
        domain = mean_loss(model, plain, forward=packed_logprobs, objective=supervised_loss)
        found = [
            mean_loss(model, batches, forward=held.forward, objective=held.objective) for batches in (both, in_parts)
        ]
    wanted = domain * sum(batch.num_supervised for batch in plain) + float(by_hand(model))
    assert found == [pytest.approx(wanted / tokens, rel=1e-5)] * 2


def test_gradients_of_a_mixed_step_are_the_sum_of_both(model: PreTrainedModel) -> None:
    held = method()
    batches = held.collate([*DOMAIN, *GENERAL], max_tokens=100)
    tokens = sum(batch.num_supervised for batch in batches)
    with packed_attention_enabled(model):
        accumulate_gradients(model, batches, forward=held.forward, objective=held.objective)
    found = gradients(model)
    learnt = torch.zeros(())
    for one in DOMAIN:
        logs = torch.log_softmax(plain_logits(model, one), dim=-1)
        learnt = learnt - sum(
            logs[place - 1, one.ids[place]] for place, supervised in enumerate(one.supervised) if supervised and place
        )
    ((learnt + by_hand(model)) / tokens).backward()  # type: ignore[no-untyped-call]
    torch.testing.assert_close(found, gradients(model), rtol=1e-4, atol=1e-6)


def test_where_training_begins_it_is_zero_and_pulls_nowhere(model: PreTrainedModel) -> None:
    for _, layer in adapted_layers(model):
        layer.lora_B.data.zero_()
    held = method()
    batches = held.collate(GENERAL, max_tokens=100)
    with packed_attention_enabled(model):
        loss = accumulate_gradients(model, batches, forward=held.forward, objective=held.objective)
    assert loss == pytest.approx(0.0, abs=1e-7)
    assert float(gradients(model).abs().max()) < 1e-6


def test_rows_of_the_data_alone_are_packed_as_ever(model: PreTrainedModel) -> None:
    held = method()
    batches: list[PackedBatch] = list(held.collate(DOMAIN, max_tokens=100))
    assert batches == micro_batches(DOMAIN, max_tokens=100)
    assert held.validation == DOMAIN[:1]
    assert list(held.train) == [*DOMAIN, *GENERAL]
