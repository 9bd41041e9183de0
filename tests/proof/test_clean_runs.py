"""No false alarm: clean trainings of every family, in both types, from the first check to the merged weights.

Ten of them here; docs/proof.md has the figure of two hundred (``python -m tests.proof.clean_runs 200``).
"""

from __future__ import annotations

from pathlib import Path

import pytest

from hone.proof.invariant import described
from tests.proof.clean_runs import clean_run, rows_of

# One of each family, and half of them in bfloat16.
SEEDS = (0, 11, 2, 13, 4, 15, 6, 17, 8, 19)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_clean_run_raises_no_alarm(seed: int, tmp_path: Path) -> None:
    what, found = clean_run(seed, tmp_path)
    assert sorted({invariant.number for invariant in found}) == list(range(1, 13))
    assert [described(invariant) for invariant in found if not invariant.holds] == [], what


def test_rows_differ_from_seed_to_seed_and_are_split() -> None:
    assert rows_of(1) == rows_of(1)
    assert rows_of(1) != rows_of(2)
    training, held_out = rows_of(3)
    assert (len(training), len(held_out)) == (10, 4)
