"""Rates of a machine that takes no time, but for what a test names."""

from __future__ import annotations

from hone.planning.rates import Rates

__all__ = ["unit_rates"]


def unit_rates(**changes: float) -> Rates:
    """Rates at which nothing takes time but ``changes``; weights have two bytes a value."""
    fast = {name: 1e30 for name in Rates.__dataclass_fields__ if name.endswith("_per_second")}
    none = {name: 0.0 for name in Rates.__dataclass_fields__ if name.startswith("seconds_a_")}
    return Rates(**{**fast, **none, "bytes_per_value": 2, **changes})  # type: ignore[arg-type]
