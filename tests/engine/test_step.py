"""One step: accumulation changes nothing, the divisor is the step's supervised tokens, nothing broken is taken."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from hone.data.pack import PackedBatch, pack
from hone.engine.optimizer import make_optimizer
from hone.engine.step import StepResult, accumulate_gradients, mean_loss, train_step
from hone.errors import TrainingError
from hone.model.attention import packed_attention_enabled
from hone.model.forward import Forward, packed_logprobs
from hone.model.lora import adapter_parameters
from hone.objective.supervised import supervised_loss
from hone.types import TokenSequence
from tests.tiny import attach_random_adapter, row_logits, tiny_model, token_rows

# Rows with very different numbers of supervised tokens: a mean of means would be far off.
ROWS = [*token_rows([40, 7, 23, 31, 12]), TokenSequence(tuple(range(5, 45)), (False,) * 39 + (True,), 6)]
SPLITS = {
    "one by one": [[row] for row in ROWS],
    "two": [ROWS[:2], ROWS[2:]],
    "backwards": [ROWS[4:], ROWS[2:4], ROWS[:2]],
}


def _model() -> PreTrainedModel:
    model = tiny_model("llama")
    attach_random_adapter(model)
    return model


def _accumulated(model: PreTrainedModel, parts: list[list[TokenSequence]]) -> tuple[float, dict[str, Tensor]]:
    parameters = adapter_parameters(model)
    for parameter in parameters.values():
        parameter.grad = None
    with packed_attention_enabled(model):
        loss = accumulate_gradients(
            model, [pack(part) for part in parts], forward=packed_logprobs, objective=supervised_loss
        )
    return loss, {name: parameter.grad.clone() for name, parameter in parameters.items()}


@pytest.mark.parametrize("parts", SPLITS.values(), ids=SPLITS)
def test_micro_batches_give_what_one_batch_gives(parts: list[list[TokenSequence]]) -> None:
    model = _model()
    whole_loss, whole = _accumulated(model, [ROWS])
    loss, gradients = _accumulated(model, parts)
    assert loss == pytest.approx(whole_loss, abs=1e-6)
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, whole[name], atol=1e-6, rtol=1e-6)


def test_the_loss_is_the_mean_over_the_supervised_tokens_of_the_step() -> None:
    model = _model()
    losses = [
        -torch.log_softmax(row_logits(model, row.ids)[at - 1], dim=-1)[row.ids[at]].item()
        for row in ROWS
        for at in range(1, len(row.ids))
        if row.supervised[at]
    ]
    loss, _ = _accumulated(model, [[row] for row in ROWS])
    assert loss == pytest.approx(math.fsum(losses) / len(losses), abs=1e-5)

    means = [pack([row]) for row in ROWS]
    with packed_attention_enabled(model):
        of_rows = [mean_loss(model, [batch], forward=packed_logprobs, objective=supervised_loss) for batch in means]
        assert mean_loss(model, means, forward=packed_logprobs, objective=supervised_loss) == pytest.approx(
            loss, abs=1e-6
        )
    assert abs(sum(of_rows) / len(of_rows) - loss) > 1e-3, "the rows must tell a mean of means from the mean"


def test_gradients_add_to_what_is_there() -> None:
    model = _model()
    _, once = _accumulated(model, [ROWS])
    with packed_attention_enabled(model):
        accumulate_gradients(model, [pack(ROWS)], forward=packed_logprobs, objective=supervised_loss)
    for name, parameter in adapter_parameters(model).items():
        torch.testing.assert_close(parameter.grad, 2 * once[name], atol=1e-6, rtol=1e-5)


def _train_step(
    model: PreTrainedModel, rate: float = 1e-3, bound: float = 1.0, forward: Forward = packed_logprobs
) -> StepResult:
    parameters = adapter_parameters(model)
    with packed_attention_enabled(model):
        return train_step(
            model,
            [pack(ROWS[:3]), pack(ROWS[3:])],
            forward=forward,
            objective=supervised_loss,
            parameters=list(parameters.values()),
            optimizer=make_optimizer(parameters, weight_decay=0.0),
            learning_rate=rate,
            max_gradient_norm=bound,
        )


def test_the_figures_of_a_step() -> None:
    model = _model()
    loss, gradients = _accumulated(model, [ROWS])
    norm = math.sqrt(sum(float(gradient.double().square().sum()) for gradient in gradients.values()))
    result = _train_step(model)
    assert result.loss == pytest.approx(loss, abs=1e-6)
    assert result.gradient_norm == pytest.approx(norm, rel=1e-5)
    assert result.tokens == sum(len(row.ids) for row in ROWS)
    assert result.supervised_tokens == sum(sum(row.supervised[1:]) for row in ROWS)


@pytest.mark.parametrize("bound", [0.1, 1e9])
def test_gradients_are_clipped_to_the_bound_and_left_alone_below_it(bound: float) -> None:
    model = _model()
    _, gradients = _accumulated(model, [ROWS])
    norm = math.sqrt(sum(float(gradient.double().square().sum()) for gradient in gradients.values()))
    assert norm > 0.1
    result = _train_step(model, bound=bound)
    factor = min(1.0, bound / norm)
    assert result.gradient_norm == pytest.approx(norm, rel=1e-5), "the norm before clipping"
    for name, parameter in adapter_parameters(model).items():
        torch.testing.assert_close(parameter.grad, factor * gradients[name], atol=1e-6, rtol=1e-4)


def test_a_step_uses_the_rate_it_is_given_and_forgets_earlier_gradients() -> None:
    model, other = _model(), _model()
    before = {name: tensor.detach().clone() for name, tensor in adapter_parameters(model).items()}
    for parameter in adapter_parameters(other).values():
        parameter.grad = torch.full_like(parameter, 100.0)
    _train_step(model, rate=1e-3)
    _train_step(other, rate=1e-3)
    for name, tensor in adapter_parameters(model).items():
        moved = (tensor - before[name]).abs().max()
        assert 0.9e-3 < moved < 1.1e-3, "the first step of AdamW is the rate"
        assert torch.equal(tensor, adapter_parameters(other)[name])


def test_a_step_lowers_the_loss() -> None:
    model = _model()
    assert _train_step(model).loss > _train_step(model).loss


def _broken_by(value: float, where: str) -> Forward:
    def forward(model: PreTrainedModel, batch: PackedBatch) -> Tensor:
        logprobs_S = packed_logprobs(model, batch)
        if batch.rows[0] == ROWS[3].row:
            if where == "loss":
                return logprobs_S * value
            # a finite loss with a gradient that is not: the slope of the root at 0 is infinite
            return logprobs_S + torch.sqrt(logprobs_S * 0.0)
        return logprobs_S

    return forward


@pytest.mark.parametrize(
    ("value", "where"), [(float("nan"), "loss"), (float("inf"), "loss"), (0.0, "gradient")], ids=["nan", "inf", "grad"]
)
def test_a_loss_or_gradient_that_is_not_finite_is_never_taken(value: float, where: str) -> None:
    model = _model()
    before = {name: tensor.detach().clone() for name, tensor in adapter_parameters(model).items()}
    with pytest.raises(TrainingError, match="gradient norm") as caught:
        _train_step(model, forward=_broken_by(value, where))
    assert "[1, 2, 3, 4, 5, 6]" in caught.value.details[0], "the rows of the step are named"
    assert caught.value.exit_code == 1
    for name, tensor in adapter_parameters(model).items():
        assert torch.equal(tensor, before[name])


def test_mean_loss_leaves_no_gradients() -> None:
    model = _model()
    with packed_attention_enabled(model):
        mean_loss(model, [pack(ROWS)], forward=packed_logprobs, objective=supervised_loss)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_frozen_weights_get_no_gradients() -> None:
    model = _model()
    _accumulated(model, [ROWS])
    frozen = [name for name, parameter in model.named_parameters() if not parameter.requires_grad]
    assert frozen
    assert all(model.get_parameter(name).grad is None for name in frozen)
    assert isinstance(model.get_parameter(frozen[0]), nn.Parameter)
