"""Answers packed with their prompt once: counts, comparisons, and KTO's mismatched answers."""

from __future__ import annotations

from hone.data.answers import AnswerSet, joined, pack_answers, pair_sets, single_sets
from hone.types import Message, Preference, TokenSequence

PROMPT = tuple(range(100, 130))


def _sequence(prompt: tuple[int, ...], answer: tuple[int, ...], row: int = 1) -> TokenSequence:
    return TokenSequence((*prompt, *answer), (False,) * len(prompt) + (True,) * len(answer), row)


def _preference(row: int, ranks: tuple[float, ...] = (1, 2), liked: bool | None = None) -> Preference:
    messages = (Message("user", "a"), Message("assistant", "b", supervised=True))
    others = tuple(Message("assistant", str(rank), supervised=True) for rank in ranks[1:])
    return Preference(messages, row=row, others=others, ranks=ranks, liked=liked)


def test_a_prompt_is_computed_once_for_all_its_answers() -> None:
    one = AnswerSet((_sequence(PROMPT, (1, 2, 3)), _sequence(PROMPT, (4, 5))), ((0, 1),))
    assert len(one.ids) == len(joined(one.sequences).ids) == 30 + 3 + 2
    (batch,) = pack_answers([one], max_tokens=100)
    assert len(batch.ids_T) == 35, "laid down once"
    assert batch.num_tokens == 33 + 32, "counted for each answer"
    assert batch.weight == 1
    assert batch.beside == (batch,)
    assert batch.owners_S == (0, 0, 0, 1, 1)
    assert (batch.better_P, batch.worse_P) == ((0,), (1,))


def test_a_set_is_never_divided_and_pairs_point_at_their_own_answers() -> None:
    sets = [
        AnswerSet(tuple(_sequence((*PROMPT, n), (7, k)) for k in range(3)), ((0, 1), (0, 2), (1, 2)), margin=float(n))
        for n in range(4)
    ]
    batches = pack_answers(sets, max_tokens=80)
    assert [batch.weight for batch in batches] == [6, 6]
    for batch in batches:
        assert batch.better_P == (0, 0, 1, 3, 3, 4)
        assert batch.worse_P == (1, 2, 2, 4, 5, 5)
    assert [margin for batch in batches for margin in batch.margins_P[::3]] == [0.0, 1.0, 2.0, 3.0]
    assert [batch.weight for batch in pack_answers(sets, max_tokens=1)] == [3, 3, 3, 3]


def test_rows_of_one_answer_compare_nothing() -> None:
    sequences = [[_sequence(PROMPT, (1,))], [_sequence(PROMPT, (1,)), _sequence(PROMPT, (2,))]]
    sets = pair_sets([_preference(1, (), liked=True), _preference(2)], sequences)
    assert [one.sequences[0].row for one in sets] == [1]
    assert sets[0].pairs == ((0, 1),)


def test_compared_answers_are_judged_one_by_one() -> None:
    ranked = [_sequence(PROMPT, (token,)) for token in (1, 2, 3)]
    sets = single_sets([_preference(1, (1, 2, 3)), _preference(2, (), liked=False)], [ranked, [_sequence((5,), (6,))]])
    assert [one.liked for one in sets] == [True, False, False], "the middle one wins as often as it loses"
    assert [one.weight for one in sets] == [1, 1, 1]
    (batch,) = pack_answers(sets, max_tokens=1000, divergence=0.5)
    assert (batch.weight, batch.divergence) == (3, 0.5)
    assert sorted(batch.liked_B) == [False, False, True]


def test_another_rows_answer_stands_after_each_prompt() -> None:
    prompts = [tuple(range(10 * n, 10 * n + 3)) for n in range(1, 4)]
    rows = [_preference(n, (), liked=True) for n in range(3)]
    sets = single_sets(rows, [[_sequence(prompt, (n,))] for n, prompt in enumerate(prompts)])
    for n, one in enumerate(sets):
        assert one.mismatched is not None
        assert one.mismatched.ids[:3] == prompts[n]
        assert one.mismatched.ids[3:] == ((n - 1) % 3,), "an answer of another row"
        assert one.mismatched.num_supervised == 1


def test_the_answer_that_stands_after_a_prompt_is_to_another_one() -> None:
    """Rows of one prompt stand side by side, and a ranking has several answers of its own."""
    ranked = [_sequence(PROMPT, (token,)) for token in (1, 2, 3, 4)]
    rows = [_preference(0, (1, 2, 3, 4)), _preference(1, (), liked=False), _preference(2, (), liked=True)]
    sets = single_sets(rows, [ranked, [_sequence(PROMPT, (5,))], [_sequence((8, 9), (6, 6, 6))]])
    last = sets.pop()
    assert all(one.mismatched is not None and one.mismatched.ids == (*PROMPT, 6) for one in sets), "cut to the longest"
    assert last.mismatched is not None
    assert last.mismatched.ids == (8, 9, 5)
