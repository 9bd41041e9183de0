"""Invariants measured on the user's own model and data, before and after training."""

from __future__ import annotations

__all__ = []
