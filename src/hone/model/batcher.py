"""Continuous batching: rows of many requests and many adapters, answered together on one base in memory.

Each step is one forward pass over the new tokens of all rows: one token of every row that is writing, and a bounded
piece of the prompts that are still being read, shared out evenly. Rows join and leave between steps. A row's tokens
are those that ``generate.py`` gives for its prompt alone; sums in bfloat16 may differ in the last bit with the number
of tokens that stood beside them, as there.

Not safe for threads: one thread calls all of it.

Shape legend: B rows that choose a token, V vocabulary.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor
from transformers import PreTrainedModel

from hone.errors import ConfigError, ModelError
from hone.model.adapter_bank import AdapterBank
from hone.model.adapter_weights import AdapterWeights
from hone.model.attention import supports_packing
from hone.model.prefix_store import PrefixStore, common_length
from hone.model.row_attention import RowPlan, RowSpan, use_row_attention
from hone.model.row_cache import CacheSlot, RowCache
from hone.model.sampling import SamplingSettings, TokenBias, choose_tokens, row_generator

__all__ = ["Batcher", "BatcherLimits", "FinishReason", "RowRequest", "RowToken"]

FinishReason = Literal["stop", "length"]

# Fewer tokens than this are read again as fast as they are copied.
_SHORTEST_PREFIX = 4


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
        settings: how tokens are chosen.
        adapter: name of an adapter that was given to :meth:`Batcher.add_adapter`; None for the base.
        index: of the row among those of its request; it draws from (seed, index).
        bias: added to the logits.
        top_logprobs: likeliest tokens to report with each token; None for no log-probabilities at all.
        allowed: may refuse a token, by the tokens written so far; the likeliest that it does not refuse is taken, or
            drawn. None allows all.
    """

    prompt: tuple[int, ...]
    stop_ids: tuple[int, ...]
    settings: SamplingSettings
    adapter: str | None = None
    index: int = 0
    bias: TokenBias = field(default_factory=TokenBias)
    top_logprobs: int | None = None
    allowed: Callable[[Sequence[int], int], bool] | None = None


@dataclass(frozen=True, slots=True)
class RowToken:
    """What happened to a row in a step: a token, its end, or both.

    Args:
        ticket: of the row.
        token: written; None for a stop token, which is no part of the answer.
        finish: why the row ended; None while it goes on.
        logprob: of the token, in nats, before temperature; None where it was not asked for.
        top: the likeliest tokens with their log-probabilities.
        cached_tokens: prompt tokens that did not have to be read.
    """

    ticket: int
    token: int | None
    finish: FinishReason | None
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()
    cached_tokens: int = 0


@dataclass(eq=False, slots=True)
class _Row:
    """A row in work. ``ids`` are prompt and answer; the cache holds the first ``slot.length`` of them."""

    ticket: int
    request: RowRequest
    slot: CacheSlot
    ids: list[int]
    generator: torch.Generator
    cached: int

    @property
    def waiting(self) -> int:
        """Tokens that are known and not yet read."""
        return len(self.ids) - self.slot.length

    @property
    def written(self) -> int:
        return len(self.ids) - len(self.request.prompt)

    @property
    def reads(self) -> bool:
        return self.slot.length < len(self.request.prompt)

    @property
    def reserved(self) -> int:
        return len(self.request.prompt) + self.request.settings.max_new_tokens


