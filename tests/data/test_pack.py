"""Packing: nothing is lost, nothing predicts across a border, groups are tight, the order is a function of the step."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hone.data.pack import PackedBatch, pack, plan_micro_batches, plan_steps, shared_length
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
    assert [(s.start, s.length, s.offset, s.parent) for s in batch.segments] == [
        (0, 3, 0, None),
        (3, 1, 0, None),
        (4, 2, 0, None),
    ]
    assert batch.leaves == (0, 1, 2)
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


def _sharing(seed: int, rows: int) -> list[TokenSequence]:
    """Rows that begin with one of a few beginnings, some of them whole rows, some of them beginnings of each other."""
    draw = random.Random(seed)
    trunk = tuple(draw.randrange(1000) for _ in range(90))
    found = []
    for row in range(rows):
        own = tuple(draw.randrange(1000) for _ in range(draw.choice([0, 1, 7, 40])))
        ids = (trunk[: draw.choice([0, 3, 15, 16, 17, 40, 41, 90])] + own) or (5,)
        found.append(TokenSequence(ids, tuple(draw.random() < 0.5 for _ in ids), row))
    return found


def _check_nothing_is_lost(rows: list[TokenSequence], batch: PackedBatch) -> None:
    paths = [batch.path(leaf) for leaf in batch.leaves]
    assert [tuple(batch.ids_T[index] for index in path) for path in paths] == [row.ids for row in rows]
    assert all([batch.positions_T[index] for index in path] == list(range(len(path))) for path in paths)
    wanted = [
        (owner, paths[owner][at - 1], row.ids[at])
        for owner, row in enumerate(rows)
        for at in range(1, len(row.ids))
        if row.supervised[at]
    ]
    assert list(zip(batch.owners_S, batch.predictors_S, batch.targets_S, strict=True)) == wanted
    assert batch.num_tokens == sum(len(row.ids) for row in rows)
    # segments tile T, each after its parent, and begin where their parent ends
    assert sorted(index for s in batch.segments for index in range(s.start, s.start + s.length)) == list(
        range(len(batch.ids_T))
    )
    for number, segment in enumerate(batch.segments):
        parent = None if segment.parent is None else batch.segments[segment.parent]
        assert segment.offset == (0 if parent is None else parent.offset + parent.length)
        assert segment.parent is None or segment.parent < number


@given(_LENGTHS)
def test_no_token_and_no_target_is_lost(lengths: list[int]) -> None:
    rows = _rows(lengths)
    _check_nothing_is_lost(rows, pack(rows))


@given(st.integers(0, 10**6), st.integers(1, 30), st.booleans())
def test_shared_prefixes_lose_nothing(seed: int, count: int, share: bool) -> None:
    rows = _sharing(seed, count)
    batch = pack(rows, share_prefixes=share)
    _check_nothing_is_lost(rows, batch)
    if not share:
        assert len(batch.ids_T) == batch.num_tokens


@given(st.integers(0, 10**6), st.integers(2, 30))
def test_a_prefix_of_sixteen_tokens_is_never_laid_down_twice(seed: int, count: int) -> None:
    rows = _sharing(seed, count)
    batch = pack(rows)
    paths = [batch.path(leaf) for leaf in batch.leaves]
    for one in range(count):
        for other in range(one):
            if rows[one].ids[:16] == rows[other].ids[:16] and min(len(rows[one].ids), len(rows[other].ids)) >= 16:
                assert paths[one][:16] == paths[other][:16]


def test_a_tree_by_hand() -> None:
    system = tuple(range(100, 120))
    prompt = (*system, *range(200, 217))
    rows = [
        TokenSequence((*prompt, 7, 8), (False,) * 37 + (True, True), 1),
        TokenSequence((*system, 3), (False,) * 20 + (True,), 2),
        TokenSequence((*prompt, 9), (False,) * 37 + (True,), 3),
    ]
    batch = pack(rows)
    assert [(s.start, s.length, s.offset, s.parent) for s in batch.segments] == [
        (0, 20, 0, None), (20, 1, 20, 0), (21, 17, 20, 0), (38, 2, 37, 2), (40, 1, 37, 2),
    ]  # fmt: skip
    assert batch.leaves == (3, 1, 4)
    # one hidden state predicts the first token of two answers
    assert batch.predictors_S == (37, 38, 19, 37)
    assert batch.targets_S == (7, 8, 3, 9)
    assert (batch.num_tokens, len(batch.ids_T)) == (39 + 21 + 38, 41)


def test_equal_rows_are_computed_once_and_each_counts() -> None:
    row = TokenSequence((5, 6, 7), (False, True, True), 1)
    batch = pack([row, row])
    assert batch.ids_T == (5, 6, 7)
    assert batch.targets_S == (6, 7, 6, 7)
    assert batch.num_tokens == 6


@given(st.integers(0, 10**6), st.integers(1, 30), st.integers(1, 300))
def test_micro_batches_hold_each_sequence_once_and_keep_to_the_budget(seed: int, count: int, budget: int) -> None:
    rows = _sharing(seed, count)
    plan = plan_micro_batches(rows, max_tokens=budget)
    assert sorted(index for part in plan for index in part) == list(range(count))
    for part in plan:
        assert part
        assert len(pack([rows[index] for index in part]).ids_T) <= budget or len(part) == 1


def test_micro_batches_by_hand() -> None:
    rows = [
        TokenSequence((first,) * length, (True,) * length, 1) for first, length in ((3, 5), (1, 9), (2, 3), (4, 30))
    ]
    assert plan_micro_batches(rows, max_tokens=12) == [[1, 2], [0], [3]]


def test_rows_under_one_system_prompt_share_a_micro_batch() -> None:
    rows = [TokenSequence((*range(400), 500 + row), (False,) * 400 + (True,), row) for row in range(8)]
    assert plan_micro_batches(rows, max_tokens=410) == [list(range(8))]


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([[7] * 20 + [1], [7] * 20 + [2, 3], [7] * 30], 20),
        ([[7] * 20], 20),
        ([[7] * 15 + [1], [7] * 15 + [2]], 0),  # too short for packing to share it
        ([[7] * 20, [8] * 20], 0),
    ],
)
def test_what_all_rows_begin_with(rows: list[list[int]], expected: int) -> None:
    assert shared_length([TokenSequence(tuple(ids), (True,) * len(ids), 0) for ids in rows]) == expected


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


@given(st.lists(st.integers(1, 60), min_size=1, max_size=30), st.integers(1, 300))
def test_padded_rows_count_as_long_as_the_longest(lengths: list[int], budget: int) -> None:
    rows = [TokenSequence((7,) * length, (True,) * length, row) for row, length in enumerate(lengths)]
    plan = plan_micro_batches(rows, max_tokens=budget, padded=True)
    assert sorted(index for part in plan for index in part) == list(range(len(lengths)))
    assert all(len(part) == 1 or len(part) * max(lengths[index] for index in part) <= budget for part in plan)


def test_padded_micro_batches_by_hand() -> None:
    rows = [TokenSequence((1,) * length, (True,) * length, 0) for length in (10, 2, 9, 3)]
    assert plan_micro_batches(rows, max_tokens=20, padded=True) == [[1, 3], [2, 0]]
