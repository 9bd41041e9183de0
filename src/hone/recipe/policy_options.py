"""The numbers of methods that train on the model's own answers: what the user left open, from papers and data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from hone.config.schema import TrainConfig
from hone.objective.policy import Normalisation
from hone.planning.rollouts import POLICY_EPOCHS, choose_rollout_tokens
from hone.recipe.method import is_policy_method
from hone.recipe.rows import PreparedRows
from hone.types import MethodName, TokenSequence

__all__ = ["PolicyOptions", "resolve_policy_options", "sequences_to_compute"]

# The papers' own: Shao et al. 2024, section 4.2; Ahmadian et al. 2024 and TRL; Ouyang et al. 2022, appendix C.
_KL_WEIGHTS: Mapping[str, float] = {"grpo": 0.04, "rloo": 0.05, "ppo": 0.02}
# A teacher says something of every token, so that fewer answers will do.
_GROUP_SIZE, _DISTILLED_GROUP_SIZE = 8, 4


@dataclass(frozen=True, slots=True)
class PolicyOptions:
    """The numbers of a method, resolved.

    Args:
        method: which.
        group_size: answers to a prompt.
        policy_epochs: optimizer steps over the same answers.
        kl_weight: of the divergence from the base, in the loss (grpo) or the reward (rloo, ppo).
        clip_range: how far from 1 the ratio still counts.
        loss_normalisation: of grpo, what the loss is divided by.
        scale_advantages: of grpo, whether advantages are divided by the group's deviation.
        rollout_tokens: the longest answer.
    """

    method: MethodName
    group_size: int
    policy_epochs: int
    kl_weight: float
    clip_range: float
    loss_normalisation: Normalisation
    scale_advantages: bool
    rollout_tokens: int

    @property
    def by_token(self) -> bool:
        """Whether the loss is divided by tokens, and not by answers."""
        by_answer = self.method == "rloo" or (self.method == "grpo" and self.loss_normalisation != "dapo")
        return not by_answer

    @property
    def reads_ahead(self) -> bool:
        """Whether log-probabilities of the policy that wrote the answers are computed before the first step."""
        return self.method == "ppo" or (self.policy_epochs > 1 and self.method in ("grpo", "rloo"))


def resolve_policy_options(config: TrainConfig, method: MethodName, answers: Sequence[TokenSequence]) -> PolicyOptions:
    """What the user left open, from the method's paper and the data.

    Args:
        config: the options.
        method: one that trains on the model's own answers.
        answers: rendered rows with their reference answers; empty where rows have none.
    """
    limit, _ = choose_rollout_tokens([one.num_supervised for one in answers])
    return PolicyOptions(
        method=method,
        group_size=config.group_size or (_DISTILLED_GROUP_SIZE if method == "distill" else _GROUP_SIZE),
        policy_epochs=config.policy_epochs or POLICY_EPOCHS[method],
        kl_weight=_KL_WEIGHTS.get(method, 0.0) if config.kl_weight is None else config.kl_weight,
        clip_range=config.clip_range,
        loss_normalisation=config.loss_normalisation or "grpo",
        scale_advantages=config.scale_advantages,
        rollout_tokens=config.rollout_tokens or limit,
    )


def sequences_to_compute(config: TrainConfig, rows: PreparedRows) -> tuple[list[TokenSequence], list[TokenSequence]]:
    """What a step computes for each row to train on and to validate with; of methods that train on the model's own
    answers all that are trained on.

    Args:
        config: the options.
        rows: as prepared.
    """
    if not is_policy_method(config.method) or config.method is None:
        return rows.computed(rows.train), rows.computed(rows.validation)
    options = resolve_policy_options(config, config.method, rows.answered(rows.train))
    tokens = (1 if options.method == "raft" else options.group_size) * options.rollout_tokens
    found = []
    for sequence in rows.rendered(rows.train):
        prompt = sequence.ids[: sequence.supervised.index(True)]
        ids, flags = (*prompt, *prompt[-1:] * tokens), (False,) * len(prompt) + (True,) * tokens
        found.append(TokenSequence(ids, flags, sequence.row))
    return found, []
