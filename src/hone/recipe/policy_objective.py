"""What each method that trains on the model's own answers needs before a step, and its objective as the loop calls it.

Shape legend: S tokens of all answers of a batch, B answers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from hone.data.rollouts import RolloutBatch, RolloutGroup, pack_rollouts
from hone.engine.step import Objective
from hone.model.forward import Forward
from hone.objective.imitation import best_answers, distillation_loss, raft_loss, sampled_distillation_loss
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
from hone.recipe.policy_options import PolicyOptions
from hone.recipe.rollouts import Actor, Rollouts
from hone.recipe.teacher import EndpointTeacher, LocalTeacher

__all__ = ["finished", "policy_objective"]

_VALUE_WEIGHT = 0.1


Teacher = LocalTeacher | EndpointTeacher
# The loss of a micro-batch, and the advantage of each answer [B] where the method has one.
Judged = tuple[tuple[Tensor, int, Mapping[str, Tensor]], Tensor | None]


def finished(
    groups: list[RolloutGroup], options: PolicyOptions, actor: Actor, passes: Forward, teacher: Teacher | None
) -> list[RolloutGroup]:
    """The graded groups with all that the objective needs and the training pass does not give.

    Args:
        groups: answered and graded.
        options: of the method.
        actor: who answered.
        passes: what the objective takes, of a micro-batch.
        teacher: of distillation.

    Raises:
        HoneError: the teacher cannot be reached.
    """
    if options.method == "raft":
        return actor.references(_kept(groups))
    if options.method == "distill":
        return _taught(groups, options, actor, teacher)
    groups = actor.references(groups)
    if options.method == "grpo":
        groups = [
            replace(one, advantages=tuple(_advantages(one, scaled=options.scale_advantages).tolist())) for one in groups
        ]
    if not options.reads_ahead:
        return groups
    found = actor.figures(groups, passes)
    groups = [replace(one, old=figures[0]) for one, figures in zip(groups, found, strict=True)]
    if options.method != "ppo":
        return groups
    groups = [replace(one, values=figures[1]) for one, figures in zip(groups, found, strict=True)]
    return _with_token_advantages(groups, options)


def _kept(groups: Sequence[RolloutGroup]) -> list[RolloutGroup]:
    """The best answer of each group that has one; where none has, the first answers stand in and weigh nothing."""
    best = best_answers([list(one.rewards) for one in groups])
    nothing = all(place is None for place in best)
    picked = [(group, place or 0) for group, place in zip(groups, best, strict=True) if nothing or place is not None]
    return [
        RolloutGroup(
            (group.sequences[place],), (group.places[place],), (group.rewards[place],), (0.0 if nothing else 1.0,)
        )
        for group, place in picked
    ]


def _taught(
    groups: list[RolloutGroup], options: PolicyOptions, actor: Actor, teacher: Teacher | None
) -> list[RolloutGroup]:
    """Where the teacher is at hand the training pass asks it; an endpoint is asked here, for the drawn tokens."""
    if not isinstance(teacher, EndpointTeacher):
        return groups
    groups = teacher.references(groups)
    if options.policy_epochs == 1:
        return groups
    found = actor.figures(groups, actor.forward)
    return [replace(one, old=figures[0]) for one, figures in zip(groups, found, strict=True)]


def _advantages(group: RolloutGroup, *, scaled: bool) -> Tensor:
    rewards_B = torch.tensor(group.rewards)
    return group_advantages(rewards_B, torch.zeros(len(rewards_B), dtype=torch.long), scaled=scaled)


def _with_token_advantages(groups: Sequence[RolloutGroup], options: PolicyOptions) -> list[RolloutGroup]:
    """GAE over every answer of the step; advantages are whitened together, over all of its tokens."""
    batches = pack_rollouts(groups, max_tokens=sum(len(one.ids) for one in groups))
    (batch,) = batches
    owners_S = torch.tensor(batch.owners_S)
    old_S, references_S, values_S = (torch.tensor(one) for one in (batch.old_S, batch.references_S, batch.values_S))
    rewards_S = token_rewards(torch.tensor(batch.rewards_B), old_S - references_S, owners_S, beta=options.kl_weight)
    advantages_S, returns_S = gae(rewards_S, values_S, owners_S)
    counts = torch.bincount(owners_S, minlength=len(batch.places_B)).tolist()
    parts = [
        {place: tuple(part.tolist()) for place, part in zip(batch.places_B, torch.split(whole, counts), strict=True)}
        for whole in (whitened(advantages_S), returns_S)
    ]
    return [
        replace(
            one,
            token_advantages=tuple(parts[0][place] for place in one.places),
            returns=tuple(parts[1][place] for place in one.places),
        )
        for one in groups
    ]


@dataclass(frozen=True, slots=True)
class _Pass:
    """A training pass over a micro-batch.

    Args:
        options: of the method.
        batch: what was computed.
        figures: what the pass gave: log-probabilities [S], with values [2, S], or divergences [S].
    """

    options: PolicyOptions
    batch: RolloutBatch
    figures: Tensor

    def given(self, values: Sequence[float]) -> Tensor:
        return torch.tensor(values, dtype=torch.float32, device=self.figures.device)

    @property
    def owners_S(self) -> Tensor:
        return torch.tensor(self.batch.owners_S, dtype=torch.long, device=self.figures.device)

    @property
    def ratios(self) -> Ratios:
        logprobs_S = self.figures if self.figures.dim() == 1 else self.figures[0]
        old_S = self.given(self.batch.old_S) if self.batch.old_S else logprobs_S.detach()
        return Ratios(logprobs_S, old_S, self.owners_S, len(self.batch.leaves), self.options.clip_range)


def _grpo(step: _Pass, ratios: Ratios) -> Judged:
    options, advantages_B = step.options, step.given(step.batch.advantages_B)
    loss = grpo_loss(
        ratios, advantages_B, step.given(step.batch.references_S), beta=options.kl_weight,
        normalisation=options.loss_normalisation, max_tokens=options.rollout_tokens,
    )  # fmt: skip
    return loss, advantages_B


def _rloo(step: _Pass, ratios: Ratios) -> Judged:
    groups_B = torch.tensor(step.batch.groups_B, dtype=torch.long, device=step.figures.device)
    penalties_B = step.options.kl_weight * ratios.per_answer(ratios.old_S - step.given(step.batch.references_S))
    advantages_B = leave_one_out_advantages(step.given(step.batch.rewards_B) - penalties_B, groups_B)
    return rloo_loss(ratios, advantages_B), advantages_B


def _ppo(step: _Pass, ratios: Ratios) -> Judged:
    advantages_S = step.given(step.batch.token_advantages_S)
    estimates = ValueEstimates(step.figures[1], step.given(step.batch.values_S), step.given(step.batch.returns_S))
    loss_sum, weight, metrics = ppo_loss(ratios, advantages_S)
    value_sum = value_loss(estimates, clip_range=step.options.clip_range)[0]
    return (loss_sum + _VALUE_WEIGHT * value_sum, weight, metrics), ratios.per_answer(advantages_S) / ratios.tokens_B


def _raft(step: _Pass, ratios: Ratios) -> Judged:
    return raft_loss(ratios.logprobs_S, step.given(step.batch.advantages_B), step.owners_S), None


def _sampled_distillation(step: _Pass, ratios: Ratios) -> Judged:
    teacher_S = step.given(step.batch.references_S)
    return sampled_distillation_loss(ratios, teacher_S), ratios.per_answer(teacher_S - ratios.old_S) / ratios.tokens_B


_LOSSES: Mapping[str, Callable[[_Pass, Ratios], Judged]] = {
    "grpo": _grpo, "rloo": _rloo, "ppo": _ppo, "raft": _raft, "distill": _sampled_distillation,
}  # fmt: skip


def policy_objective(options: PolicyOptions, rollouts: Rollouts, *, by_divergence: bool) -> Objective:
    """The method's objective as the loop calls it; what it finds of each answer is told to the rollouts.

    Args:
        options: of the method.
        rollouts: what is around the steps.
        by_divergence: the pass gives the divergence from a teacher at each token, and no log-probabilities.
    """

    def objective(figures: Tensor, batch: RolloutBatch) -> tuple[Tensor, int, Mapping[str, Tensor]]:
        step = _Pass(options, batch, figures)
        ratios = step.ratios
        if by_divergence:
            rollouts.tell(batch, ratios.per_answer(figures.detach()) / ratios.tokens_B, None)
            return distillation_loss(figures)
        loss, advantages_B = _LOSSES[options.method](step, ratios)
        divergences_S = estimated_divergences(ratios.logprobs_S.detach(), step.given(batch.references_S))
        kept_B = [bool(one) for one in batch.advantages_B] if options.method == "raft" else None
        rollouts.tell(batch, ratios.per_answer(divergences_S) / ratios.tokens_B, advantages_B, kept_B)
        return loss

    return objective
