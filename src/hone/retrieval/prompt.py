"""Passages in a prompt: numbered, with their source, so that an answer can cite them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from hone.retrieval.passages import Passage
from hone.types import Message

__all__ = ["passages_text", "search_text", "with_passages"]

_OPENING = "Use these passages where they help. They are numbered, so that an answer can cite them, as [1]."


def search_text(messages: Sequence[Message]) -> str:
    """What to search for: the user's last turn, after the turn before it where there is one ("And in winter?").

    Args:
        messages: the turns before the answer.
    """
    asked = [message.content for message in messages if message.role == "user"]
    return "\n".join(asked[-2:])


def passages_text(passages: Sequence[Passage]) -> str:
    """The passages as a model reads them: ``[1] warranty.md, Warranty: ...``, one a paragraph."""
    return "\n\n".join(f"[{number}] {_place(passage)}: {passage.text}" for number, passage in enumerate(passages, 1))


def with_passages(messages: Sequence[Message], passages: Sequence[Passage]) -> tuple[Message, ...]:
    """The same conversation with passages before the user's last words.

    Args:
        messages: the turns before the answer.
        passages: best first; none leaves the conversation as it is.
    """
    last = next((at for at in reversed(range(len(messages))) if messages[at].role == "user"), None)
    if last is None or not passages:
        return tuple(messages)
    text = f"{_OPENING}\n\n{passages_text(passages)}\n\n{messages[last].content}"
    return (*messages[:last], replace(messages[last], content=text), *messages[last + 1 :])


def _place(passage: Passage) -> str:
    return f"{passage.source}, {passage.heading}" if passage.heading else passage.source
