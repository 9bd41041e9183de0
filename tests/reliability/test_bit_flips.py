"""Two hundred single bits, seeded, flipped in a checkpoint, an adapter and a converted model: all are noticed.

Ten thousand on demand: docs/reliability.md.
"""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.reliability.bit_flips import Subject, subjects, unnoticed_flips


@pytest.fixture(scope="module")
def damaged(tmp_path_factory: pytest.TempPathFactory) -> list[Subject]:
    return subjects(tmp_path_factory.mktemp("flips"))


@pytest.mark.parametrize(("number", "count"), [(0, 70), (1, 70), (2, 60)], ids=["checkpoint", "adapter", "converted"])
def test_a_flipped_bit_is_noticed(damaged: list[Subject], number: int, count: int) -> None:
    assert list(unnoticed_flips(damaged[number], random.Random(number), count)) == []
    assert not damaged[number].is_noticed(), "every bit was put back"


def test_a_flip_that_nobody_notices_is_told(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(bytes(10))
    found = list(unnoticed_flips(Subject("it", tmp_path, lambda: (tmp_path / "x").read_bytes()[0] != 0),
                                 random.Random(0), 50))  # fmt: skip
    assert 30 < len(found) < 50
    assert (tmp_path / "x").read_bytes() == bytes(10)
    assert list(unnoticed_flips(Subject("it", tmp_path, lambda: True), random.Random(0), 5)) == [
        "it: found damaged as it is"
    ]
