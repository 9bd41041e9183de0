"""The learning rate of every step, by hand and beside transformers' own schedule."""

from __future__ import annotations

import pytest
import torch
from transformers import get_linear_schedule_with_warmup

from hone.engine.schedule import linear_warmup_decay


def _rates(total: int, warmup: int, peak: float = 1.0) -> list[float]:
    return [
        linear_warmup_decay(step, total_steps=total, warmup_steps=warmup, peak=peak) for step in range(1, total + 1)
    ]


@pytest.mark.parametrize(
    ("total", "warmup", "expected"),
    [
        (6, 2, [0.5, 1.0, 1.0, 0.75, 0.5, 0.25]),
        (4, 0, [1.0, 0.75, 0.5, 0.25]),
        (3, 3, [1 / 3, 2 / 3, 1.0]),
        (1, 0, [1.0]),
        (1, 1, [1.0]),
        (2, 1, [1.0, 1.0]),
    ],
)
def test_rates_by_hand(total: int, warmup: int, expected: list[float]) -> None:
    assert _rates(total, warmup) == pytest.approx(expected)


def test_the_rate_scales_with_the_peak() -> None:
    assert _rates(6, 2, peak=4e-4) == pytest.approx([4e-4 * rate for rate in _rates(6, 2)])


@pytest.mark.parametrize(("total", "warmup"), [(1, 0), (1, 1), (2, 2), (7, 3), (100, 3), (100, 100)])
def test_no_step_is_wasted_and_none_is_over_the_peak(total: int, warmup: int) -> None:
    rates = _rates(total, warmup, peak=2.0)
    assert all(0 < rate <= 2.0 for rate in rates)
    assert max(rates) == 2.0


def test_without_warm_up_it_is_transformers_linear_schedule() -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=3e-4)
    schedule = get_linear_schedule_with_warmup(optimizer, num_warmup_steps=0, num_training_steps=9)
    theirs = []
    for _ in range(9):
        theirs.append(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
    assert _rates(9, 0, peak=3e-4) == pytest.approx(theirs)
