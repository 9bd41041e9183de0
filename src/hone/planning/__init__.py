"""What a run will use and cost, chosen before it starts."""

from __future__ import annotations

__all__ = []
