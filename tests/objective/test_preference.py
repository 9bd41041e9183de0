"""Preference objectives worked by hand; that they equal TRL's is shown in tests/parity."""

from __future__ import annotations

import math

import pytest
import torch

from hone.objective.preference import Answers, answer_sums, dpo_loss, ipo_loss, kto_loss, orpo_loss, simpo_loss
from hone.objective.reward import reward_loss


def _answers(chosen: list[float], rejected: list[float], lengths: tuple[float, float] = (4.0, 2.0)) -> Answers:
    count = len(chosen)
    return Answers(
        torch.tensor(chosen, requires_grad=True), torch.tensor(rejected, requires_grad=True),
        torch.full((count,), lengths[0]), torch.full((count,), lengths[1]),
    )  # fmt: skip


def _sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def test_sums_are_taken_answer_by_answer() -> None:
    sums = answer_sums(torch.tensor([1.0, 2.0, 4.0, 8.0]), torch.tensor([1, 0, 1, 1]), 3)
    assert sums.tolist() == [2.0, 13.0, 0.0]


def test_dpo_begins_at_ln_2_and_pulls_both_ways_alike() -> None:
    policy = _answers([-8.0], [-3.0])
    loss, weight, metrics = dpo_loss(policy, _answers([-8.0], [-3.0]), beta=0.5, label_smoothing=0.3)
    assert (loss.item(), weight) == (pytest.approx(math.log(2)), 1)
    assert metrics["accuracy"].item() == 0.5, "undecided"
    loss.backward()
    # -beta * (1 - 2 smoothing) * sigmoid(-0) for the chosen answer, its opposite for the rejected one
    assert policy.chosen_P.grad is not None
    assert policy.rejected_P.grad is not None
    assert policy.chosen_P.grad.item() == pytest.approx(-0.5 * 0.4 * 0.5)
    assert policy.rejected_P.grad.item() == pytest.approx(0.5 * 0.4 * 0.5)


def test_dpo_of_one_pair() -> None:
    policy, reference = _answers([-8.0], [-3.0]), _answers([-10.0], [-4.0])
    margin = 0.5 * (2.0 - 1.0)
    assert dpo_loss(policy, reference, beta=0.5)[0].item() == pytest.approx(-math.log(_sigmoid(margin)))
    a_token = 0.5 * (2.0 / 4 - 1.0 / 2)
    normalised = dpo_loss(policy, reference, beta=0.5, length_normalised=True)
    assert normalised[0].item() == pytest.approx(-math.log(_sigmoid(a_token)))
    smoothed = -0.9 * math.log(_sigmoid(margin)) - 0.1 * math.log(_sigmoid(-margin))
    assert dpo_loss(policy, reference, beta=0.5, label_smoothing=0.1)[0].item() == pytest.approx(smoothed)


def test_losses_are_sums_over_pairs() -> None:
    both = dpo_loss(_answers([-8.0, -2.0], [-3.0, -5.0]), _answers([-7.0, -2.5], [-3.0, -4.0]), beta=1.0)
    one = dpo_loss(_answers([-8.0], [-3.0]), _answers([-7.0], [-3.0]), beta=1.0)
    other = dpo_loss(_answers([-2.0], [-5.0]), _answers([-2.5], [-4.0]), beta=1.0)
    assert both[0].item() == pytest.approx(one[0].item() + other[0].item())
    assert both[1] == one[1] + other[1] == 2
    assert both[2]["accuracy"].item() == 1.0


def test_ipo_is_a_square() -> None:
    policy, reference = _answers([-8.0], [-3.0]), _answers([-10.0], [-4.0])
    assert ipo_loss(reference, reference, beta=0.1)[0].item() == pytest.approx(25.0)
    assert ipo_loss(policy, reference, beta=0.1)[0].item() == pytest.approx((2.0 / 4 - 1.0 / 2 - 5.0) ** 2)
    sums = ipo_loss(policy, reference, beta=0.1, length_normalised=False)
    assert sums[0].item() == pytest.approx((1.0 - 5.0) ** 2)


def test_simpo_takes_a_token_and_a_margin() -> None:
    loss, _, metrics = simpo_loss(_answers([-8.0], [-3.0]), beta=2.0, target_margin=0.6)
    reward = 2.0 * (-8.0 / 4 + 3.0 / 2)
    assert loss.item() == pytest.approx(-math.log(_sigmoid(reward - 0.6)))
    assert metrics["margin"].item() == pytest.approx(reward)


def test_orpo_adds_the_odds_to_the_likelihood() -> None:
    def log_odds(mean: float) -> float:
        return mean - math.log(1 - math.exp(mean))

    expected = 2.0 - 0.4 * math.log(_sigmoid(log_odds(-2.0) - log_odds(-1.5)))
    assert orpo_loss(_answers([-8.0], [-3.0]), beta=0.4)[0].item() == pytest.approx(expected)


@pytest.mark.parametrize("mean", [-1e-6, -0.69, -0.70, -40.0])
def test_orpo_stays_finite_at_both_ends(mean: float) -> None:
    policy = _answers([4 * mean], [-3.0])
    orpo_loss(policy, beta=1.0)[0].backward()
    assert policy.chosen_P.grad is not None
    assert bool(torch.isfinite(policy.chosen_P.grad).all())


def test_kto_values_liked_and_disliked_against_the_divergence() -> None:
    policy, reference = torch.tensor([-3.0, -5.0]), torch.tensor([-4.0, -4.5])
    loss, weight, metrics = kto_loss(
        policy, reference, torch.tensor([True, False]), divergence=0.2, beta=0.5, desirable_weight=1.5,
        undesirable_weight=0.5,
    )  # fmt: skip
    expected = 1.5 * (1 - _sigmoid(0.5 * (1.0 - 0.2))) + 0.5 * (1 - _sigmoid(0.5 * (0.2 + 0.5)))
    assert (loss.item(), weight) == (pytest.approx(expected), 2)
    assert metrics["accuracy"].item() == 2.0
    even, _, _ = kto_loss(policy, policy, torch.tensor([True, False]), divergence=0.0, beta=0.5)
    assert even.item() == pytest.approx(1.0), "half an answer"


def test_reward_loss_of_one_pair() -> None:
    chosen, rejected = torch.tensor([0.7]), torch.tensor([0.2])
    assert reward_loss(torch.zeros(1), torch.zeros(1))[0].item() == pytest.approx(math.log(2))
    assert reward_loss(chosen, rejected)[0].item() == pytest.approx(-math.log(_sigmoid(0.5)))
    margins = reward_loss(chosen, rejected, torch.tensor([0.4]), centring=0.1)
    assert margins[0].item() == pytest.approx(-math.log(_sigmoid(0.1)) + 0.1 * 0.9**2)
    assert margins[1] == 1
