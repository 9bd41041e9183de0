"""Tokens of the rows that are planned: by the base's own tokenizer, or counted from bytes where it is not there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from hone.data.render import Rendered
from hone.errors import TemplateError
from hone.model.outline import Outline
from hone.recipe.inference import make_renderer
from hone.recipe.rows import RowRenderer
from hone.types import Example, Message, TokenSequence

__all__ = ["outline_renderer"]

# English text has about four bytes a token with the vocabularies of today; a template adds a handful a message.
_BYTES_PER_TOKEN = 4
_TEMPLATE_TOKENS = 5


def outline_renderer(
    outline: Outline, examples: Sequence[Example], *, max_length: int | None, note: Callable[[str], None]
) -> RowRenderer:
    """The renderer of the base; where its tokenizer is not there, one that counts bytes.

    Args:
        outline: of the base.
        examples: rows that say whether reasoning is trained on.
        max_length: the user's limit in tokens, or None for the base's context.
        note: receives sentences for the user.

    Raises:
        ConfigError: ``max_length`` is over the base's context.
        TemplateError: the template cannot be used for training.
    """
    if outline.base is not None:
        return make_renderer(outline.base, examples, max_length=max_length, note=note)
    note(f"tokens are estimated from bytes, {_BYTES_PER_TOKEN} to a token: the model's tokenizer is not there")
    return _ByteRenderer(max_length or outline.context_length)


@dataclass(frozen=True, slots=True)
class _ByteRenderer:
    """Takes every four bytes for a token; equal beginnings of rows are equal tokens, as for a real tokenizer."""

    max_length: int

    def render(self, example: Example) -> Rendered:
        """One sequence of all messages; the assistant's are supervised.

        Raises:
            TemplateError: none of them fits into the maximum length.
        """
        ids: list[int] = []
        supervised: list[bool] = []
        for message in example.messages:
            tokens = [*range(_TEMPLATE_TOKENS), *_pieces(message)]
            ids += tokens
            supervised += [message.supervised and place >= _TEMPLATE_TOKENS for place in range(len(tokens))]
        kept = slice(0, self.max_length)
        cut = max(0, len(ids) - self.max_length)
        if True not in supervised[kept]:
            raise TemplateError("no supervised turn fits into the maximum length")
        sequence = TokenSequence(tuple(ids[kept]), tuple(supervised[kept]), example.row)
        return Rendered((sequence,), cut)


def _pieces(message: Message) -> list[int]:
    text = (message.reasoning or "") + message.content + "".join(str(call.arguments) for call in message.tool_calls)
    content = text.encode("utf-8", errors="replace")
    starts = range(0, len(content), _BYTES_PER_TOKEN)
    return [_TEMPLATE_TOKENS + int.from_bytes(content[start : start + _BYTES_PER_TOKEN]) for start in starts]
