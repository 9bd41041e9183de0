"""Invariant 11 of an export: its figures worked by hand, and each way in which a runtime can differ."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch

from hone.proof.exported import (
    ExportCheck,
    ReferenceAnswer,
    RuntimeAnswer,
    check_exported,
    read_with_model,
    reference_answers,
)
from tests.tiny import row_logits, tiny_model

ONE = ReferenceAnswer("one", "Hi", (5, 6), (7, 8, 2), (-0.1, -0.2, -0.3))
TWO = ReferenceAnswer("two", "Ho", (5,), (9,), (-0.4,))
SAME = [RuntimeAnswer((7, 8, 2), ONE.logprobs), RuntimeAnswer((9,), TWO.logprobs)]


def check(found: list[RuntimeAnswer], **given: Any) -> ExportCheck:
    options = {"weights": "f16", "stop_ids": (2, 3), "known_stops": None, **given}
    return check_exported([ONE, TWO], found, runtime="other 1.0", token_text=lambda token: f"<{token}>", **options)


def test_equal_answers_hold() -> None:
    result = check(SAME)
    assert (result.tokens, result.equal_tokens, result.answers, result.equal_answers) == (4, 4, 2, 2)
    assert result.difference_nats == 0
    assert result.invariant.holds
    assert (result.invariant.number, result.invariant.measured) == (11, 1.0)


def test_the_first_token_that_differs_is_named() -> None:
    result = check([replace(SAME[0], picks=(7, 4, 2)), SAME[1]])
    assert (result.equal_tokens, result.equal_answers, result.invariant.measured) == (3, 1, 0.75)
    assert not result.invariant.holds
    assert result.invariant.found == "prompt 'one', token 2 of the answer: '<4>', and hone writes '<8>'"
    assert check([replace(SAME[0], picks=(7, 4, 2)), SAME[1]], weights="q4_0").invariant.holds is False


def test_one_stop_token_stands_for_another() -> None:
    assert check([replace(SAME[0], picks=(7, 8, 3)), SAME[1]]).invariant.holds
    assert check([replace(SAME[0], picks=(7, 8, 2), written=(7, 8, 3)), SAME[1]]).equal_answers == 2
    assert check([replace(SAME[0], written=(7, 8)), SAME[1]]).equal_answers == 1


def test_log_probabilities_have_a_bound_of_their_own() -> None:
    apart = [replace(SAME[0], logprobs=(-0.1, -0.2, -0.5)), SAME[1]]
    result = check(apart)
    assert result.difference_nats == pytest.approx(math.sqrt(0.04 / 4))
    assert not result.invariant.holds
    assert result.invariant.found == "other log-probabilities"
    assert check(apart, weights="q8_0").invariant.holds


@pytest.mark.parametrize(
    ("change", "given", "said"),
    [
        ({"text_ids": (5, 9)}, {}, "prompt 'one' is read as other tokens: token 2 is 9, and 6 in hone"),
        ({"text_ids": (5,)}, {}, "prompt 'one' is read as other tokens: 1 tokens, and 2 in hone"),
        ({"rendered": "Hm"}, {}, "prompt 'one': the chat template renders 'm' where hone has 'i'"),
        ({}, {"known_stops": frozenset({2})}, "it does not stop at '<3>'"),
    ],
)
def test_text_template_and_stop_tokens_have_to_be_hones(
    change: dict[str, Any], given: dict[str, Any], said: str
) -> None:
    result = check([replace(SAME[0], **change), SAME[1]], **given)
    assert not result.invariant.holds
    assert result.invariant.found == said
    same = {"text_ids": (5, 6), "rendered": "Hi"}
    assert check([replace(SAME[0], **same), SAME[1]], known_stops=frozenset({2, 3})).invariant.holds


def test_a_nan_is_no_equal_answer() -> None:
    assert not check([replace(SAME[0], logprobs=(float("nan"), -0.2, -0.3)), SAME[1]]).invariant.holds


def test_hones_answers_are_the_models_greedy_ones() -> None:
    model = tiny_model("llama")
    [answer] = reference_answers(model, [("p", "text", (5, 9, 30))], stop_ids=[2], max_new_tokens=6)
    ids = [5, 9, 30]
    logprobs = []
    for _ in range(6):  # one forward a token, no cache
        last = torch.log_softmax(row_logits(model, ids)[-1], dim=-1)
        ids.append(int(last.argmax()))
        logprobs.append(float(last.max()))
        if ids[-1] == 2:
            break
    assert list(answer.answer_ids) == ids[3:]
    assert answer.logprobs == pytest.approx(logprobs, abs=1e-5)
    [again] = read_with_model(model, [answer])
    assert (again.picks, again.logprobs) == (answer.answer_ids, pytest.approx(answer.logprobs, abs=1e-6))
