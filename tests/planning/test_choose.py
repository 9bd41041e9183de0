"""The chosen numbers: the user's are never changed, the others follow from the data, the model and the memory.

The defaults themselves may be tuned; what is held here is how they behave, and the bounds that are promised in words.
"""

from __future__ import annotations

import math
from dataclasses import asdict, fields
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hone.errors import ConfigError
from hone.planning.choose import (
    Facts,
    Given,
    MethodRules,
    TrainingChoices,
    choose_held_out_rows,
    choose_training,
    choose_validation_rows,
)
from hone.planning.memory import require_adapter_memory
from hone.planning.rollouts import choose_rollout_tokens

GIB = 2**30
OPTIONS = {
    "rank": 5,
    "alpha": 7.5,
    "learning_rate": 3.21e-4,
    "epochs": 9,
    "batch_size": 3,
    "max_length": 77,
    "warmup_share": 0.31,
    "micro_batch_tokens": 333,
    "recompute_layers": 1,
}


def _choose(**changes: Any) -> TrainingChoices:
    arguments: dict[str, Any] = {
        "num_parameters": 135_000_000,
        "num_layers": 30,
        "width": 576,
        "row_lengths": [100] * 120,
        "context_length": 2048,
        "available_bytes": 4 * GIB,
        "bytes_per_value": 2,
        **changes,
    }
    arguments["reason"] = arguments.pop("given_reason", "as given")
    facts, given_numbers, rules = (
        kind(**{field.name: arguments.pop(field.name) for field in fields(kind) if field.name in arguments})
        for kind in (Facts, Given, MethodRules)
    )
    assert not arguments, f"no such argument: {arguments}"
    return choose_training(facts, given_numbers, rules)


def test_what_the_user_gave_is_never_changed() -> None:
    chosen = _choose(**OPTIONS)
    assert {name: getattr(chosen, name) for name in OPTIONS} == OPTIONS
    assert {choice.name: (choice.value, choice.reason) for choice in chosen.choices} == {
        name: (value, "as given") for name, value in OPTIONS.items()
    }


@pytest.mark.parametrize("name", OPTIONS)
def test_one_given_number_leaves_the_others_to_be_chosen(name: str) -> None:
    chosen = _choose(**{name: OPTIONS[name]})
    assert getattr(chosen, name) == OPTIONS[name]
    assert [choice.name for choice in chosen.choices if choice.reason == "as given"] == [name]


def test_every_number_is_told_with_its_reason() -> None:
    chosen = _choose()
    numbers = {name: value for name, value in asdict(chosen).items() if name not in ("choices", "max_steps")}
    assert {choice.name: choice.value for choice in chosen.choices} == numbers
    assert chosen.max_steps is None, "of reinforcement alone"
    assert all(choice.reason.strip() for choice in chosen.choices)


def test_alpha_follows_the_rank() -> None:
    assert _choose(rank=5).alpha == 10
    assert _choose().alpha == 2 * _choose().rank


def test_larger_models_take_smaller_steps() -> None:
    rates = [_choose(num_parameters=size).learning_rate for size in (10**7, 135 * 10**6, 10**9, 7 * 10**9, 10**12)]
    assert rates == sorted(rates, reverse=True)
    # the range that Hu et al. 2021 and Biderman et al. 2024 use for 7B
    assert 1e-4 <= rates[3] <= 5e-4
    assert min(rates) >= 1e-4
    assert all(rate == float(f"{rate:.1e}") for rate in rates), "a number that one can read and write down"


def test_free_text_gets_half_the_rate_of_exact_answers_and_says_so() -> None:
    exact, free = (_choose(num_parameters=135 * 10**6, free_text=text) for text in (False, True))
    assert free.learning_rate == exact.learning_rate / 2 == 5e-4
    reasons = [{one.name: one.reason for one in made.choices}["learning_rate"] for made in (exact, free)]
    assert ["free text" in reason for reason in reasons] == [False, True]
    assert _choose(num_parameters=10**12, free_text=True).learning_rate == 1e-4


