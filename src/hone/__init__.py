"""hone turns a general language model into a specialist from a small set of examples, and proves it."""

from __future__ import annotations

__version__ = "0.1.0"

__all__ = ["__version__"]
