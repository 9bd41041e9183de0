"""Answers that a model wrote to be graded, packed with their prompts shared: what reinforcement learning computes.

A group is the answers to one prompt. A batch of groups is a packed batch in which each prompt stands once
(``pack.py``), with rewards and earlier figures beside it.

Shape legend: S tokens of all answers of a batch, B answers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields

from hone.data.answers import joined, whole_batches
from hone.data.pack import PackedBatch, pack
from hone.types import TokenSequence

__all__ = ["RolloutBatch", "RolloutGroup", "TokenFigures", "pack_rollouts"]

TokenFigures = tuple[tuple[float, ...], ...]
"""A figure for each token of each answer of a group; empty where nobody worked it out."""


@dataclass(frozen=True, slots=True)
class RolloutGroup:
    """The answers to one prompt.

    Args:
        sequences: prompt and answer, each; the answer's tokens are supervised.
        places: each answer's place among all of the step.
        rewards: what each is worth.
        advantages: of each, where they follow from the rewards alone; else empty.
        references: log-probability of each token under the base, in nats.
        old: under the policy that wrote them; empty where that is the one that is trained.
        values: what was expected before each token, where there is a value head.
        token_advantages: of each token, where there is one.
        returns: what the values are to become.
    """

    sequences: tuple[TokenSequence, ...]
    places: tuple[int, ...]
    rewards: tuple[float, ...] = ()
    advantages: tuple[float, ...] = ()
    references: TokenFigures = ()
    old: TokenFigures = ()
    values: TokenFigures = ()
    token_advantages: TokenFigures = ()
    returns: TokenFigures = ()

    @property
    def ids(self) -> tuple[int, ...]:
        """All tokens that are computed for it: the prompt once, then each answer."""
        return joined(self.sequences).ids


@dataclass(frozen=True, slots=True)
class RolloutBatch(PackedBatch):
    """A packed batch of groups; see :class:`RolloutGroup` for the figures.

    Args:
        groups_B: the group of each answer, from 0.
        places_B: its place among all answers of the step.
        rewards_B: what it is worth.
        advantages_B: empty where they do not follow from the rewards alone.
        references_S: under the base.
        old_S: under the policy that wrote them; empty where that is the one that is trained.
        values_S: what was expected; empty without a value head.
        token_advantages_S: empty without a value head.
        returns_S: empty without a value head.
        by_token: whether the loss is divided by tokens, and not by answers.
    """

    groups_B: tuple[int, ...]
    places_B: tuple[int, ...]
    rewards_B: tuple[float, ...]
    advantages_B: tuple[float, ...]
    references_S: tuple[float, ...]
    old_S: tuple[float, ...]
    values_S: tuple[float, ...]
    token_advantages_S: tuple[float, ...]
    returns_S: tuple[float, ...]
    by_token: bool

    @property
    def weight(self) -> int:
        """Tokens of answers, or answers."""
        return self.num_supervised if self.by_token else len(self.leaves)

    @property
    def beside(self) -> tuple[RolloutBatch, ...]:
        """The batch itself: its figures are the objective's."""
        return (self,)


def pack_rollouts(groups: Sequence[RolloutGroup], *, max_tokens: int, by_token: bool = False) -> list[RolloutBatch]:
    """Pack groups into micro-batches of at most ``max_tokens`` tokens, each group whole.

    Args:
        groups: of one optimizer step.
        max_tokens: tokens computed at once, each prompt counted once; a larger group stands alone.
        by_token: see :class:`RolloutBatch`.
    """
    return [_packed(batch, by_token) for batch in whole_batches(groups, max_tokens=max_tokens)]


def _packed(groups: Sequence[RolloutGroup], by_token: bool) -> RolloutBatch:
    def flat(figures: Callable[[RolloutGroup], TokenFigures]) -> tuple[float, ...]:
        return tuple(figure for one in groups for answer in figures(one) for figure in answer)

    batch = pack([sequence for one in groups for sequence in one.sequences])
    return RolloutBatch(
        **{field.name: getattr(batch, field.name) for field in fields(PackedBatch)},
        groups_B=tuple(number for number, one in enumerate(groups) for _ in one.sequences),
        places_B=tuple(place for one in groups for place in one.places),
        rewards_B=tuple(reward for one in groups for reward in one.rewards),
        advantages_B=tuple(advantage for one in groups for advantage in one.advantages),
        references_S=flat(lambda one: one.references),
        old_S=flat(lambda one: one.old),
        values_S=flat(lambda one: one.values),
        token_advantages_S=flat(lambda one: one.token_advantages),
        returns_S=flat(lambda one: one.returns),
        by_token=by_token,
    )
