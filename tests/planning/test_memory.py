"""Activations by hand: bytes of a step, and the fewest layers to recompute under a budget."""

from __future__ import annotations

import pytest

from hone.planning.memory import activation_bytes, layers_to_recompute

SHAPE = {"num_layers": 4, "width": 10, "bytes_per_value": 2}


def test_bytes_by_hand() -> None:
    # a layer keeps 38 bytes for each unit of width in bfloat16; its input alone is 2
    assert activation_bytes(3, **SHAPE) == 3 * 4 * 380
    assert activation_bytes(3, recomputed_layers=1, **SHAPE) == 3 * (20 + 4 * 380)
    assert activation_bytes(3, recomputed_layers=4, **SHAPE) == 3 * (4 * 20 + 380)
    assert activation_bytes(1, num_layers=4, width=10, bytes_per_value=4) == 2 * activation_bytes(1, **SHAPE)


@pytest.mark.parametrize(
    ("free_bytes", "wanted"), [(4560, 0), (4559, 2), (3 * (40 + 1140), 2), (3 * (40 + 1140) - 1, 3), (0, 4)]
)
def test_the_fewest_layers_that_fit(free_bytes: int, wanted: int) -> None:
    assert layers_to_recompute(3, free_bytes=free_bytes, **SHAPE) == wanted
