"""The audit of training data: every fault of a file, each with its place, in a pass that holds no rows in memory."""

from __future__ import annotations

__all__: list[str] = []
