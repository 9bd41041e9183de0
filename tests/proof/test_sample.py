"""The rows that stand for all: a short, a middle and the longest, within the budget, and with unlike weights."""

from __future__ import annotations

from hone.proof.sample import describe_sample, sample_sequences
from hone.types import TokenSequence


def row(number: int, length: int, supervised: int = 2) -> TokenSequence:
    flags = (False,) * (length - supervised) + (True,) * supervised
    return TokenSequence(tuple(range(length)), flags, number)


def test_short_middle_and_longest_are_read_whole_where_they_fit() -> None:
    rows = [row(number, length, number) for number, length in enumerate((50, 10, 40, 20, 30), start=1)]
    sample = sample_sequences(rows)
    assert [one.row for one in sample] == [2, 5, 1]
    assert [len(one.ids) for one in sample] == [10, 30, 50]
    assert describe_sample(sample, rows) == "3 rows of 10, 30, 50 tokens, 8 supervised tokens"


def test_the_longest_row_gets_what_the_others_leave_of_the_budget() -> None:
    rows = [row(1, 20, 3), row(2, 30, 4), row(3, 40, 2), row(4, 5000, 7)]
    sample = sample_sequences(rows, max_tokens=600)
    assert [len(one.ids) for one in sample] == [20, 40, 540]
    assert sum(len(one.ids) for one in sample) == 600
    assert sample[-1].num_supervised == 7, "the window holds the answer at the row's end"
    assert "the longest row has 5000" in describe_sample(sample, rows)


def test_a_window_lies_around_the_first_supervised_token() -> None:
    flags = tuple(at in (2000, 2001) for at in range(4000))
    sample = sample_sequences([TokenSequence(tuple(range(4000)), flags, 1)], max_tokens=100)
    assert sample[0].ids == tuple(range(1950, 2050))
    assert [sample[0].ids[at] for at, flag in enumerate(sample[0].supervised) if flag] == [2000, 2001]


def test_rows_of_one_weight_give_way_to_another() -> None:
    """Averages of averages are right where all weights are equal: such a sample would not show them."""
    rows = [row(number, 10 + number, 2) for number in range(9)]
    assert len({one.num_supervised for one in sample_sequences(rows)}) == 1
    rows[6] = row(6, 16, 5)
    assert {one.num_supervised for one in sample_sequences(rows)} == {2, 5}


def test_rows_that_carry_no_loss_are_left_out() -> None:
    assert sample_sequences([row(1, 10, 0), row(2, 12, 3)]) == [row(2, 12, 3)]
    assert sample_sequences([row(1, 10, 0)]) == []
    assert sample_sequences([TokenSequence((1,), (True,), 1)]) == [], "nothing predicts a first token"
