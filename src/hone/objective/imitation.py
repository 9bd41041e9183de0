"""Objectives that make answers of the model's own likelier: those a reward picked, or those a teacher would give.

Shape legend: S tokens of all answers of a batch, B answers.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from hone.objective.policy import Ratios, ppo_loss

__all__ = ["best_answers", "distillation_loss", "raft_loss", "sampled_distillation_loss"]

Loss = tuple[Tensor, int, Mapping[str, Tensor]]


def best_answers(rewards: list[list[float]]) -> list[int | None]:
    """The place of the best answer in each group: the first drawn of equal ones; None where all are worth the same.

    Args:
        rewards: of the answers, group by group.
    """
    return [None if min(group) == max(group) else group.index(max(group)) for group in rewards]


def raft_loss(logprobs_S: Tensor, weights_B: Tensor, owners_S: Tensor) -> Loss:
    """Minus the log-probability of the answers that were kept: supervised fine-tuning on them.

    Args:
        logprobs_S: log-probability of each token, in nats.
        weights_B: 1 for an answer that was kept, 0 for one that stands in where none was.
        owners_S: the answer that each token belongs to.

    Returns:
        (loss_sum, weight, metrics): over tokens; S; nothing.

    Source: Dong et al. 2023 (RAFT, arXiv:2304.06767), algorithm 1, with as many answers kept as prompts are decided.
    """
    return -(logprobs_S * weights_B[owners_S]).sum(), logprobs_S.shape[0], {}


def distillation_loss(divergences_S: Tensor) -> Loss:
    """The divergence KL(model || teacher) at each token of the model's own answers, over the whole vocabulary.

    What was drawn is taken as given: no gradient goes through the sampling.

    Args:
        divergences_S: in nats.

    Returns:
        (loss_sum, weight, metrics): over tokens; S; nothing.

    Source: Agarwal et al. 2024 (GKD, arXiv:2306.13649), equation 4 with lambda = 1 and the reverse KL.
    """
    return divergences_S.sum(), divergences_S.shape[0], {}


def sampled_distillation_loss(ratios: Ratios, teacher_S: Tensor) -> Loss:
    """The same in expectation where the teacher tells the log-probability of the drawn token alone.

    The advantage of each token is by how much likelier the teacher finds it than the policy that wrote it.

    Args:
        ratios: of the answers' tokens.
        teacher_S: log-probabilities under the teacher.

    Returns:
        (loss_sum, weight, metrics): over tokens; S; ``clipped``: tokens whose ratio is out of range.

    Source: Lu et al. 2025 (On-Policy Distillation, Thinking Machines Lab); the gradient is that of
    :func:`distillation_loss` in expectation over the drawn token.
    """
    return ppo_loss(ratios, teacher_S - ratios.old_S)
