"""One flat function per job: the place where the layers meet."""

from __future__ import annotations

__all__ = []