class Batcher:
    """Rows over one base.

    Args:
        model: in evaluation mode. Its linear layers are wrapped and its attention replaced: it is the batcher's from
            now on.
        context_length: most tokens of a row.
        limits: see there.
        adapters: False leaves the linear layers alone, for a model that has been adapted by other means.

    Raises:
        ModelError: the architecture mixes tokens in other ways than attention, or gives other logits this way.
    """

    def __init__(
        self, model: PreTrainedModel, *, context_length: int, limits: BatcherLimits | None = None, adapters: bool = True
    ) -> None:
        if not supports_packing(model):
            raise ModelError(
                f"{type(model).__name__} cannot be served: its rows cannot be answered beside each other",
                why="it mixes tokens in other ways than attention, or keeps its attention to itself",
                remedy="use hone generate, which answers one prompt after the other",
            )
        self.model = model
        self.context_length = context_length
        self.limits = limits or BatcherLimits()
        self.prefixes = PrefixStore(self.limits.prefix_bytes)
        self.steps = 0
        self._cache = RowCache(context_length)
        self._rows: list[_Row] = []
        self._waiting: OrderedDict[int, RowRequest] = OrderedDict()
        self._tickets = 0
        self._weights: OrderedDict[str, AdapterWeights] = OrderedDict()  # the one used last stands last
        self._adapter_bytes = 0
        expected = _plain_logits(model)
        self.bank = AdapterBank(model) if adapters else None
        use_row_attention(model)
        self._check_logits(expected)

    @property
    def idle(self) -> bool:
        """Whether a step would do nothing."""
        return not self._rows and not self._waiting

    @property
    def num_rows(self) -> int:
        """Rows in work."""
        return len(self._rows)

    @property
    def num_waiting(self) -> int:
        """Requests that wait for a place."""
        return len(self._waiting)

    def has_adapter(self, name: str) -> bool:
        """Whether an adapter is in memory; it may go with any step that does not use it."""
        return name in self._weights

    def add_adapter(self, name: str, weights: AdapterWeights) -> None:
        """Take an adapter into memory; the least used ones go where there is no room.

        Args:
            name: a new name for other weights: names are never reused.
            weights: made for this model.

        Raises:
            ModelError: it is larger than the limit, or the model was adapted by other means.
        """
        if self.bank is None or weights.num_bytes > self.limits.adapter_bytes:
            raise ModelError(
                f"{name} needs {weights.num_bytes} bytes, and adapters may take {self.limits.adapter_bytes}",
                remedy="raise the limit on adapters' memory",
            )
        if weights.rank > self.limits.max_live_ranks:
            raise ModelError(
                f"{name} has rank {weights.rank}, and {self.limits.max_live_ranks} may be in use",
                remedy="raise the limit on ranks",
            )
        self._drop_adapter(name)
        self._weights[name] = weights
        self._adapter_bytes += weights.num_bytes
        needed = {row.request.adapter for row in self._rows} | {one.adapter for one in self._waiting.values()}
        for key in [key for key in self._weights if key != name and key not in needed]:
            if self._adapter_bytes <= self.limits.adapter_bytes:
                break
            self._drop_adapter(key)

    def submit(self, request: RowRequest) -> int:
        """Queue a request; its events come from :meth:`step` under the ticket given back.

        Raises:
            ConfigError: the prompt is empty or, with the longest answer, over the context or the cache.
            ModelError: its adapter is not in memory.
        """
        total = len(request.prompt) + request.settings.max_new_tokens
        limit = min(self.context_length, self.limits.cache_tokens)
        if not request.prompt or total > limit or request.settings.max_new_tokens < 1:
            raise ConfigError(
                f"a prompt of {len(request.prompt)} tokens and an answer of up to {request.settings.max_new_tokens}: "
                f"between 1 and {limit} fit",
                remedy="ask for a shorter answer, or say less",
            )
        if request.adapter is not None:
            if request.adapter not in self._weights:
                raise ModelError(f"the adapter {request.adapter} is not in memory", remedy="load it again")
            self._weights.move_to_end(request.adapter)
        self._tickets += 1
        self._waiting[self._tickets] = request
        return self._tickets

    def cancel(self, ticket: int) -> None:
        """Forget a row; one that has ended already is no fault."""
        self._waiting.pop(ticket, None)
        for row in [row for row in self._rows if row.ticket == ticket]:
            self._leave(row)

    @torch.inference_mode()
    def step(self) -> list[RowToken]:
        """Let rows join, and run one forward pass.

        Returns:
            What was written; empty while only prompts were read.
        """
        self._admit()
        if not self._rows:
            return []
        work = self._work()
        for row, count in work:
            row.slot = self._cache.grown(row.slot, row.slot.length + count)
        # tokens of one adapter stand together
        work.sort(key=lambda pair: pair[0].request.adapter or "")
        choosing = [row for row, count in work if row.waiting == count]
        logits_BV = self._forward(work)
        self.steps += 1
        return self._choose(choosing, logits_BV)

    def _admit(self) -> None:
        for ticket, request in list(self._waiting.items()):
            reserved = sum(row.reserved for row in self._rows)
            total = len(request.prompt) + request.settings.max_new_tokens
            if len(self._rows) >= self.limits.max_rows or reserved + total > self.limits.cache_tokens:
                return
            if not self._lay_in(request.adapter):
                # first come, first served: who needs much room is not passed for ever by those who need little
                return
            known, source = self._known_prefix(request)
            if source == "soon":
                continue
            row = self._new_row(ticket, request)
            if known >= _SHORTEST_PREFIX and source is not None:
                slot, tokens = row.slot, source
                self._cache.begin(slot, tokens, known)
                row.cached = known
            self._rows.append(row)
            del self._waiting[ticket]

    def _new_row(self, ticket: int, request: RowRequest) -> _Row:
        slot = self._cache.add(len(request.prompt) + 1 if len(request.prompt) < self.context_length else 1)
        return _Row(
            ticket, request, slot, list(request.prompt), row_generator(request.settings.seed, request.index), 0
        )

    def _lay_in(self, adapter: str | None) -> bool:
        """Whether an adapter lies in the model's layers now; those that no row uses make room."""
        if adapter is None or self.bank is None or adapter in self.bank.keys:
            return True
        used = {row.request.adapter for row in self._rows}
        rank = self._weights[adapter].rank
        live = sum(self._weights[name].rank for name in self.bank.keys if name in used)
        if live + rank > self.limits.max_live_ranks:
            return False
        for name in self.bank.keys - used:
            self.bank.take_out(name)
        self.bank.put_in(adapter, self._weights[adapter])
        return True

    def _known_prefix(self, request: RowRequest) -> tuple[int, Any]:
        """Tokens of a prompt that are cached already and where, or ``soon`` where a row is reading them now."""
        most = len(request.prompt) - 1  # the last one is read for its logits
        length, tokens = self.prefixes.find(request.adapter, request.prompt)
        length = min(length, most)
        for row in self._rows:
            if row.request.adapter != request.adapter:
                continue
            shared = min(common_length(row.ids, request.prompt), most)
            if shared <= max(length, _SHORTEST_PREFIX):
                continue
            if row.slot.length < shared:
                if row.reads:
                    return shared, "soon"
                shared = row.slot.length
            if shared > length:
                length, tokens = shared, self._cache.view(row.slot, shared)
        return length, tokens

    def _work(self) -> list[tuple[_Row, int]]:
        """(row, tokens to read): writing rows all, reading rows an even share of the chunk."""
        work = [(row, row.waiting) for row in self._rows if not row.reads]
        room = self.limits.chunk_tokens
        readers = sorted((row for row in self._rows if row.reads), key=lambda row: row.waiting)
        for place, row in enumerate(readers):
            share = max(1, room // (len(readers) - place))
            count = min(row.waiting, share)
            if count > room:
                break
            work.append((row, count))
            room -= count
        return work

    def _forward(self, work: Sequence[tuple[_Row, int]]) -> Tensor:
        """Logits [B, V], float32, of the rows that are read to their end."""
        plan = RowPlan([RowSpan(row.slot, count) for row, count in work], self.model.device)
        ids: list[int] = []
        last: list[int] = []
        for row, count in work:
            begin = row.slot.length
            ids += row.ids[begin : begin + count]
            if row.waiting == count:
                last.append(len(ids) - 1)
        if self.bank is not None:
            self.bank.select([(row.request.adapter, count) for row, count in work])
        logits_BV = _logits(self.model, ids, plan, last)
        plan.advance()
        return logits_BV

    def _choose(self, rows: Sequence[_Row], logits_BV: Tensor) -> list[RowToken]:
        events = []
        greedy = logits_BV.argmax(dim=-1).tolist() if rows else []
        for place, row in enumerate(rows):
            request = row.request
            plain = request.settings.temperature == 0 and not request.bias and request.allowed is None
            token = greedy[place] if plain else _chosen(row, logits_BV[place])
            events.append(self._written(row, token, logits_BV[place]))
        return events

    def _written(self, row: _Row, token: int, logits_V: Tensor) -> RowToken:
        request = row.request
        if token in request.stop_ids:
            self._leave(row)
            return RowToken(row.ticket, None, "stop", cached_tokens=row.cached)
        row.ids.append(token)
        finish: FinishReason | None = None
        if row.written >= request.settings.max_new_tokens:
            finish = "length"
            self._leave(row)
        if request.top_logprobs is None:
            return RowToken(row.ticket, token, finish, cached_tokens=row.cached)
        logprobs_V = torch.log_softmax(logits_V, dim=-1)
        best = logprobs_V.topk(request.top_logprobs)
        top = tuple(zip(best.indices.tolist(), best.values.tolist(), strict=True))
        return RowToken(row.ticket, token, finish, float(logprobs_V[token]), top, row.cached)

    def _leave(self, row: _Row) -> None:
        """Forget a row, and keep what it read for the next that begins alike."""
        self._rows.remove(row)
        length = row.slot.length
        read = tuple(row.ids[:length])
        size = self._cache.view(row.slot, length).num_bytes
        if length >= _SHORTEST_PREFIX and self.prefixes.fits(row.request.adapter, read, size):
            self.prefixes.add(row.request.adapter, read, self._cache.copied(row.slot, length))
        self._cache.remove(row.slot)

    def _drop_adapter(self, name: str) -> None:
        weights = self._weights.pop(name, None)
        if weights is not None:
            self._adapter_bytes -= weights.num_bytes
            self.prefixes.forget(name)

    @torch.inference_mode()
    def _check_logits(self, expected_LV: Tensor) -> None:
        """Hold this path against the model's own on a few tokens, read in pieces."""
        slot = self._cache.add(len(_PROBE))
        found = []
        for start, count in ((0, 3), (3, 1), (4, 4)):
            plan = RowPlan([RowSpan(slot, count)], self.model.device)
            ids = [token % expected_LV.shape[1] for token in _PROBE[start : start + count]]
            found.append(_logits(self.model, ids, plan, list(range(count))))
            plan.advance()
        self._cache.remove(slot)
        difference = (torch.cat(found) - expected_LV).abs().max() / expected_LV.abs().max()
        bound = max(1e-3, 8 * torch.finfo(self.model.dtype).eps)
        if not difference <= bound:
            raise ModelError(
                f"{type(self.model).__name__} gives other logits when rows are answered beside each other: they differ "
                f"by {float(difference):.2g} of the largest, and {bound:.2g} is rounding",
                why="the server would answer otherwise than hone generate",
                remedy="use hone generate for this model",
            )


_PROBE = (3, 14, 15, 92, 65, 35, 89, 79)


@torch.inference_mode()
def _plain_logits(model: PreTrainedModel) -> Tensor:
    size = model.config.get_text_config().vocab_size
    ids = torch.tensor([[token % size for token in _PROBE]], device=model.device)
    logits: Tensor = model(input_ids=ids, use_cache=False).logits[0]
    return logits.float()


def _logits(model: PreTrainedModel, ids: Sequence[int], plan: RowPlan, places: Sequence[int]) -> Tensor:
    """Logits [B, V], float32, at ``places`` of the new tokens."""
    device = model.device
    # a pass in which no row comes to its end still needs a place; its logits are not read
    kept = torch.tensor(places or [0], device=device)
    output = model(
        input_ids=torch.tensor([list(ids)], device=device),
        position_ids=plan.positions_T.unsqueeze(0),
        rows=plan,
        logits_to_keep=kept,
        use_cache=False,
    )
    logits: Tensor = output.logits[0]
    return logits.float()


def _chosen(row: _Row, logits_V: Tensor) -> int:
    request = row.request
    written = row.ids[len(request.prompt) :]
    biased_V = request.bias.applied(logits_V, written)
    while True:
        chosen = choose_tokens(
            biased_V.unsqueeze(0),
            temperature=request.settings.temperature,
            top_p=request.settings.top_p,
            generators=[row.generator],
        )
        token = int(chosen)
        if request.allowed is None or token in request.stop_ids or request.allowed(written, token):
            return token
        # of those that are left: what a draw without the refused tokens would give
        biased_V = biased_V.index_fill(0, chosen, float("-inf"))
