"""The ``logprobs`` object of ``/v1/completions``: tokens, their log-probabilities, and where they begin in the text.

Source: the OpenAI API reference, completions: with ``logprobs: k``, ``top_logprobs`` has the k likeliest tokens of each
place and the token that stands there, so up to k + 1, and with 0 that one. The first token of an echoed prompt follows
nothing: its log-probability is null.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from hone.types import JsonDict

__all__ = ["CompletionLogprobs", "readable_token"]

_UNFINISHED = "\ufffd"  # what decoding gives for bytes that do not make a character
# Tokens that may make a character together; a longer run is bytes that make none.
_MOST_PARTS = 16
# JSON has no minus infinity; OpenAI and vLLM write this for what is next to impossible.
_LEAST = -9999.0

Decode = Callable[[Sequence[int]], str]


def readable_token(token: int, text: str) -> str:
    """What a token is called: its text, or its id where that is a part of a character alone or nothing.

    Args:
        token: its id.
        text: what it decodes to.
    """
    return f"token_id:{token}" if not text or _UNFINISHED in text else text


class CompletionLogprobs:
    """Tokens of one answer, the echoed prompt's among them, as they come.

    Args:
        decode: text of ids, special ones written out.
    """

    def __init__(self, decode: Decode) -> None:
        self._decode = decode
        self._offset = 0
        self._parts: list[int] = []  # tokens of a character that is not whole yet
        self._known: dict[int, str] = {}
        self._tokens: list[str] = []
        self._logprobs: list[float | None] = []
        self._top: list[dict[str, float] | None] = []
        self._offsets: list[int] = []

    def __len__(self) -> int:
        return len(self._tokens)

    def go_on_at(self, offset: int) -> None:
        """Let the next token begin there; negative for one that is not in the text."""
        self._offset = offset
        self._parts = []

    def add(self, token: int, logprob: float | None, top: Sequence[tuple[int, float]] = ()) -> None:
        """Take the next token.

        Args:
            token: its id.
            logprob: in nats; None for a token that follows nothing.
            top: the likeliest tokens of its place, the likeliest first.
        """
        self._offsets.append(max(0, self._place(token)))
        self._tokens.append(readable_token(token, self._text(token)))
        if logprob is None:
            self._logprobs.append(None)
            self._top.append(None)
            return
        told: dict[str, float] = {}
        for one, value in (*top, (token, logprob)):
            told.setdefault(readable_token(one, self._text(one)), max(value, _LEAST))
        self._logprobs.append(max(logprob, _LEAST))
        self._top.append(told)

    def object(self, start: int = 0) -> JsonDict:
        """The object on the wire.

        Args:
            start: leave out so many tokens, which were told before.
        """
        return {
            "tokens": self._tokens[start:],
            "token_logprobs": self._logprobs[start:],
            "top_logprobs": self._top[start:],
            "text_offset": self._offsets[start:],
        }

    def _text(self, token: int) -> str:
        if token not in self._known:
            self._known[token] = self._decode((token,))
        return self._known[token]

    def _place(self, token: int) -> int:
        """Where a token begins; all tokens of one character begin where it does."""
        text = self._text(token)
        if _UNFINISHED not in text:
            if self._parts:  # they made no character, and each stands in the text as one that says so
                self._offset += len(self._decode(self._parts))
                self._parts = []
            place = self._offset
            self._offset += len(text)
            return place
        place = self._offset
        self._parts.append(token)
        whole = self._decode(self._parts)
        if _UNFINISHED not in whole or len(self._parts) == _MOST_PARTS:
            self._offset += len(whole)
            self._parts = []
        return place
