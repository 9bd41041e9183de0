"""The supervised objective, against the algebra."""

from __future__ import annotations

import pytest
import torch

from hone.objective.supervised import supervised_loss


def test_a_worked_example() -> None:
    # p = 1/2, 1/4, 1/8: -ln p sums to 6 ln 2
    loss, weight, metrics = supervised_loss(torch.tensor([0.5, 0.25, 0.125]).log())
    assert float(loss) == pytest.approx(6 * 0.6931472, abs=1e-6)
    assert (weight, dict(metrics)) == (3, {})


def test_the_gradient_is_minus_one_for_each_token() -> None:
    logprobs_S = torch.tensor([-1.0, -2.5, -0.1], requires_grad=True)
    loss, _, _ = supervised_loss(logprobs_S)
    (gradient,) = torch.autograd.grad(loss, logprobs_S)
    assert torch.equal(gradient, torch.full((3,), -1.0))


def test_it_is_a_sum_so_parts_add_up() -> None:
    torch.manual_seed(0)
    logprobs_S = -torch.rand(12)
    whole, weight, _ = supervised_loss(logprobs_S)
    parts = [supervised_loss(logprobs_S[part]) for part in (slice(0, 1), slice(1, 8), slice(8, 12))]
    torch.testing.assert_close(sum(part[0] for part in parts), whole)
    assert sum(part[1] for part in parts) == weight == 12


def test_no_supervised_tokens_cost_nothing() -> None:
    loss, weight, _ = supervised_loss(torch.zeros(0))
    assert (float(loss), weight) == (0.0, 0)