def test_small_data_gets_enough_steps_and_large_data_fewer_passes() -> None:
    def steps(rows: int) -> int:
        chosen = _choose(row_lengths=[100] * rows)
        return -(-rows // chosen.batch_size) * chosen.epochs

    assert steps(1) >= 1
    assert all(steps(rows) >= 48 for rows in (60, 100, 120, 200, 500, 1000, 5000))
    epochs = [_choose(row_lengths=[100] * rows).epochs for rows in (20, 100, 1000, 5000, 10_000, 50_000)]
    assert epochs == sorted(epochs, reverse=True)
    assert epochs[-1] == 1
    batches = [_choose(row_lengths=[100] * rows).batch_size for rows in (4, 100, 1000, 5000)]
    assert batches == sorted(batches)


@pytest.mark.parametrize("lengths", [[10, 700, 30], [2048]])
def test_the_maximum_length_is_the_context_which_is_what_the_run_uses(lengths: list[int]) -> None:
    chosen = _choose(row_lengths=lengths, context_length=2048)
    assert chosen.max_length == 2048
    [reason] = [choice.reason for choice in chosen.choices if choice.name == "max_length"]
    assert reason == f"the model's context; the longest row has {max(lengths)}"


def test_the_reason_for_the_epochs_promises_no_validation_that_there_is_not() -> None:
    def reason(**changes: Any) -> str:
        [found] = [choice.reason for choice in _choose(**changes).choices if choice.name == "epochs"]
        return found

    assert "the last within 20% of the lowest validation loss is kept" in reason()
    assert "lowest" not in reason(has_validation=False)
    assert reason(row_lengths=[7], has_validation=False).startswith("for 1 row;")


def test_what_a_resumed_run_was_begun_with_is_said_to_be_that() -> None:
    chosen = _choose(**OPTIONS, given_reason="as begun")
    assert {choice.reason for choice in chosen.choices} == {"as begun"}


def test_a_rank_beyond_the_memory_is_refused_with_both_figures() -> None:
    """16 bytes a trained value: float32 weight, gradient and two moments."""
    require_adapter_memory(1000, rank=10, available_bytes=16_000, device="cpu")
    require_adapter_memory(10**15, rank=10, available_bytes=None, device="cpu")
    with pytest.raises(ConfigError, match="a rank of 10 needs") as raised:
        require_adapter_memory(1001, rank=10, available_bytes=16_000, device="cpu")
    assert raised.value.details == ("needed: 16016 bytes, free: 16000 bytes",)
    assert "under 9" in str(raised.value.remedy)


@given(
    st.lists(st.integers(1, 5000), min_size=1, max_size=50),
    st.integers(1, 200 * GIB),
    st.sampled_from([2, 4]),
    st.integers(1, 100),
)
def test_the_longest_row_always_fits_into_a_micro_batch(
    lengths: list[int], available_bytes: int, bytes_per_value: int, layers: int
) -> None:
    chosen = _choose(
        row_lengths=lengths, available_bytes=available_bytes, bytes_per_value=bytes_per_value, num_layers=layers
    )
    longest = min(max(lengths), chosen.max_length)
    assert chosen.micro_batch_tokens >= longest
    assert chosen.micro_batch_tokens <= max(longest, 1024)


def test_micro_batches_follow_the_memory() -> None:
    def tokens(**changes: Any) -> int:
        return _choose(**changes).micro_batch_tokens

    assert tokens(available_bytes=GIB // 4) < tokens(available_bytes=GIB // 2) < tokens(available_bytes=100 * GIB)
    # float32 takes twice the memory of bfloat16, twice the layers take twice the memory
    halved = tokens(available_bytes=GIB // 2)
    assert tokens(available_bytes=GIB, bytes_per_value=4) == halved
    assert tokens(available_bytes=GIB, num_layers=60) == halved
    # the measured figure: 0.6 MB a token in bfloat16 for 30 layers of width 576, on at most half of what is free
    assert 0.6e6 * halved <= 0.5 * GIB / 2


def test_an_unknown_amount_of_memory_is_no_obstacle() -> None:
    assert 100 <= _choose(available_bytes=None).micro_batch_tokens <= 1024


def test_rows_outside_of_the_domain_count_where_tokens_are_computed_at_once() -> None:
    assert _choose(longest_beside=6000).micro_batch_tokens == 6000
    assert _choose(longest_beside=6000).batch_size == _choose().batch_size
    assert _choose(longest_beside=6000, available_bytes=GIB).recompute_layers > 0


def test_a_micro_batch_has_room_beside_what_all_rows_share() -> None:
    def micro_batch(**changes: Any) -> tuple[float | int | None, str]:
        [found] = [one for one in _choose(**changes).choices if one.name == "micro_batch_tokens"]
        return found.value, found.reason

    assert micro_batch() == (1024, "more is no faster")
    assert micro_batch(on_card=True)[0] == 2048
    # without that room, rows of 1,100 tokens that share 1,000 would each compute them again
    assert micro_batch(row_lengths=[1100] * 8, shared_tokens=1000) == (2024, "with the 1000 that all rows share")
    assert micro_batch(row_lengths=[1100] * 8, shared_tokens=1000, available_bytes=GIB // 4)[1] == "the longest row"
    assert micro_batch(shared_tokens=1000, available_bytes=GIB)[1] == "what fits in memory"


@given(st.integers(3, 100_000))
def test_held_out_rows_are_a_fifth_within_bounds(rows: int) -> None:
    choice = choose_held_out_rows(rows)
    assert 1 <= choice.value <= max(1, rows // 3)
    assert choice.value <= 200
    assert choice.value >= min(8, rows // 3)
    if 40 <= rows <= 1000:
        assert choice.value == round(rows / 5)


@pytest.mark.parametrize(("rows", "expected"), [(1, 1), (3, 1), (12, 4), (24, 8), (40, 8), (120, 24), (10_000, 200)])
def test_held_out_rows_by_hand(rows: int, expected: int) -> None:
    assert choose_held_out_rows(rows).value == expected


@pytest.mark.parametrize(("rows", "expected"), [(0, 0), (19, 0), (20, 4), (120, 12), (10_000, 100)])
def test_validation_rows_by_hand(rows: int, expected: int) -> None:
    choice = choose_validation_rows(rows)
    assert choice.value == expected
    assert str(rows) in choice.reason


def test_reinforcement_has_steps_of_its_own() -> None:
    chosen = _choose(steps_each=2)
    assert (chosen.batch_size, chosen.max_steps) == (8, 128)
    assert chosen.epochs == math.ceil(64 * 8 / 120)
    assert _choose(steps_each=1, row_lengths=[100] * 5).batch_size == 5
    assert _choose(steps_each=1, epochs=9).max_steps is None, "who asks for passes gets them all"
    given = _choose(steps_each=1, max_steps=3, batch_size=2)
    assert (given.batch_size, given.max_steps) == (2, 3)


def test_the_longest_answer_follows_from_the_references() -> None:
    assert choose_rollout_tokens([])[0] == 128
    assert choose_rollout_tokens([3, 5])[0] == 16
    assert choose_rollout_tokens([40, 20])[0] == 60
    assert choose_rollout_tokens([1000])[0] == 512
