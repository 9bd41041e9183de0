"""The work of steps that write their own answers: counts by hand, and those of the batches that training packs."""

from __future__ import annotations

from dataclasses import replace

import pytest

from hone.data.rollouts import RolloutGroup, pack_rollouts
from hone.planning.cost import Training, forward_operations, training_seconds
from hone.planning.rollout_work import Answered, RolloutRules, plan_rollouts, rollout_workload
from hone.planning.shape import shape_of
from hone.planning.workload import Workload, load_of
from tests.planning.unit_rates import unit_rates
from tests.tiny import tiny_model

SHAPE = shape_of(tiny_model("llama"), context_length=256)
RULES = RolloutRules(
    group_size=4, longest=10, steps_each=1, base_passes=1, policy_passes=0, keeps_best=False, micro_batch_tokens=100,
    block_queries=1,
)  # fmt: skip
PROMPTS = [tuple(range(1000 * number, 1000 * number + 20)) for number in range(10)]


def _planned(lengths: list[int], *, rules: RolloutRules = RULES, max_steps: int | None = None) -> Workload:
    return plan_rollouts(
        PROMPTS, lengths, rules, shape=SHAPE, bytes_per_value=2, batch_size=4, epochs=2, max_steps=max_steps, seed=0
    )


def test_a_run_by_hand() -> None:
    """Ten prompts of 20 tokens, four to a step, twice: 20 prompts with four answers of ten tokens each."""
    found = _planned([10])
    assert found.steps == found.sampled_steps == 6
    assert found.training.supervised == 20 * 4 * 10
    assert found.training.tokens == 20 * 4 * 30
    assert found.training.computed == 20 * (20 + 4 * 10), "a prompt is computed once for its group"
    rollouts = found.rollouts
    assert rollouts is not None
    assert (rollouts.answers, rollouts.tokens) == (80, 800)
    assert rollouts.base == found.training
    assert rollouts.policy.computed == 0
    assert rollouts.decoding.drawn == 800
    assert rollouts.decoding.read == 20 * 20
    assert found.largest.computed == 60


def test_steps_over_the_same_answers_write_once() -> None:
    once, twice = _planned([10]), _planned([10], rules=replace(RULES, steps_each=2, policy_passes=1))
    assert once.rollouts is not None
    assert twice.rollouts is not None
    assert twice.steps == 2 * once.steps
    assert twice.training.tokens == 2 * once.training.tokens
    assert twice.rollouts.answers == once.rollouts.answers
    assert twice.rollouts.policy == twice.rollouts.base == once.rollouts.base


def test_where_the_best_alone_is_trained_on_all_are_written() -> None:
    found = _planned([10], rules=replace(RULES, keeps_best=True))
    assert found.rollouts is not None
    assert found.rollouts.answers == 80
    assert found.training.supervised == 20 * 10
    assert found.training.computed == found.training.tokens == 20 * 30
    none_kept = [Answered(PROMPTS[0], (3, 4, 5, 6), ()), Answered(PROMPTS[1], (3, 4, 5, 6), (4,))]
    part = rollout_workload([none_kept], RULES, shape=SHAPE, bytes_per_value=2, rows=2, steps=1)
    assert (part.training.tokens, part.training.micro_batches) == (24, 1)


def test_a_bound_on_the_steps_may_end_between_them() -> None:
    """Three steps over two rounds of answers: the second is trained on once."""
    found = _planned([10], rules=replace(RULES, steps_each=2), max_steps=3)
    assert found.steps == 3
    assert found.rollouts is not None
    assert found.rollouts.answers == 2 * 4 * 4
    assert found.training.tokens == 3 * 4 * 4 * 30


def test_lengths_are_spread_over_the_answers_of_a_step() -> None:
    found = _planned(list(range(1, 17)), max_steps=1)
    assert found.rollouts is not None
    assert found.rollouts.tokens == sum(range(1, 17))
    assert found.rollouts.decoding.passes == 15


def test_a_sample_of_rounds_stands_for_all() -> None:
    prompts = [tuple(range(100 * number, 100 * number + 16 + number % 5)) for number in range(93)]
    found = plan_rollouts(
        prompts, [4, 8], RULES, shape=SHAPE, bytes_per_value=2, batch_size=4, epochs=4, max_steps=None, seed=0
    )
    assert found.sampled_steps < found.steps == 4 * 24
    assert found.rollouts is not None
    assert found.rollouts.answers == pytest.approx(4 * 93 * 4)
    assert found.training.supervised == pytest.approx(4 * 93 * 4 * 6, rel=0.01)


def test_it_counts_the_batches_that_training_packs() -> None:
    lengths = [[(3, 9, 1, 4), (2, 2, 2, 2), (9, 9, 9, 9)], [(5, 6, 7, 8)]]
    rounds = [[Answered(PROMPTS[place], one, one) for place, one in enumerate(part)] for part in lengths]
    found = rollout_workload(rounds, RULES, shape=SHAPE, bytes_per_value=2, rows=4, steps=2)
    groups = [[RolloutGroup(one.sequences(), (0, 1, 2, 3)) for one in part] for part in rounds]
    batches = [batch for part in groups for batch in pack_rollouts(part, max_tokens=RULES.micro_batch_tokens)]
    assert len(batches) == found.training.micro_batches == 3
    loads = [load_of(batch, block_queries=1) for batch in batches]
    assert found.training.pairs == sum(load.pairs for load in loads)
    assert found.training.computed == sum(len(batch.ids_T) for batch in batches)
    assert found.training.tokens == sum(batch.num_tokens for batch in batches)


def test_passes_without_a_gradient_by_hand() -> None:
    """Under the base nothing of an adapter is computed; under the policy all of it."""
    found = _planned([10], rules=replace(RULES, steps_each=2, policy_passes=1))
    training = Training(is_full=False, trained_values=100, rank=4, recompute_layers=0)
    seconds = training_seconds(SHAPE, found, training, unit_rates(narrow_per_second=1.0, wide_per_second=1.0))
    assert found.rollouts is not None
    base = forward_operations(SHAPE, found.rollouts.base, adapter_values=0).linear
    assert base == 2 * 20 * 60 * SHAPE.linear_values
    assert seconds["log-probabilities of the answers"] == pytest.approx(2 * base + 2 * 20 * 60 * 100)
    assert seconds["matrix products"] == pytest.approx(2 * 20 * 60 * (4 * SHAPE.linear_values + 6 * 100))
    passes = training_seconds(SHAPE, found, training, unit_rates(seconds_a_layer=3.0))
    assert passes["log-probabilities of the answers"] == pytest.approx(2 * 2 * found.training.micro_batches / 2)
