"""Text of a chat template as token ids: ends of turns, continuations, and control tokens where none belong."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence

from hone.data.template import ChatTokenizer

__all__ = ["ControlTokens", "TemplateTokens"]


class TemplateTokens:
    """A tokenizer as the renderer uses it: it never adds special tokens of its own.

    Args:
        tokenizer: a transformers tokenizer.
    """

    def __init__(self, tokenizer: ChatTokenizer) -> None:
        self._tokenizer = tokenizer
        added = tokenizer.added_tokens_decoder
        self._added: dict[int, str] = {number: token.content for number, token in added.items()}
        self._special = {number for number, token in added.items() if token.special}
        self._special.update(tokenizer.all_special_ids)
        self._blank: dict[int, bool] = {}

    def encode(self, texts: Sequence[str]) -> list[tuple[int, ...]]:
        """Token ids of each text, without special tokens added in front or behind."""
        # verbose=False: over-long rows are the renderer's own business, no warning is due.
        encoded = self._tokenizer(list(texts), add_special_tokens=False, return_attention_mask=False, verbose=False)
        return [tuple(ids) for ids in encoded["input_ids"]]

    def decode(self, ids: Sequence[int]) -> str:
        """Text of ids, special tokens written out."""
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False))

    def continuation(self, text: str) -> tuple[int, ...]:
        """Token ids of a text that goes on after another, tokenised apart from it.

        Some tokenizers put a space before whatever begins a text; tokenising behind an anchor and dropping the anchor's
        ids avoids that, as transformers does for control tokens in chats.
        """
        for anchor in ("\n", "a"):
            alone, together = self.encode([anchor, anchor + text])
            if together[: len(alone)] == alone:
                return together[len(alone) :]
        return self.encode([text])[0]

    def is_control(self, token: int) -> bool:
        """Whether a token is an added one and not mere whitespace (Gemma has line breaks among its added tokens)."""
        return (token in self._added or token in self._special) and not self._is_blank(token)

    def closing(self, ids: Sequence[int], start: int) -> list[int]:
        """Positions of control tokens at the end of ids, with nothing but whitespace between and after them.

        Args:
            ids: token ids of a conversation.
            start: where the last turn's completion begins; nothing before it counts.

        Returns:
            Positions, ascending.
        """
        found: list[int] = []
        for position in range(len(ids) - 1, start - 1, -1):
            if self.is_control(ids[position]):
                found.append(position)
            elif not self._is_blank(ids[position]):
                break
        return found[::-1]

    def controls_in(self, text: str) -> set[int]:
        """Ids of the control tokens in a text."""
        return {token for token in self.encode([text])[0] if self.is_control(token)}

    def special_texts(self) -> set[str]:
        """Texts of all tokens that the tokenizer marks as special."""
        return self.texts(self._special)

    def texts(self, tokens: Collection[int]) -> set[str]:
        """Texts of control tokens."""
        return {self._added.get(token) or self.decode([token]) for token in tokens}

    def _is_blank(self, token: int) -> bool:
        if token not in self._blank:
            self._blank[token] = token not in self._special and not self.decode([token]).strip()
        return self._blank[token]


class ControlTokens:
    """Finds control tokens written in a text, in time that does not grow with their number.

    Gemma has over six thousand special tokens, too many for one regular expression with as many branches.

    Args:
        texts: the tokens to find.
    """

    def __init__(self, texts: Collection[str]) -> None:
        self._texts = frozenset(text for text in texts if text.strip())
        self._lengths = sorted({len(text) for text in self._texts}, reverse=True)
        heads = "".join(sorted({text[0] for text in self._texts}))
        self._head = re.compile(f"[{re.escape(heads)}]") if heads else None

    def first_in(self, text: str) -> str | None:
        """The first control token in a text (the longest that begins there), or None."""
        if self._head is None:
            return None
        for match in self._head.finditer(text):
            start = match.start()
            for length in self._lengths:
                if text[start : start + length] in self._texts:
                    return text[start : start + length]
        return None
