"""What a batcher is asked for, what it tells, and how a row chooses its next token.

Shape legend: V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from torch import Tensor

from hone.model.row_cache import CacheSlot
from hone.model.row_scores import TokenScore
from hone.model.sampling import SamplingSettings, TokenBias, choose_tokens

__all__ = ["BatcherLimits", "FinishReason", "Row", "RowRequest", "RowToken", "next_token", "with_logprobs"]

FinishReason = Literal["stop", "length"]


@dataclass(frozen=True, slots=True)
class BatcherLimits:
    """What rows and adapters may take together.

    Args:
        max_rows: rows answered at the same time; others wait.
        chunk_tokens: prompt tokens that one step reads, over all rows: how long a writing row can be held up.
        cache_tokens: tokens of all rows together, each row counted with the longest answer it may give.
        prefix_bytes: memory for texts kept for those that begin alike.
        adapter_bytes: memory for adapters; the least used goes when another needs its place.
        max_live_ranks: ranks of all adapters in use at the same time; requests for others wait.
    """

    max_rows: int = 16
    chunk_tokens: int = 256
    cache_tokens: int = 1 << 16
    prefix_bytes: int = 1 << 28
    adapter_bytes: int = 1 << 30
    max_live_ranks: int = 256


@dataclass(frozen=True, slots=True)
class RowRequest:
    """One answer that is wanted.

    Args:
        prompt: token ids, at least one.
        stop_ids: tokens that end the answer.
        settings: how tokens are chosen; its longest answer may be 0 tokens where the prompt is scored.
        adapter: name of an adapter that was given to :class:`hone.model.batcher.Batcher`; None for the base.
        index: of the row among those of its request; it draws from (seed, index).
        bias: added to the logits.
        top_logprobs: likeliest tokens to report with each token; None for no log-probabilities at all.
        allowed: may refuse a token, also one that ends the answer, by the tokens written so far; the likeliest that
            it does not refuse is taken, or drawn. It must leave one. None allows all.
        prompt_logprobs: likeliest tokens to report with each token of the prompt but the first, where the prompt is
            to be scored; it is then read from its beginning, whatever is cached. None does not score it.
    """

    prompt: tuple[int, ...]
    stop_ids: tuple[int, ...]
    settings: SamplingSettings
    adapter: str | None = None
    index: int = 0
    bias: TokenBias = field(default_factory=TokenBias)
    top_logprobs: int | None = None
    allowed: Callable[[Sequence[int], int], bool] | None = None
    prompt_logprobs: int | None = None

    @property
    def reserved(self) -> int:
        """Tokens of the prompt and of the longest answer."""
        return len(self.prompt) + self.settings.max_new_tokens


@dataclass(frozen=True, slots=True)
class RowToken:
    """What happened to a row in a step: a token, its end, or both.

    Args:
        ticket: of the row.
        token: written; None for a stop token, which is no part of the answer.
        finish: why the row ended; None while it goes on.
        logprob: of the token, or of the stop token, in nats, before temperature; None where it was not asked for.
        top: the likeliest tokens with their log-probabilities.
        cached_tokens: prompt tokens that did not have to be read.
        stop_id: the stop token that ended the row.
        prompt_scores: of the prompt's tokens but the first; with the row's first event, where they were asked for.
    """

    ticket: int
    token: int | None
    finish: FinishReason | None
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()
    cached_tokens: int = 0
    stop_id: int | None = None
    prompt_scores: tuple[TokenScore, ...] = ()


@dataclass(eq=False, slots=True)
class Row:
    """A row in work.

    Args:
        ticket: its name outside.
        request: what is wanted.
        slot: its place in the cache, which holds the first ``slot.length`` of ``ids``.
        ids: prompt and answer.
        generator: of its draws.
        cached: prompt tokens that did not have to be read.
        scores: of the prompt's tokens so far, until they are told.
    """

    ticket: int
    request: RowRequest
    slot: CacheSlot
    ids: list[int]
    generator: torch.Generator
    cached: int
    scores: list[TokenScore] = field(default_factory=list)

    @property
    def waiting(self) -> int:
        """Tokens that are known and not yet read."""
        return len(self.ids) - self.slot.length

    @property
    def written(self) -> int:
        """Tokens of the answer so far."""
        return len(self.ids) - len(self.request.prompt)

    @property
    def reads(self) -> bool:
        """Whether it is still reading its prompt."""
        return self.slot.length < len(self.request.prompt)

    @property
    def reserved(self) -> int:
        """Tokens that it may come to have."""
        return self.request.reserved


def next_token(row: Row, logits_V: Tensor) -> int:
    """The token that a row takes next.

    Args:
        row: its request says how, its generator what is drawn.
        logits_V: float32.
    """
    request = row.request
    written = row.ids[len(request.prompt) :]
    biased_V = request.bias.applied(logits_V, written)
    chosen = choose_tokens(
        biased_V.unsqueeze(0),
        temperature=request.settings.temperature,
        top_p=request.settings.top_p,
        generators=[row.generator],
    )
    token = int(chosen)
    if request.allowed is None or request.allowed(written, token):
        return token
    others = _in_turn(biased_V, request.settings.temperature, row.generator)
    found = next((other for other in others if request.allowed(written, other)), None)
    assert found is not None, "every token was refused"
    return found


def _in_turn(logits_V: Tensor, temperature: float, generator: torch.Generator) -> list[int]:
    """All tokens, the likeliest first; or in an order in which the first of any set is a draw from that set.

    Source: Kool et al. 2019, "Stochastic Beams and Where to Find Them": logits with Gumbel noise, sorted, are draws
    without replacement. What top_p cuts off stands in it too: all that it left may have been refused.
    """
    keys_V = logits_V.cpu()
    if temperature > 0:
        noise_V = torch.empty_like(keys_V).exponential_(generator=generator).log()
        keys_V = keys_V / temperature - noise_V
    order: list[int] = keys_V.argsort(descending=True, stable=True).tolist()
    return order


def with_logprobs(event: RowToken, logits_V: Tensor, count: int) -> RowToken:
    """``event`` with the log-probability of its token, or of its stop token, and the ``count`` likeliest tokens."""
    token = event.stop_id if event.token is None else event.token
    assert token is not None
    logprobs_V = torch.log_softmax(logits_V, dim=-1)
    best = logprobs_V.topk(count)
    top = tuple(zip(best.indices.tolist(), best.values.tolist(), strict=True))
    return replace(event, logprob=float(logprobs_V[token]), top=top)
