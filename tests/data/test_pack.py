"""Packing: nothing is lost, nothing predicts across a border, groups are tight, the order is a function of the step."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hone.data.pack import pack, plan_micro_batches, plan_steps
from hone.types import TokenSequence

_LENGTHS = st.lists(st.integers(1, 400), min_size=1, max_size=40)


def _rows(lengths: list[int], seed: int = 0) -> list[TokenSequence]:
    draw = random.Random(seed)
    return [
        TokenSequence(
            tuple(draw.randrange(1000) for _ in range(length)), tuple(draw.random() < 0.5 for _ in range(length)), row
        )
        for row, length in enumerate(lengths, start=100)
    ]


def test_a_batch_by_hand() -> None:
    first = TokenSequence((11, 12, 13), (False, False, True), row=4)
    second = TokenSequence((21,), (True,), row=9)
    third = TokenSequence((31, 32), (True, True), row=2)

    batch = pack([first, second, third])

    assert batch.ids_T == (11, 12, 13, 21, 31, 32)
    assert batch.positions_T == (0, 1, 2, 0, 0, 1)
    assert batch.lengths == (3, 1, 2)
    assert batch.rows == (4, 9, 2)
    # 13 is predicted at 12 (index 1), 32 at 31 (index 4); 21 and 31 begin their rows, so nothing predicts them
    assert batch.predictors_S == (1, 4)
    assert batch.targets_S == (13, 32)
    assert batch.owners_S == (0, 2)
    assert (batch.num_tokens, batch.num_supervised) == (6, 2)


@pytest.mark.parametrize(
    "rows", [[], [TokenSequence((), (), 1)], [TokenSequence((5,), (True,), 1)] * 2 + [TokenSequence((), (), 3)]]
)
def test_nothing_to_pack_is_an_error(rows: list[TokenSequence]) -> None:
    with pytest.raises(ValueError, match="at least one sequence"):
        pack(rows)


@given(_LENGTHS)
def test_no_token_and_no_target_is_lost(lengths: list[int]) -> None:
    rows = _rows(lengths)
    batch = pack(rows)
    wanted = [
        (owner, at, row.ids[at])
        for owner, row in enumerate(rows)
        for at in range(1, len(row.ids))
        if row.supervised[at]
    ]
    starts = [sum(lengths[:index]) for index in range(len(lengths))]
    found = [
        (owner, predictor + 1 - starts[owner], target)
        for owner, predictor, target in zip(batch.owners_S, batch.predictors_S, batch.targets_S, strict=True)
    ]
    assert found == wanted
    assert batch.num_tokens == sum(lengths)
    assert all(batch.ids_T[start : start + len(row.ids)] == row.ids for start, row in zip(starts, rows, strict=True))


@given(_LENGTHS)
def test_groups_partition_the_sequences_and_waste_little(lengths: list[int]) -> None:
    groups = pack(_rows(lengths)).groups
    assert sorted(index for group in groups for index in group) == list(range(len(lengths)))
    for group in groups:
        longest = max(lengths[index] for index in group)
        # the promise: no row of a group is padded by more than a quarter of the longest and 16 tokens
        assert all(longest - lengths[index] <= 0.25 * longest + 16 for index in group)


def test_equal_lengths_share_one_group() -> None:
    assert pack(_rows([50] * 7)).groups == ((0, 1, 2, 3, 4, 5, 6),)


@given(_LENGTHS, st.integers(1, 600))
def test_micro_batches_hold_each_sequence_once_and_keep_to_the_budget(lengths: list[int], budget: int) -> None:
    plan = plan_micro_batches(lengths, max_tokens=budget)
    assert sorted(index for part in plan for index in part) == list(range(len(lengths)))
    for part in plan:
        assert part
        assert sum(lengths[index] for index in part) <= budget or len(part) == 1


def test_micro_batches_by_hand() -> None:
    assert plan_micro_batches([5, 9, 3, 30, 4], max_tokens=12) == [[3], [1], [0, 4, 2]]


def test_the_order_is_python_s_own_shuffle_of_seed_and_epoch() -> None:
    orders = []
    for epoch in range(2):
        order = list(range(7))
        random.Random(f"hone-order-3-{epoch}").shuffle(order)
        orders.append(order)

    steps = list(plan_steps(7, batch_size=3, epochs=2, seed=3))

    assert [step for step, _, _ in steps] == [1, 2, 3, 4, 5, 6]
    assert [epoch for _, epoch, _ in steps] == [0, 0, 0, 1, 1, 1]
    assert [indices for _, _, indices in steps] == [
        part for order in orders for part in (order[:3], order[3:6], order[6:])
    ]


def test_the_order_is_the_same_on_every_machine() -> None:
    # frozen: a change of these figures would make every stored run unrepeatable
    assert list(plan_steps(6, batch_size=4, epochs=1, seed=0)) == [(1, 0, [2, 3, 5, 1]), (2, 0, [4, 0])]


@given(st.integers(1, 30), st.integers(1, 8), st.integers(1, 4), st.integers(0, 40), st.integers(0, 5))
def test_a_resumed_order_is_the_rest_of_the_whole_one(
    num_sequences: int, batch_size: int, epochs: int, start: int, seed: int
) -> None:
    whole = list(plan_steps(num_sequences, batch_size=batch_size, epochs=epochs, seed=seed))
    rest = list(plan_steps(num_sequences, batch_size=batch_size, epochs=epochs, seed=seed, start_step=start))
    assert rest == whole[start:]
    for epoch in range(epochs):
        assert sorted(index for _, at, part in whole if at == epoch for index in part) == list(range(num_sequences))


def test_seeds_and_epochs_give_different_orders() -> None:
    def order(seed: int, epoch: int) -> list[int]:
        return [
            index for _, at, part in plan_steps(50, batch_size=8, epochs=2, seed=seed) if at == epoch for index in part
        ]

    assert order(0, 0) != order(0, 1)
    assert order(0, 0) != order(1, 0)
