"""What is asked of the inference service, and what it gives: values that routes, tests and the service share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from hone.data.render import Renderer
from hone.model.rows import FinishReason, RowToken
from hone.model.sampling import SamplingSettings, TokenBias
from hone.serve.loading import Loaded
from hone.types import JsonDict, Message

__all__ = ["AddPassages", "GenerationRequest", "Passages", "ReadyModel", "ResolveModel", "ResolvedModel", "TokenEvent"]


@dataclass(frozen=True, slots=True)
class Passages:
    """A conversation with passages for its question.

    Args:
        messages: the conversation, passages added as in training and evaluation.
        citations: where they come from, in their order.
    """

    messages: tuple[Message, ...]
    citations: tuple[JsonDict, ...]


AddPassages = Callable[[Sequence[Message], Callable[[Sequence[Message]], bool]], Passages]
"""Adds passages to a conversation, as many as fit, which its second argument tells of a conversation with passages;
called in a thread of its own, so that it may be slow."""


@dataclass(frozen=True, slots=True)
class ResolvedModel:
    """What a name on the wire means now.

    Args:
        name: as the answer's ``model``.
        reference: as ``load_answerer`` takes it, and always the same thing: a base, ``support@3``, a run's folder. An
            alias was followed already, so that a request is answered by one version from its first token to its last.
        add_passages: retrieval that is attached to the name; None for none.
    """

    name: str
    reference: str
    add_passages: AddPassages | None = None


class ResolveModel(Protocol):
    """Finds what a name on the wire means; asked once for each request."""

    def __call__(self, name: str) -> ResolvedModel:
        """What ``name`` means now.

        Raises:
            ApiError: there is no such model.
        """
        ...


@dataclass(frozen=True, slots=True)
class ReadyModel:
    """A model in memory.

    Args:
        resolved: what was asked for.
        loaded: where it is.
    """

    resolved: ResolvedModel
    loaded: Loaded

    @property
    def renderer(self) -> Renderer:
        """Renders prompts as in training."""
        return self.loaded.renderer

    @property
    def context_length(self) -> int:
        """Tokens of prompt and answer together."""
        return self.loaded.engine.base.context_length

    def text(self, ids: Sequence[int]) -> str:
        """The text of an answer's ids, as ``hone generate`` writes it."""
        return str(self.loaded.engine.base.tokenizer.decode(list(ids), skip_special_tokens=True))

    def written_out(self, ids: Sequence[int]) -> str:
        """The text of ids, special ones written out."""
        return str(self.loaded.engine.base.tokenizer.decode(list(ids)))

    def plain_ids(self, text: str) -> tuple[int, ...]:
        """Ids of a text that is no conversation, with what the tokenizer puts before every text."""
        return tuple(self.loaded.engine.base.tokenizer(text)["input_ids"])


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """Answers to one prompt, or to several.

    Args:
        model: see :meth:`InferenceService.ready`.
        prompts: token ids of each.
        settings: how tokens are chosen.
        count: how many answers to each prompt; the answers to the first come first.
        stops: texts that end an answer.
        bias: added to the logits.
        top_logprobs: likeliest tokens with each token; None for no log-probabilities.
        prompt_logprobs: the same for the tokens of the prompts.
        allowed: makes, for an answer, what may refuse tokens; see :class:`hone.model.rows.RowRequest`.
    """

    model: ReadyModel
    prompts: tuple[tuple[int, ...], ...]
    settings: SamplingSettings
    count: int = 1
    stops: tuple[str, ...] = ()
    bias: TokenBias = field(default_factory=TokenBias)
    top_logprobs: int | None = None
    prompt_logprobs: int | None = None
    allowed: Callable[[], Callable[[Sequence[int], int], bool]] | None = None


@dataclass(frozen=True, slots=True)
class TokenEvent:
    """Something that happened to one answer.

    Args:
        index: of the answer.
        text: what may be given out now; may be empty.
        token: the row's event; None at the end that a stop text makes.
        finish: why the answer ended; None while it goes on.
        tokens: of the answer so far.
        cached_tokens: of the prompt, which did not have to be read.
    """

    index: int
    text: str
    token: RowToken | None
    finish: FinishReason | None
    tokens: int
    cached_tokens: int
