"""The one training loop, its step, optimizer, schedule, checkpoints and events."""

from __future__ import annotations

__all__ = []
