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
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Literal

import torch
from torch import Tensor
from transformers import PreTrainedModel

from hone.errors import ConfigError, ModelError
from hone.model.adapter_bank import AdapterBank
from hone.model.adapter_store import AdapterStore
from hone.model.adapter_weights import AdapterWeights
from hone.model.attention import supports_packing
from hone.model.forward import Forward
from hone.model.head import find_output_head
from hone.model.prefix_store import PrefixStore, common_length
from hone.model.row_attention import RowPlan, RowSpan, use_row_attention
from hone.model.row_cache import CachedTokens, RowCache
from hone.model.row_forward import check_row_path, plain_logits, row_logits
from hone.model.row_scores import token_scores
from hone.model.rows import BatcherLimits, FinishReason, Row, RowRequest, RowToken, next_token, with_logprobs
from hone.model.sampling import row_generator

__all__ = ["Batcher"]

# Fewer tokens than this are read again as fast as they are copied.
_SHORTEST_PREFIX = 4


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
        self._rows: list[Row] = []
        self._waiting: OrderedDict[int, RowRequest] = OrderedDict()
        self._tickets = 0
        find_output_head(model)  # looked for while the model still takes plain batches; checks of versions need it
        expected = plain_logits(model)
        self.adapters: AdapterStore | None = None
        if adapters:
            self.adapters = AdapterStore(
                AdapterBank(model),
                max_bytes=self.limits.adapter_bytes,
                max_live_ranks=self.limits.max_live_ranks,
                on_drop=self.prefixes.forget,
            )
        use_row_attention(model)
        check_row_path(model, self._cache, expected)

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

    @property
    def widths(self) -> dict[str, tuple[int, int]]:
        """(D_in, D_out) of the layers that an adapter may change, by name."""
        return {} if self.adapters is None else self.adapters.bank.widths

    def has_adapter(self, name: str) -> bool:
        """Whether an adapter is in memory; one that no request needs may go when another comes."""
        return self.adapters is not None and name in self.adapters

    def add_adapter(self, name: str, weights: AdapterWeights) -> bool:
        """Take an adapter into memory; see :meth:`AdapterStore.add`.

        Args:
            name: a new name for other weights: names are never reused.
            weights: made for this model.

        Returns:
            Whether there was room. There will be, once requests for others have been answered.

        Raises:
            ModelError: it alone is over the limits, or the model takes no adapters.
        """
        if self.adapters is None:
            raise ModelError(f"{name}: this model was adapted by other means", remedy="load the adapter's own base")
        needed = {row.request.adapter for row in self._rows} | {one.adapter for one in self._waiting.values()}
        return self.adapters.add(name, weights, needed=needed)

    @contextmanager
    def alone(self, name: str) -> Iterator[Forward]:
        """Between steps, the model with one adapter on the path of its training, and the pass that gives its logits.

        Raises:
            ModelError: the adapter is not in memory, or there is no room in the layers while others are in use.
        """
        assert self.adapters is not None, "only a bank's adapter can be alone"
        with self.adapters.alone(self.model, name, used=self._used()) as forward:
            yield forward

    def submit(self, request: RowRequest) -> int:
        """Queue a request; its events come from :meth:`step` under the ticket given back.

        Raises:
            ConfigError: the prompt is empty or, with the longest answer, over the context or the cache.
            ModelError: its adapter is not in memory.
        """
        limit = min(self.context_length, self.limits.cache_tokens)
        shortest = 1 if request.prompt_logprobs is None else 0
        if not request.prompt or request.reserved > limit or request.settings.max_new_tokens < shortest:
            raise ConfigError(
                f"a prompt of {len(request.prompt)} tokens and an answer of up to {request.settings.max_new_tokens}: "
                f"at most {limit} fit together, and each has at least one; a prompt that is scored needs no answer",
                remedy="ask for a shorter answer, or say less",
            )
        if request.adapter is not None:
            if self.adapters is None:
                raise ModelError(f"{request.adapter}: this model takes no adapters", remedy="ask the model itself")
            self.adapters.touch(request.adapter)
        self._tickets += 1
        self._waiting[self._tickets] = request
        return self._tickets

    @torch.inference_mode()
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
        greedy = logits_BV.argmax(dim=-1).tolist() if choosing else []
        return [self._chosen(row, greedy[place], logits_BV[place]) for place, row in enumerate(choosing)]

    def _admit(self) -> None:
        for ticket, request in list(self._waiting.items()):
            reserved = sum(row.request.reserved for row in self._rows) + request.reserved
            full = len(self._rows) >= self.limits.max_rows or reserved > self.limits.cache_tokens
            # first come, first served: who needs much room is not passed for ever by those who need little
            if full or not self._laid_in(request.adapter):
                return
            # keys and values tell nothing of how likely their tokens were
            known, source = self._known_prefix(request) if request.prompt_logprobs is None else (0, None)
            if source == "soon":
                continue
            slot = self._cache.add(len(request.prompt))
            generator = row_generator(request.settings.seed, request.index)
            row = Row(ticket, request, slot, list(request.prompt), generator, 0)
            if isinstance(source, CachedTokens) and known >= _SHORTEST_PREFIX:
                self._cache.begin(slot, source, known)
                row.cached = known
            self._rows.append(row)
            del self._waiting[ticket]

    def _used(self) -> set[str | None]:
        return {row.request.adapter for row in self._rows}

    def _laid_in(self, adapter: str | None) -> bool:
        return adapter is None or self.adapters is None or self.adapters.lay_in(adapter, used=self._used())

    def _known_prefix(self, request: RowRequest) -> tuple[int, CachedTokens | Literal["soon"] | None]:
        """How much of a prompt is cached already and where, or ``soon`` where another row is reading it now."""
        most = len(request.prompt) - 1  # the last one is read for its logits
        length, tokens = self.prefixes.find(request.adapter, request.prompt)
        length = min(length, most)
        for row in self._rows:
            if row.request.adapter != request.adapter:
                continue
            shared = min(common_length(row.ids, request.prompt), most)
            if row.reads and row.slot.length < shared and shared > max(length, _SHORTEST_PREFIX):
                return shared, "soon"
            shared = min(shared, row.slot.length)
            if shared > length:
                length, tokens = shared, self._cache.view(row.slot, shared)
        return length, tokens

    def _work(self) -> list[tuple[Row, int]]:
        """(row, tokens to read): writing rows all, reading rows an even share of the chunk."""
        work = [(row, row.waiting) for row in self._rows if not row.reads]
        room = self.limits.chunk_tokens
        readers = sorted((row for row in self._rows if row.reads), key=lambda row: row.waiting)
        for place, row in enumerate(readers):
            count = min(row.waiting, max(1, room // (len(readers) - place)), room)
            if count:
                work.append((row, count))
                room -= count
        return work

    def _forward(self, work: Sequence[tuple[Row, int]]) -> Tensor:
        """Logits [B, V], float32, of the rows that are read to their end; prompts are scored as they are read."""
        plan = RowPlan([RowSpan(row.slot, count) for row, count in work], self.model.device)
        ids: list[int] = []
        last: list[int] = []
        scored: list[int] = []
        targets: list[tuple[Row, list[int]]] = []
        for row, count in work:
            begin = row.slot.length
            if row.reads and row.request.prompt_logprobs is not None:
                following = row.ids[begin + 1 : begin + count + 1]
                scored += range(len(ids), len(ids) + len(following))
                targets.append((row, following))
            ids += row.ids[begin : begin + count]
            if row.waiting == count:
                last.append(len(ids) - 1)
        if self.adapters is not None:
            self.adapters.bank.select([(row.request.adapter, count) for row, count in work])
        logits_KV = row_logits(self.model, ids, plan, [*last, *scored])
        plan.advance()
        place = len(last)
        for row, following in targets:
            found_SV = logits_KV[place : place + len(following)]
            row.scores += token_scores(found_SV, following, row.request.prompt_logprobs or 0)
            place += len(following)
        return logits_KV[: len(last)].float()

    def _chosen(self, row: Row, greedy: int, logits_V: Tensor) -> RowToken:
        request = row.request
        scores, row.scores = tuple(row.scores), []
        if request.settings.max_new_tokens == 0:
            self._leave(row)
            return RowToken(row.ticket, None, "length", cached_tokens=row.cached, prompt_scores=scores)
        plain = request.settings.temperature == 0 and not request.bias and request.allowed is None
        token = greedy if plain else next_token(row, logits_V)
        if token in request.stop_ids:
            self._leave(row)
            event = RowToken(row.ticket, None, "stop", cached_tokens=row.cached, stop_id=token, prompt_scores=scores)
        else:
            row.ids.append(token)
            finish: FinishReason | None = None
            if row.written >= request.settings.max_new_tokens:
                finish = "length"
                self._leave(row)
            event = RowToken(row.ticket, token, finish, cached_tokens=row.cached, prompt_scores=scores)
        return event if request.top_logprobs is None else with_logprobs(event, logits_V, request.top_logprobs)

    def _leave(self, row: Row) -> None:
        """Forget a row, and keep what it read for the next that begins alike."""
        self._rows.remove(row)
        adapter, length = row.request.adapter, row.slot.length
        read = tuple(row.ids[:length])
        size = self._cache.view(row.slot, length).num_bytes
        # a text that was scored is rarely gone on with, and thousands of them would push the others out
        wanted = length >= _SHORTEST_PREFIX and row.request.prompt_logprobs is None
        if wanted and self.prefixes.fits(adapter, read, size):
            self.prefixes.add(adapter, read, self._cache.copied(row.slot, length))
        self._cache.remove(row.slot)
