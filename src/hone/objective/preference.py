"""Preference objectives: what a prompt's better and worse answers say about the model.

Each takes log-probabilities of whole answers (sums over their tokens, in nats) and gives a sum over pairs, or over
answers for KTO, with its weight: the step divides once. ``Answers`` of the reference are those of the base.

Shape legend: S supervised tokens of a batch, B answers of a batch, P pairs, N single answers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

__all__ = ["Answers", "answer_sums", "dpo_loss", "ipo_loss", "kto_loss", "orpo_loss", "simpo_loss"]

Loss = tuple[Tensor, int, Mapping[str, Tensor]]


@dataclass(frozen=True, slots=True)
class Answers:
    """The chosen and the rejected answer of each pair.

    Args:
        chosen_P: log-probability of the chosen answer, the sum over its tokens, in nats.
        rejected_P: the same of the rejected one.
        chosen_tokens_P: tokens of the chosen answer, as float32.
        rejected_tokens_P: tokens of the rejected one.
    """

    chosen_P: Tensor
    rejected_P: Tensor
    chosen_tokens_P: Tensor
    rejected_tokens_P: Tensor

    @property
    def means(self) -> tuple[Tensor, Tensor]:
        """Log-probability a token of the chosen and of the rejected answer, each [P]."""
        return self.chosen_P / self.chosen_tokens_P, self.rejected_P / self.rejected_tokens_P


def answer_sums(logprobs_S: Tensor, owners_S: Tensor, num_answers: int) -> Tensor:
    """Log-probability [B] of each answer: the sum over its tokens, in nats.

    Args:
        logprobs_S: of the supervised tokens, float32.
        owners_S: the answer that each belongs to.
        num_answers: B.
    """
    return logprobs_S.new_zeros(num_answers).index_add(0, owners_S, logprobs_S)


def dpo_loss(
    policy: Answers,
    reference: Answers,
    *,
    beta: float,
    label_smoothing: float = 0.0,
    length_normalised: bool = False,
) -> Loss:
    """Direct preference optimisation: the logistic loss of the difference of implicit rewards.

    ``ln 2`` a pair where policy and reference are equal.

    Args:
        policy: of the model that is trained.
        reference: of the base.
        beta: how strongly the policy is held to the reference.
        label_smoothing: assumed share of pairs whose label is wrong, 0 to 0.5 (conservative DPO).
        length_normalised: rewards are taken a token, so that long answers do not count for more.

    Returns:
        (loss_sum, weight, metrics): over pairs; P; ``accuracy`` and ``margin``, summed over pairs.

    Source: Rafailov et al. 2023 (arXiv:2305.18290), equation 7; Mitchell 2023 (A note on DPO with noisy preferences).
    """
    margin_P = beta * _reward_differences(policy, reference, length_normalised)
    return _summed(_smoothed(margin_P, label_smoothing), margin_P)


def ipo_loss(policy: Answers, reference: Answers, *, beta: float, length_normalised: bool = True) -> Loss:
    """Identity preference optimisation: the squared distance of the log-ratio's difference from 1 / (2 beta).

    ``1 / (4 beta^2)`` a pair where policy and reference are equal.

    Args:
        policy: of the model that is trained.
        reference: of the base.
        beta: the paper's tau.
        length_normalised: log-ratios are taken a token, as the paper's authors did in their experiments; False takes
            sums, as equation 17 is printed.

    Returns:
        (loss_sum, weight, metrics): as for :func:`dpo_loss`.

    Source: Azar et al. 2023 (arXiv:2310.12036), equation 17.
    """
    difference_P = _reward_differences(policy, reference, length_normalised)
    return _summed((difference_P - 1 / (2 * beta)).square(), beta * difference_P)


def simpo_loss(policy: Answers, *, beta: float, target_margin: float, label_smoothing: float = 0.0) -> Loss:
    """Simple preference optimisation: without a reference, rewards a token, and a margin to be reached.

    Args:
        policy: of the model that is trained.
        beta: scale of the reward.
        target_margin: the paper's gamma, in units of the reward.
        label_smoothing: as for :func:`dpo_loss`.

    Returns:
        (loss_sum, weight, metrics): as for :func:`dpo_loss`; ``margin`` is without the target.

    Source: Meng et al. 2024 (arXiv:2405.14734), equation 6.
    """
    chosen_P, rejected_P = policy.means
    margin_P = beta * (chosen_P - rejected_P)
    return _summed(_smoothed(margin_P - target_margin, label_smoothing), margin_P)


def orpo_loss(policy: Answers, *, beta: float) -> Loss:
    """Odds ratio preference optimisation: the chosen answer's likelihood, and the odds of chosen over rejected.

    Each pair has its own mean over the chosen answer's tokens, as in the paper; TRL takes one mean over the tokens of
    all chosen rows, their prompts included.

    Args:
        policy: of the model that is trained.
        beta: the paper's lambda, the weight of the odds.

    Returns:
        (loss_sum, weight, metrics): as for :func:`dpo_loss`; ``margin`` is of the log-odds.

    Source: Hong et al. 2024 (arXiv:2403.07691), equations 4, 6 and 7.
    """
    chosen_P, rejected_P = policy.means
    log_odds_P = (chosen_P - rejected_P) - (_log1mexp(chosen_P) - _log1mexp(rejected_P))
    return _summed(-chosen_P - beta * logsigmoid(log_odds_P), log_odds_P)


def kto_loss(
    policy_N: Tensor,
    reference_N: Tensor,
    desirable_N: Tensor,
    *,
    divergence: float,
    beta: float,
    desirable_weight: float = 1.0,
    undesirable_weight: float = 1.0,
) -> Loss:
    """Kahneman-Tversky optimisation: single answers, each liked or not, valued against the divergence so far.

    ``weight / 2`` an answer where policy and reference are equal.

    Args:
        policy_N: log-probability of each answer, the sum over its tokens.
        reference_N: the base's.
        desirable_N: whether each is liked, bool.
        divergence: KL of the policy from the reference in nats, estimated on mismatched answers; the paper's z0,
            not below 0 and without a gradient.
        beta: how strongly the policy is held to the reference.
        desirable_weight: of a liked answer's loss.
        undesirable_weight: of a disliked one's.

    Returns:
        (loss_sum, weight, metrics): over answers; N; ``accuracy`` (liked ones above z0, others below) and ``margin``.

    Source: Ethayarajh et al. 2024 (arXiv:2402.01306), equations 7 and 8.
    """
    sign_N = torch.where(desirable_N, 1.0, -1.0)
    weight_N = torch.where(desirable_N, desirable_weight, undesirable_weight)
    margin_N = sign_N * beta * ((policy_N - reference_N) - divergence)
    return _summed(weight_N * (1 - torch.sigmoid(margin_N)), margin_N)


def _reward_differences(policy: Answers, reference: Answers, length_normalised: bool) -> Tensor:
    chosen_P = policy.chosen_P - reference.chosen_P
    rejected_P = policy.rejected_P - reference.rejected_P
    if length_normalised:
        return chosen_P / policy.chosen_tokens_P - rejected_P / policy.rejected_tokens_P
    return chosen_P - rejected_P


def _smoothed(margin_P: Tensor, label_smoothing: float) -> Tensor:
    return -(1 - label_smoothing) * logsigmoid(margin_P) - label_smoothing * logsigmoid(-margin_P)


def _log1mexp(logs_P: Tensor) -> Tensor:
    """log(1 - exp(x)) for x < 0, exact at both ends (Maechler 2012, Accurately computing log(1 - exp(-|a|)))."""
    logs_P = logs_P.clamp(max=-torch.finfo(logs_P.dtype).eps)  # at 0, an answer that is certain, nothing is finite
    near_zero_P = logs_P > -0.6931471805599453
    # the branch not taken is given a harmless argument: its gradient would be infinite times zero
    near = torch.log(-torch.expm1(torch.where(near_zero_P, logs_P, -0.5)))
    far = torch.log1p(-torch.exp(torch.where(near_zero_P, -1.0, logs_P)))
    return torch.where(near_zero_P, near, far)


def _summed(losses_P: Tensor, margin_P: Tensor) -> Loss:
    right = (margin_P > 0).float() + 0.5 * (margin_P == 0).float()
    return losses_P.sum(), losses_P.shape[0], {"accuracy": right.sum(), "margin": margin_P.detach().sum()}
