"""Policy objectives: what the rewards of a model's own answers say about it. GRPO, RLOO and PPO.

All take log-probabilities of the answers' tokens: of the policy that is trained, of the policy that wrote them
(``old``), and of the base (``reference``). Where the policy that is trained wrote them itself, ``old`` is its own
figures without their gradient: the ratio of both is 1, and its derivative that of the log-probability.

Shape legend: S tokens of all answers of a batch, B answers, G groups (answers to one prompt), L the longest answer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

__all__ = [
    "Normalisation",
    "Ratios",
    "ValueEstimates",
    "estimated_divergences",
    "gae",
    "group_advantages",
    "grpo_loss",
    "leave_one_out_advantages",
    "ppo_loss",
    "rloo_loss",
    "token_rewards",
    "value_loss",
    "whitened",
]

Loss = tuple[Tensor, int, Mapping[str, Tensor]]
Normalisation = Literal["grpo", "dr_grpo", "dapo"]
"""What a policy loss is divided by: each answer's tokens, a constant length, or the tokens of the whole step."""

# TRL's, so that a group of equal rewards has advantages of 0 and not of 0 / 0
_DEVIATION_FLOOR = 1e-4
_WHITENING_FLOOR = 1e-8


@dataclass(frozen=True, slots=True)
class Ratios:
    """The answers' tokens under the policy that is trained and under the one that wrote them.

    Args:
        logprobs_S: log-probability of each token, in nats, with a gradient.
        old_S: the same of the policy that wrote them, without one.
        owners_S: the answer that each token belongs to.
        num_answers: B.
        clip_range: how far from 1 the ratio still counts; the paper's epsilon.
    """

    logprobs_S: Tensor
    old_S: Tensor
    owners_S: Tensor
    num_answers: int
    clip_range: float

    @property
    def tokens_B(self) -> Tensor:
        """Tokens of each answer, float32."""
        return self.per_answer(torch.ones_like(self.logprobs_S))

    def per_answer(self, values_S: Tensor) -> Tensor:
        """The sum [B] over each answer's tokens."""
        return values_S.new_zeros(self.num_answers).index_add(0, self.owners_S, values_S)

    def clipped(self, logs: Tensor, advantages: Tensor) -> Tensor:
        """The clipped surrogate, negated: a loss.

        Args:
            logs: log-ratios of tokens or of answers.
            advantages: of the same.
        """
        ratio = torch.exp(logs)
        bounded = ratio.clamp(1 - self.clip_range, 1 + self.clip_range)
        return -torch.minimum(ratio * advantages, bounded * advantages)

    def outside(self, logs: Tensor) -> Tensor:
        """How many of the ratios are outside of the range."""
        return ((torch.exp(logs) - 1).abs() > self.clip_range).float().sum().detach()


def group_advantages(rewards_B: Tensor, groups_B: Tensor, *, scaled: bool) -> Tensor:
    """Advantages [B] within groups: the reward less the group's mean, over the group's deviation where ``scaled``.

    Args:
        rewards_B: float32.
        groups_B: the group of each answer, from 0.
        scaled: whether they are divided by the deviation (with Bessel's correction), plus 1e-4. Without it prompts
            whose answers differ little weigh little (Liu et al. 2025, arXiv:2503.20783).

    Source: Shao et al. 2024 (arXiv:2402.03300), section 4.1.2.
    """
    counts_G, sums_G = _of_groups(rewards_B, groups_B)
    centred_B = rewards_B - (sums_G / counts_G)[groups_B]
    if not scaled:
        return centred_B
    squares_G = torch.zeros_like(sums_G).index_add(0, groups_B, centred_B.square())
    deviations_G = (squares_G / (counts_G - 1).clamp(min=1)).sqrt()
    return centred_B / (deviations_G[groups_B] + _DEVIATION_FLOOR)


def leave_one_out_advantages(rewards_B: Tensor, groups_B: Tensor) -> Tensor:
    """Advantages [B]: the reward less the mean of the group's other answers; 0 for an answer without others.

    Args:
        rewards_B: float32.
        groups_B: the group of each answer, from 0.

    Source: Ahmadian et al. 2024 (arXiv:2402.14740), equation 8.
    """
    counts_G, sums_G = _of_groups(rewards_B, groups_B)
    others_B = counts_G[groups_B] - 1
    baselines_B = (sums_G[groups_B] - rewards_B) / others_B.clamp(min=1)
    return torch.where(others_B > 0, rewards_B - baselines_B, torch.zeros_like(rewards_B))


