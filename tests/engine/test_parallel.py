"""What needs no second process: who takes which row, and a run of one. The rest: tests/parity/test_many_processes."""

from __future__ import annotations

import itertools
import random

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from hone.data.pack import pack
from hone.engine import parallel
from hone.engine.parallel import ALONE, Parallel, distribute, process_group, started_in_group
from hone.engine.sharding import needs_sharding
from hone.errors import ConfigError
from tests.tiny import token_rows

ROWS = st.lists(st.integers(1, 9000), max_size=40)


@given(ROWS, st.integers(1, 9))
def test_every_row_goes_to_one_process(lengths: list[int], parts: int) -> None:
    found = distribute(lengths, parts)
    assert len(found) == parts
    assert sorted(itertools.chain(*found)) == list(range(len(lengths)))
    assert all(indices == sorted(indices) for indices in found)
    assert found == distribute(lengths, parts)


@given(ROWS, st.integers(1, 9))
def test_no_process_has_more_than_the_least_loaded_and_one_row(lengths: list[int], parts: int) -> None:
    """What Graham's bound follows from, for the cost that is linear and quadratic in a row's tokens."""
    costs = [length * (12_288 + length) for length in lengths]
    loads = [sum(costs[index] for index in indices) for indices in distribute(lengths, parts)]
    assert max(loads) - min(loads) <= max(costs, default=0)


def test_tokens_and_costs_are_balanced() -> None:
    draw = random.Random(0)
    lengths = [round(draw.lognormvariate(5, 1)) + 1 for _ in range(256)]
    costs = [length * (12_288 + length) for length in lengths]
    for figures, bound in ((lengths, 1.03), (costs, 1.005)):
        loads = [sum(figures[index] for index in indices) for indices in distribute(lengths, 8)]
        assert max(loads) < bound * sum(figures) / 8


def test_the_longest_row_alone_costs_as_much_as_many_short_ones() -> None:
    # 4,000 tokens cost more than 8 x 500, as attention is quadratic: the others share the short rows
    assert distribute([500] * 8 + [4000], 2) == [[8], [0, 1, 2, 3, 4, 5, 6, 7]]
    assert [len(indices) for indices in distribute([7, 7], 4)] == [1, 1, 0, 0]


def test_one_process_has_all_rows_in_their_order_and_adds_nothing() -> None:
    rows = token_rows([5, 9, 3, 7])
    assert ALONE.is_first
    assert ALONE.share(rows) == rows
    assert ALONE.portion([1, 2, 3]) == [1, 2, 3]
    assert ALONE.everyones({"a": 1}) == [{"a": 1}]
    batches = [pack(rows[:2]), pack(rows[2:])]
    assert list(ALONE.passes(batches)) == [(batches[0], True), (batches[1], True)]
    parameter = nn.Parameter(torch.ones(3))
    ALONE.reduce_gradients([parameter])
    assert parameter.grad is None
    tensors = {"w": torch.ones(2)}
    assert ALONE.full(tensors)["w"] is tensors["w"]
    assert ALONE.spread(tensors, {"w": parameter})["w"] is tensors["w"]
    with pytest.raises(ConfigError, match="first"):
        ALONE.first_does(_fails)


def _fails() -> None:
    raise ConfigError("the first has failed")


def test_parts_of_equal_items_leave_none_out() -> None:
    parts = [Parallel(rank, 3).portion(list("abcdefg")) for rank in range(3)]
    assert sorted(itertools.chain(*parts)) == list("abcdefg")
    assert {len(part) for part in parts} == {2, 3}


def test_gradients_are_summed_in_pieces_of_bounded_size(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each piece is one buffer; a parameter without a gradient counts as zeros where another process has one."""
    sent: list[torch.Tensor] = []

    def all_reduce(flat: torch.Tensor) -> None:  # as if the other process had the same
        sent.append(flat.clone())
        flat.mul_(2)

    monkeypatch.setattr(parallel.dist, "all_reduce", all_reduce)
    monkeypatch.setattr(parallel, "_BUCKET_VALUES", 5)
    parameters = [nn.Parameter(torch.zeros(size)) for size in (2, 3, 4)]
    unused = nn.Parameter(torch.zeros(1))
    for number, parameter in enumerate(parameters, 1):
        parameter.grad = torch.full_like(parameter, float(number))
    Parallel(0, 2).reduce_gradients([*parameters, unused])
    assert [tensor.tolist() for tensor in sent] == [[1, 1, 1, 0], [1, 1, 2, 2, 2], [3, 3, 3, 3]]
    assert [parameter.grad.tolist() for parameter in parameters if parameter.grad is not None] == [
        [2, 2],
        [4, 4, 4],
        [6, 6, 6, 6],
    ]
    assert unused.grad is None


def test_only_all_variables_of_torchrun_make_a_group(monkeypatch: pytest.MonkeyPatch) -> None:
    variables = {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert started_in_group()
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert not started_in_group()
    with process_group("cpu") as alone:
        assert alone is ALONE
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("LOCAL_RANK")
    assert not started_in_group()


@pytest.mark.parametrize(
    ("weights", "trainable", "available", "expected"),
    [
        (59, 0, 100, False),
        (61, 0, 100, True),
        (10, 3, 100, False),  # 10 + 16 x 3 = 58
        (10, 4, 100, True),  # 10 + 16 x 4 = 74
        (10**12, 10**12, None, False),
    ],
)
def test_a_base_is_split_where_it_does_not_fit(
    weights: int, trainable: int, available: int | None, expected: bool
) -> None:
    assert needs_sharding(weight_bytes=weights, trainable_values=trainable, available_bytes=available) is expected
