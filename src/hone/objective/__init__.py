"""Objectives: pure functions from tensors to (loss_sum, weight, metrics)."""

from __future__ import annotations

__all__ = []