def estimated_divergences(logprobs_S: Tensor, reference_S: Tensor) -> Tensor:
    """The estimator k3 [S] of KL(policy || reference) at each token: never below 0, and 0 where both are equal.

    Args:
        logprobs_S: of the policy.
        reference_S: of the base.

    Source: Schulman 2020 (Approximating KL divergence); Shao et al. 2024 (arXiv:2402.03300), equation 4.
    """
    return torch.expm1(reference_S - logprobs_S) - (reference_S - logprobs_S)


def grpo_loss(
    ratios: Ratios,
    advantages_B: Tensor,
    reference_S: Tensor,
    *,
    beta: float,
    normalisation: Normalisation = "grpo",
    max_tokens: int = 0,
    corrected: bool = False,
) -> Loss:
    """Group relative policy optimisation: the clipped ratio times the group's advantage, token by token, and a KL term.

    Args:
        ratios: of the answers' tokens.
        advantages_B: see :func:`group_advantages`.
        reference_S: log-probabilities under the base.
        beta: weight of the divergence from the base.
        normalisation: ``grpo`` takes the mean over each answer's tokens, as the paper; ``dr_grpo`` divides the sum by
            ``max_tokens``, so that long answers are not spared (Liu et al. 2025, arXiv:2503.20783); ``dapo`` divides
            by the tokens of the whole step (Yu et al. 2025, arXiv:2503.14476).
        max_tokens: the longest answer allowed, for ``dr_grpo``.
        corrected: whether the divergence is weighted by the ratio, as TRL does unless told otherwise (DeepSeek-AI
            2025, DeepSeek-V3.2); the paper of GRPO does not.

    Returns:
        (loss_sum, weight, metrics): over answers, and B; for ``dapo`` over tokens, and S. ``clipped``: tokens whose
        ratio is out of range.

    Source: Shao et al. 2024 (arXiv:2402.03300), equation 3.
    """
    logs_S = ratios.logprobs_S - ratios.old_S
    losses_S = ratios.clipped(logs_S, advantages_B[ratios.owners_S])
    if beta:
        kl_S = estimated_divergences(ratios.logprobs_S, reference_S)
        losses_S = losses_S + beta * (kl_S * torch.exp(logs_S) if corrected else kl_S)
    metrics = {"clipped": ratios.outside(logs_S)}
    if normalisation == "dapo":
        return losses_S.sum(), losses_S.shape[0], metrics
    sums_B = ratios.per_answer(losses_S)
    sizes_B = ratios.tokens_B if normalisation == "grpo" else torch.full_like(sums_B, float(max_tokens))
    return (sums_B / sizes_B).sum(), ratios.num_answers, metrics


def rloo_loss(ratios: Ratios, advantages_B: Tensor) -> Loss:
    """REINFORCE with a leave-one-out baseline, the ratio of whole answers clipped where they are used again.

    Args:
        ratios: of the answers' tokens.
        advantages_B: see :func:`leave_one_out_advantages`; the divergence is a part of the reward.

    Returns:
        (loss_sum, weight, metrics): over answers; B; ``clipped``: answers whose ratio is out of range.

    Source: Ahmadian et al. 2024 (arXiv:2402.14740), equations 7 and 8.
    """
    logs_B = ratios.per_answer(ratios.logprobs_S) - ratios.per_answer(ratios.old_S)
    losses_B = ratios.clipped(logs_B, advantages_B)
    return losses_B.sum(), ratios.num_answers, {"clipped": ratios.outside(logs_B)}


def ppo_loss(ratios: Ratios, advantages_S: Tensor) -> Loss:
    """Proximal policy optimisation: the clipped ratio times the advantage of each token.

    Args:
        ratios: of the answers' tokens.
        advantages_S: see :func:`gae`.

    Returns:
        (loss_sum, weight, metrics): over tokens; S; ``clipped``: tokens whose ratio is out of range.

    Source: Schulman et al. 2017 (arXiv:1707.06347), equation 7.
    """
    logs_S = ratios.logprobs_S - ratios.old_S
    return ratios.clipped(logs_S, advantages_S).sum(), logs_S.shape[0], {"clipped": ratios.outside(logs_S)}


