"""Bases and adapters: names, loading, conversion, attention over packed batches, generation, merging.

Import the modules themselves: this one stays empty, so that `hone --help` does not wait for torch.
"""

from __future__ import annotations

__all__ = []
