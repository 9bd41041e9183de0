"""The supervised objective, worked by hand."""

from __future__ import annotations

import math

import pytest
import torch

from hone.objective.supervised import supervised_loss


def test_the_loss_is_the_negative_log_likelihood_by_algebra() -> None:
    # p(token) is proportional to the weights below, so each loss is a logarithm one can write down
    logits_SV = torch.tensor([[1.0, 1.0, 2.0], [3.0, 1.0, 1.0]]).log()
    loss, weight, metrics = supervised_loss(logits_SV, torch.tensor([2, 1]))
    assert float(loss) == pytest.approx(-math.log(2 / 4) - math.log(1 / 5), abs=1e-6)
    assert weight == 2
    assert int(metrics["correct"]) == 1


def test_uniform_scores_cost_the_logarithm_of_the_vocabulary() -> None:
    loss, weight, _ = supervised_loss(torch.zeros(7, 352), torch.arange(7))
    assert float(loss) / weight == pytest.approx(math.log(352), abs=1e-5)


def test_the_gradient_is_probability_minus_target() -> None:
    torch.manual_seed(0)
    logits_SV = torch.randn(5, 9, requires_grad=True)
    targets_S = torch.tensor([0, 8, 3, 3, 1])
    loss, _, metrics = supervised_loss(logits_SV, targets_S)
    (gradient,) = torch.autograd.grad(loss, logits_SV)
    expected = torch.softmax(logits_SV.detach(), dim=-1)
    expected[torch.arange(5), targets_S] -= 1
    torch.testing.assert_close(gradient, expected, atol=1e-6, rtol=1e-6)
    assert not metrics["correct"].requires_grad


def test_it_is_a_sum_so_parts_add_up() -> None:
    torch.manual_seed(0)
    logits_SV, targets_S = torch.randn(12, 9), torch.randint(9, (12,))
    whole, weight, _ = supervised_loss(logits_SV, targets_S)
    parts = [supervised_loss(logits_SV[part], targets_S[part]) for part in (slice(0, 1), slice(1, 8), slice(8, 12))]
    torch.testing.assert_close(sum(part[0] for part in parts), whole)
    assert sum(part[1] for part in parts) == weight == 12


def test_bfloat16_scores_are_reduced_in_float32() -> None:
    torch.manual_seed(0)
    logits_SV = torch.randn(400, 50).to(torch.bfloat16)
    targets_S = torch.randint(50, (400,))
    loss, _, _ = supervised_loss(logits_SV, targets_S)
    exact = -torch.log_softmax(logits_SV.double(), dim=-1)[torch.arange(400), targets_S].sum()
    assert loss.dtype == torch.float32
    # a sum in bfloat16 would be off by several units
    assert float(loss) == pytest.approx(float(exact), rel=1e-6)


def test_no_supervised_tokens_cost_nothing() -> None:
    loss, weight, metrics = supervised_loss(torch.zeros(0, 9), torch.zeros(0, dtype=torch.long))
    assert (float(loss), weight, int(metrics["correct"])) == (0.0, 0, 0)