@dataclass(frozen=True, slots=True)
class ValueEstimates:
    """What a value head expects of the rest of each answer, before each of its tokens.

    Args:
        values_S: now, with a gradient.
        old_S: when the answers were written.
        returns_S: what came.
    """

    values_S: Tensor
    old_S: Tensor
    returns_S: Tensor


def value_loss(estimates: ValueEstimates, *, clip_range: float) -> Loss:
    """Half the squared error of the values, none of them gaining by moving further than the range.

    Args:
        estimates: of the answers' tokens.
        clip_range: how far from the old value a new one still counts.

    Returns:
        (loss_sum, weight, metrics): over tokens; S; nothing.

    Source: Schulman et al. 2017 (arXiv:1707.06347), equation 9; the clipping is that of OpenAI's baselines
    (Engstrom et al. 2020, arXiv:2005.12729, section 3).
    """
    old_S, new_S = estimates.old_S, estimates.values_S
    bounded_S = old_S + (new_S - old_S).clamp(-clip_range, clip_range)
    worse_S = torch.maximum((new_S - estimates.returns_S).square(), (bounded_S - estimates.returns_S).square())
    return 0.5 * worse_S.sum(), new_S.shape[0], {}


def token_rewards(rewards_B: Tensor, divergences_S: Tensor, owners_S: Tensor, *, beta: float) -> Tensor:
    """Rewards [S] of single tokens: minus the divergence at each, and the answer's reward at its last one.

    Args:
        rewards_B: of the answers.
        divergences_S: log-probability of the policy that wrote them, less the base's.
        owners_S: the answer of each token; the tokens of an answer stand together, in order.
        beta: weight of the divergence.

    Source: Ouyang et al. 2022 (arXiv:2203.02155), equation 2, without the pre-training term.
    """
    last_S = torch.cat([owners_S[1:] != owners_S[:-1], owners_S.new_ones(1, dtype=torch.bool)])
    return torch.where(last_S, rewards_B[owners_S], torch.zeros_like(divergences_S)) - beta * divergences_S


def gae(
    rewards_S: Tensor, values_S: Tensor, owners_S: Tensor, *, discount: float = 1.0, decay: float = 0.95
) -> tuple[Tensor, Tensor]:
    """Generalised advantage estimation over each answer by itself; behind its last token nothing is expected.

    Args:
        rewards_S: of each token.
        values_S: what was expected before each token.
        owners_S: the answer of each token; the tokens of an answer stand together, in order.
        discount: the paper's gamma.
        decay: its lambda.

    Returns:
        (advantages_S, returns_S): the returns are advantages plus values, what the values are to become.

    Source: Schulman et al. 2016 (arXiv:1506.02438), equation 16.
    """
    rewards, values, owners = rewards_S.tolist(), values_S.tolist(), owners_S.tolist()
    advantages = [0.0] * len(rewards)
    for at in range(len(rewards) - 1, -1, -1):
        goes_on = at + 1 < len(rewards) and owners[at + 1] == owners[at]
        error = rewards[at] + (discount * values[at + 1] if goes_on else 0.0) - values[at]
        advantages[at] = error + (discount * decay * advantages[at + 1] if goes_on else 0.0)
    advantages_S = values_S.new_tensor(advantages)
    return advantages_S, advantages_S + values_S


def whitened(advantages_S: Tensor) -> Tensor:
    """The same with mean 0 and deviation 1; a single one is 0."""
    centred_S = advantages_S - advantages_S.mean()
    return centred_S / (centred_S.square().mean().sqrt() + _WHITENING_FLOOR)


def _of_groups(rewards_B: Tensor, groups_B: Tensor) -> tuple[Tensor, Tensor]:
    """The size and the sum of each group, [G]."""
    count = int(groups_B.max()) + 1
    sizes_G = rewards_B.new_zeros(count).index_add(0, groups_B, torch.ones_like(rewards_B))
    return sizes_G, rewards_B.new_zeros(count).index_add(0, groups_B, rewards_B)
