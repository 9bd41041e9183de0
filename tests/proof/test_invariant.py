"""One invariant as a record, and the stop where some do not hold."""

from __future__ import annotations

import json

import pytest

from hone.errors import ProofError, TrainingError
from hone.proof.invariant import Invariant, require_all


def invariant(number: int, *, holds: bool, remedy: str = "mend it") -> Invariant:
    return Invariant(number, f"name of {number}", holds, 0.25, "<= 0.1", "3 rows", remedy)


def test_where_all_hold_the_run_goes_on() -> None:
    passed = [invariant(1, holds=True), invariant(2, holds=True)]
    require_all(passed)
    require_all([])
    with pytest.raises(ProofError):
        require_all([*passed, invariant(3, holds=False)])


def test_every_one_that_fails_is_named_with_figure_bound_and_sample() -> None:
    mixed = [invariant(1, holds=False), invariant(2, holds=True), invariant(5, holds=False, remedy="other remedy")]
    with pytest.raises(ProofError) as raised:
        require_all(mixed)
    error = raised.value
    assert isinstance(error, TrainingError)
    assert error.exit_code == 1
    assert "2 of 3 invariants" in error.what
    assert [detail[:1] for detail in error.details] == ["1", "5"]
    for detail in error.details:
        assert all(part in detail for part in ("name of", "0.25", "<= 0.1", "3 rows"))
    assert error.remedy == "mend it; other remedy"


def test_equal_remedies_are_said_once() -> None:
    with pytest.raises(ProofError) as raised:
        require_all([invariant(3, holds=False), invariant(5, holds=False)])
    assert raised.value.remedy == "mend it"


def test_it_goes_through_json_and_back() -> None:
    one = invariant(9, holds=True)
    assert set(one.to_json()) == {"number", "name", "holds", "measured", "bound", "checked", "remedy", "found"}
    assert Invariant(**json.loads(json.dumps(one.to_json(), ensure_ascii=False))) == one
