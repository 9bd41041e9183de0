"""Policy objectives worked by hand; that GRPO and RLOO equal TRL's is shown in tests/parity."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from hone.objective.policy import (
    Ratios,
    ValueEstimates,
    estimated_divergences,
    gae,
    group_advantages,
    grpo_loss,
    leave_one_out_advantages,
    ppo_loss,
    rloo_loss,
    token_rewards,
    value_loss,
    whitened,
)

OWNERS = torch.tensor([0, 0, 1])


def _ratios(new: list[float], old: list[float], clip_range: float = 0.2) -> Ratios:
    return Ratios(torch.tensor(new, requires_grad=True), torch.tensor(old), OWNERS, 2, clip_range)


def _gradient(ratios: Ratios) -> list[float]:
    assert ratios.logprobs_S.grad is not None
    return ratios.logprobs_S.grad.tolist()


def test_a_group_is_judged_by_its_own_mean_and_deviation() -> None:
    rewards, groups = torch.tensor([1.0, 0.0, 0.0, 0.0, 5.0, 5.0]), torch.tensor([0, 0, 0, 0, 1, 1])
    assert group_advantages(rewards, groups, scaled=False).tolist() == [0.75, -0.25, -0.25, -0.25, 0.0, 0.0]
    deviation = math.sqrt((0.75**2 + 3 * 0.25**2) / 3)
    scaled = group_advantages(rewards, groups, scaled=True).tolist()
    assert scaled[:2] == pytest.approx([0.75 / (deviation + 1e-4), -0.25 / (deviation + 1e-4)])
    assert scaled[4:] == [0.0, 0.0], "equal rewards teach nothing"


def test_an_answer_is_held_against_the_others_of_its_group() -> None:
    rewards, groups = torch.tensor([1.0, 0.0, 0.5, 3.0]), torch.tensor([0, 0, 0, 1])
    assert leave_one_out_advantages(rewards, groups).tolist() == pytest.approx([0.75, -0.75, 0.0, 0.0])


def test_k3_is_never_negative_and_zero_where_both_are_equal() -> None:
    policy, base = torch.tensor([-1.0, -2.0, -3.0]), torch.tensor([-1.0, -1.0, -4.0])
    found = estimated_divergences(policy, base).tolist()
    assert found == pytest.approx([0.0, math.e - 1 - 1, math.exp(-1) + 1 - 1])


def test_on_policy_the_gradient_is_that_of_reinforce() -> None:
    ratios = _ratios([-1.0, -2.0, -3.0], [-1.0, -2.0, -3.0])
    loss, weight, metrics = grpo_loss(ratios, torch.tensor([2.0, -1.0]), torch.tensor([-1.0, -2.0, -3.0]), beta=0.1)
    assert (loss.item(), weight, metrics["clipped"].item()) == (pytest.approx(-2.0 + 1.0), 2, 0.0)
    loss.backward()
    # minus the advantage over the answer's tokens; at KL 0 the divergence pulls nowhere
    assert _gradient(ratios) == pytest.approx([-1.0, -1.0, 1.0])


@pytest.mark.parametrize(
    ("normalisation", "expected", "weight"),
    [("grpo", -(2.0 + 2.0) / 2 + 1.0, 2), ("dr_grpo", (-4.0 + 1.0) / 8, 2), ("dapo", -4.0 + 1.0, 3)],
)
def test_what_the_loss_is_divided_by(normalisation: str, expected: float, weight: int) -> None:
    ratios = _ratios([-1.0, -2.0, -3.0], [-1.0, -2.0, -3.0])
    found = grpo_loss(
        ratios, torch.tensor([2.0, -1.0]), torch.zeros(3), beta=0.0, normalisation=normalisation,  # type: ignore[arg-type]
        max_tokens=8,
    )  # fmt: skip
    assert (found[0].item(), found[1]) == (pytest.approx(expected), weight)


def test_a_ratio_out_of_range_is_clipped_where_that_is_the_smaller_gain() -> None:
    ratios = _ratios([math.log(1.5), math.log(0.5), math.log(1.5)], [0.0, 0.0, 0.0])
    loss, _, metrics = grpo_loss(ratios, torch.tensor([1.0, -1.0]), torch.zeros(3), beta=0.0)
    assert metrics["clipped"].item() == 3.0
    # gain 1.2 (clipped) and 0.5 (not clipped: it is the smaller one), loss 1.5 (not clipped)
    assert loss.item() == pytest.approx(-(1.2 + 0.5) / 2 + 1.5)
    loss.backward()
    assert _gradient(ratios) == pytest.approx([0.0, -0.25, 1.5])


@pytest.mark.parametrize("corrected", [False, True])
def test_the_divergence_is_weighted(corrected: bool) -> None:
    ratios, base = _ratios([-1.0, -2.0, -3.0], [-1.0, -1.5, -3.0]), torch.tensor([-1.0, -1.0, -3.0])
    loss, _, _ = grpo_loss(ratios, torch.zeros(2), base, beta=0.5, corrected=corrected)
    assert loss.item() == pytest.approx(0.5 * (math.e - 2) * (math.exp(-0.5) if corrected else 1.0) / 2)


def test_rloo_clips_whole_answers() -> None:
    ratios = _ratios([-0.5, -0.5, -1.0], [-0.6, -0.6, -1.0])
    loss, weight, metrics = rloo_loss(ratios, torch.tensor([1.0, -2.0]))
    assert (loss.item(), weight, metrics["clipped"].item()) == (pytest.approx(-1.2 + 2.0), 2, 1.0)
    loss.backward()
    assert _gradient(ratios) == pytest.approx([0.0, 0.0, 2.0])


def test_ppo_clips_tokens() -> None:
    ratios = _ratios([math.log(1.5), 0.0, math.log(0.7)], [0.0, 0.0, 0.0])
    loss, weight, _ = ppo_loss(ratios, torch.tensor([1.0, 0.5, -1.0]))
    assert (loss.item(), weight) == (pytest.approx(-1.2 - 0.5 + 0.8), 3)


def test_the_reward_comes_with_the_last_token() -> None:
    found = token_rewards(torch.tensor([1.0, 2.0]), torch.tensor([0.5, 0.25, -1.0]), OWNERS, beta=0.1)
    assert found.tolist() == pytest.approx([-0.05, 1.0 - 0.025, 2.0 + 0.1])


def test_gae_by_hand() -> None:
    rewards, values = torch.tensor([0.0, 1.0, 2.0]), torch.tensor([0.5, 0.25, 1.0])
    advantages, returns = gae(rewards, values, OWNERS, discount=0.9, decay=0.5)
    second = 1.0 - 0.25
    first = 0.0 + 0.9 * 0.25 - 0.5 + 0.9 * 0.5 * second
    assert advantages.tolist() == pytest.approx([first, second, 1.0])
    assert returns.tolist() == pytest.approx([first + 0.5, 1.0, 2.0])


def test_gae_without_decay_is_the_return_less_the_value() -> None:
    advantages, returns = gae(torch.tensor([0.0, 1.0, 2.0]), torch.tensor([0.5, 0.25, 1.0]), OWNERS, decay=1.0)
    assert returns.tolist() == pytest.approx([1.0, 1.0, 2.0])
    assert advantages.tolist() == pytest.approx([0.5, 0.75, 1.0])


def test_a_value_gains_nothing_beyond_the_range() -> None:
    values = torch.tensor([0.5, 0.1, -0.5], requires_grad=True)
    estimates = ValueEstimates(values, torch.zeros(3), torch.tensor([1.0, 1.0, 1.0]))
    loss, weight, _ = value_loss(estimates, clip_range=0.2)
    assert weight == 3
    # the first is clipped to 0.2; the last moves away, and pays in full
    assert loss.item() == pytest.approx(0.5 * (0.8**2 + 0.9**2 + 1.5**2))
    loss.backward()
    assert values.grad is not None
    assert values.grad.tolist() == pytest.approx([0.0, -0.9, -1.5])


def test_whitened() -> None:
    found: Tensor = whitened(torch.tensor([1.0, 2.0, 3.0]))
    assert found.tolist() == pytest.approx([-math.sqrt(1.5), 0.0, math.sqrt(1.5)])
    assert whitened(torch.tensor([4.0])).tolist() == [0.0]
