"""Groups of answers in a batch: each prompt once, figures in the order of the tokens."""

from __future__ import annotations

from hone.data.rollouts import RolloutGroup, pack_rollouts
from hone.types import TokenSequence


def group(prompt: int, answers: list[tuple[int, ...]], first: int) -> RolloutGroup:
    ids = (prompt,) * 20
    sequences = tuple(TokenSequence((*ids, *one), (False,) * 20 + (True,) * len(one), prompt) for one in answers)
    places = tuple(range(first, first + len(answers)))
    figures = tuple(tuple(float(token) for token in one) for one in answers)
    return RolloutGroup(sequences, places, tuple(map(float, places)), (), figures, figures)


def test_figures_stand_beside_their_tokens() -> None:
    groups = [group(9, [(3, 4), (5,)], 0), group(2, [(6, 7, 8), (3, 4)], 2)]
    (batch,) = pack_rollouts(groups, max_tokens=1000)
    assert len(batch.ids_T) == 2 * 20 + 2 + 1 + 3 + 2, "each prompt once"
    assert [float(token) for token in batch.targets_S] == list(batch.references_S) == list(batch.old_S)
    assert batch.places_B == (2, 3, 0, 1)
    assert batch.groups_B == (0, 0, 1, 1)
    assert batch.rewards_B == (2.0, 3.0, 0.0, 1.0)
    assert (batch.values_S, batch.advantages_B) == ((), ())
    assert batch.weight == 4
    assert pack_rollouts(groups, max_tokens=1000, by_token=True)[0].weight == 8


def test_a_group_is_never_divided() -> None:
    groups = [group(9, [(3, 4), (5,)], 0), group(2, [(6, 7, 8), (3, 4)], 2)]
    batches = pack_rollouts(groups, max_tokens=10)
    assert [batch.places_B for batch in batches] == [(2, 3), (0, 1)]
