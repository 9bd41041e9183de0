"""The reward model's objective: the better answer's score is to be the higher one.

Shape legend: P pairs.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor
from torch.nn.functional import logsigmoid

__all__ = ["reward_loss"]


def reward_loss(
    chosen_P: Tensor, rejected_P: Tensor, margins_P: Tensor | None = None, *, centring: float = 0.0
) -> tuple[Tensor, int, Mapping[str, Tensor]]:
    """Bradley-Terry: minus the log-probability that the chosen answer wins, given both scores.

    ``ln 2`` a pair where the scores are equal and there is no margin.

    Args:
        chosen_P: score of the chosen answer.
        rejected_P: score of the rejected one.
        margins_P: by how much each chosen answer is better, in units of the score; None for none.
        centring: weight of the squared sum of both scores, which holds their mean at 0; 0 for none.

    Returns:
        (loss_sum, weight, metrics): over pairs; P; ``accuracy`` and ``margin``, summed over pairs.

    Source: Ouyang et al. 2022 (arXiv:2203.02155), equation 1; margins: Touvron et al. 2023 (arXiv:2307.09288),
    equation 2; centring: Eisenstein et al. 2023 (arXiv:2312.09244).
    """
    difference_P = chosen_P - rejected_P
    losses_P = -logsigmoid(difference_P if margins_P is None else difference_P - margins_P)
    if centring:
        losses_P = losses_P + centring * (chosen_P + rejected_P).square()
    right = (difference_P > 0).float() + 0.5 * (difference_P == 0).float()
    return losses_P.sum(), losses_P.shape[0], {"accuracy": right.sum(), "margin": difference_P.detach().sum()}
