"""How finely a metric is shown."""

from __future__ import annotations

__all__ = ["digits_of"]

# Their unit is no hundredth of something.
_FINE = frozenset({"bits_per_byte", "reward", "watch_reward"})


def digits_of(metric: str) -> int:
    """Digits behind the point in which scores of a metric are shown."""
    return 3 if metric in _FINE else 1
