"""The text of an answer as its tokens come: whole characters only, and nothing of a text that ends it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

__all__ = ["AnswerText"]

_UNFINISHED = "\ufffd"  # what decoding gives for bytes that do not make a character, or not yet


class AnswerText:
    """One answer.

    The pieces together are ``decode`` of all tokens, up to the first of the stop texts.

    Args:
        decode: text of a sequence of tokens.
        stops: texts that end the answer and are no part of it.
    """

    def __init__(self, decode: Callable[[Sequence[int]], str], stops: Sequence[str] = ()) -> None:
        self._decode = decode
        self._stops = tuple(stop for stop in stops if stop)
        self._ids: list[int] = []
        self._given = ""
        self.stopped = False

    @property
    def text(self) -> str:
        """All that was given out."""
        return self._given

    def add(self, token: int) -> str:
        """What may be given out now that ``token`` is there too; sets ``stopped`` where a stop text is complete."""
        self._ids.append(token)
        return self._give(self._decode(self._ids).rstrip(_UNFINISHED), last=False)

    def end(self) -> str:
        """What is left once no token comes any more."""
        return self._give(self._decode(self._ids), last=True) if self._ids else ""

    def _give(self, text: str, *, last: bool) -> str:
        if self.stopped or not (last or text.startswith(self._given)):
            return ""
        # what could begin a stop text was held back, so none begins earlier
        found = [place for stop in self._stops if (place := text.find(stop, len(self._given))) >= 0]
        if found:
            self.stopped = True
            text = text[: min(found)]
        elif not last:
            text = text[: len(text) - self._held_back(text)]
        piece = text[len(self._given) :]
        self._given += piece
        return piece

    def _held_back(self, text: str) -> int:
        """Characters at the end that a stop text may begin with."""
        return max((_overlap(text, stop) for stop in self._stops), default=0)


def _overlap(text: str, stop: str) -> int:
    for length in range(min(len(stop) - 1, len(text)), 0, -1):
        if text.endswith(stop[:length]):
            return length
    return 0
