"""General prompts to replay, written for hone: the beginnings of rows that hold a model where it was."""

from __future__ import annotations

import functools
from importlib import resources

__all__ = ["replay_prompts"]


@functools.cache
def replay_prompts() -> tuple[str, ...]:
    """64 things that somebody might ask an assistant, of many kinds; none of them is one that retention asks."""
    text = resources.files("hone.data").joinpath("replay_prompts.txt").read_text(encoding="utf-8")
    return tuple(line for line in text.splitlines() if line.strip())
