"""Tokens, supervised tokens and pairs of attention, counted by hand on rows that share a beginning."""

from __future__ import annotations

import pytest

from hone.data.pack import pack, plan_steps
from hone.planning.workload import load_of, plan_workload
from hone.types import TokenSequence
from tests.tiny import token_rows


def _row(number: int, shared: int, own: int) -> TokenSequence:
    ids = (*range(shared), *(1000 * number + place for place in range(own)))
    return TokenSequence(ids, (*[False] * shared, *[True] * own), number)


def test_a_shared_beginning_is_computed_once_and_seen_by_all() -> None:
    batch = pack([_row(1, 20, 5), _row(2, 20, 7)])
    load = load_of(batch, block_queries=1)
    assert (load.tokens, load.computed, load.supervised) == (52, 32, 12)
    # each token sees itself and what is before it: 1 + ... + 20, then 21 ... 25 and 21 ... 27
    assert load.pairs == 210 + sum(range(21, 26)) + sum(range(21, 28))


def test_a_block_of_queries_meets_all_keys_up_to_its_end() -> None:
    [row] = token_rows([600])
    load = load_of(pack([row]), block_queries=256)
    assert load.pairs == 256 * 256 + 256 * 512 + 88 * 600


def test_a_run_is_its_steps() -> None:
    rows = token_rows([10, 30, 20, 40, 50])
    workload = plan_workload(
        rows, rows[:2], batch_size=2, epochs=2, max_steps=None, micro_batch_tokens=60, seed=0, block_queries=1
    )
    assert workload.steps == workload.sampled_steps == 6
    assert workload.training.tokens == 2 * 150
    assert workload.training.supervised == 2 * sum(sum(row.supervised[1:]) for row in rows)
    assert workload.validation.tokens == 2 * 40
    batches = [
        [len(rows[index].ids) for index in indices] for _, _, indices in plan_steps(5, batch_size=2, epochs=2, seed=0)
    ]
    assert workload.training.micro_batches == sum(1 if sum(lengths) <= 60 else len(lengths) for lengths in batches)
    assert workload.largest.computed == max(sum(lengths) if sum(lengths) <= 60 else max(lengths) for lengths in batches)


def test_fewer_steps_are_less_work_and_one_validation() -> None:
    rows = token_rows([10] * 8)
    workload = plan_workload(
        rows, rows[:1], batch_size=2, epochs=3, max_steps=3, micro_batch_tokens=100, seed=0, block_queries=1
    )
    assert workload.steps == 3
    assert workload.training.tokens == 60
    assert workload.validation.tokens == 10


def test_a_sample_of_a_long_run_stands_for_all() -> None:
    rows = token_rows([10 + number % 7 for number in range(997)])
    workload = plan_workload(
        rows, (), batch_size=2, epochs=3, max_steps=None, micro_batch_tokens=100, seed=0, block_queries=1
    )
    assert workload.sampled_steps < workload.steps == 3 * 499
    assert workload.training.tokens == pytest.approx(3 * sum(len(row.ids) for row in rows), rel=0.02)
    assert workload.largest.computed >= 16
