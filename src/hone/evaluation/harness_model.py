"""A model behind the interface of lm-evaluation-harness (``lm_eval.api.model.LM``), over hone's own passes.

The harness makes the requests of a task and judges the answers; here they become tokens, as its own HFLM makes them,
and run packed: the choices of a question share what stands before them. The harness takes any object that has the
methods of its ``LM``, so nothing of it is imported here.

A request that is too long loses its beginning. hone's passes read the last token too, where the harness leaves it
out, so that one token less is seen before the answer.

Shape legend: S supervised tokens, P some of them, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from hone.data.pack import PackedBatch, pack, plan_micro_batches
from hone.model.attention import attention_named
from hone.model.fast_layers import fast_layers_paused
from hone.model.forward import Forward, logits_pass, targets_of
from hone.model.generate import SamplingSettings, generate
from hone.types import TokenSequence

__all__ = ["HarnessModel", "HarnessRequest", "cut_at_stops", "encode_pair", "generation_limits", "rolling_windows"]

# The harness's own default.
_ANSWER_TOKENS = 256
_LIMIT_NAMES = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")
# All logits of the supervised tokens are held, and turned into float32 a few at a time.
_TOKENS_AT_ONCE = 1024
_POSITIONS_AT_ONCE = 64


class HarnessRequest(Protocol):
    """``lm_eval.api.instance.Instance``, as far as a model reads it."""

    @property
    def args(self) -> tuple[Any, ...]:
        """What is asked: (context, continuation), (text,) or (context, settings of the generation)."""


def encode_pair(
    context: str, continuation: str, encode: Callable[[str, bool], list[int]], prefix_id: int
) -> tuple[list[int], list[int]]:
    """Tokens of a context and of what continues it, cut as the harness cuts them.

    Spaces at the end of the context belong to the continuation, both are made into tokens together, and the
    continuation is what lies beyond as many tokens as the context has by itself.

    Args:
        context: may be empty.
        continuation: what is scored.
        encode: ids of a text, without or with (True) what the tokenizer puts before a text.
        prefix_id: stands in for an empty context.
    """
    if not context:
        ids = encode(continuation, False)
        return (ids[:1], ids[1:]) if ids[:1] == [prefix_id] else ([prefix_id], ids)
    bare = context.rstrip()
    whole, before = encode(context + continuation, True), encode(bare, True)
    # a continuation that merges with the end of its context is still one token
    start = min(len(before), len(whole) - 1)
    return whole[:start] or [prefix_id], whole[start:]


def rolling_windows(ids: Sequence[int], prefix_id: int, most: int) -> list[tuple[list[int], list[int]]]:
    """A text of any length as (context, continuation), each token continued to once; the last context is the longest.

    Args:
        ids: of the text.
        prefix_id: what the first token continues.
        most: tokens that are predicted at once.
    """
    windows = [([prefix_id], list(ids[:most]))] if ids else []
    for start in range(most, len(ids), most):
        end = min(start + most, len(ids))
        windows.append((list(ids[end - most - 1 : start]), list(ids[start:end])))
    return windows


def generation_limits(settings: Mapping[str, Any]) -> tuple[tuple[str, ...], int]:
    """The texts that end an answer, and its longest length in tokens.

    Args:
        settings: of a request of ``generate_until``.
    """
    until = settings.get("until") or []
    limit = next((settings[name] for name in _LIMIT_NAMES if settings.get(name) is not None), _ANSWER_TOKENS)
    return tuple(text for text in ([until] if isinstance(until, str) else until) if text), int(limit)


def cut_at_stops(text: str, stops: Iterable[str]) -> str:
    """``text`` up to the first of ``stops``."""
    for stop in stops:
        text = text.split(stop, 1)[0]
    return text


class HarnessModel:
    """Answers requests of lm-evaluation-harness with a model in its present state, adapter on or off.

    Args:
        model: in evaluation mode.
        tokenizer: the base's.
        stop_ids: tokens that end an answer.
        context_length: tokens that the model can see.
        forward: log-probabilities of the supervised tokens; the model stands on its path.
        own_attention: the model's own way to attend, which generation needs.
        on_done: called with the number of requests answered so far, over all calls.
    """

    rank = 0
    world_size = 1

    def __init__(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, *, stop_ids: Sequence[int],
        context_length: int, forward: Forward, own_attention: str,
        on_done: Callable[[int], None] = lambda count: None,
    ) -> None:  # fmt: skip
        self._model = model
        self._tokenizer: Any = tokenizer
        self._stop_ids = tuple(stop_ids)
        self._context_length = context_length
        self._forward = forward
        self._own_attention = own_attention
        self._on_done = on_done
        self._answered = 0
        bos, eos = self._tokenizer.bos_token_id, self._tokenizer.eos_token_id
        self._prefix_id: int = next((one for one in (bos, eos) if one is not None), self._stop_ids[0])
        self._prefix_text = str(self._tokenizer.decode([self._prefix_id]))

    def loglikelihood(self, requests: Sequence[HarnessRequest]) -> list[tuple[float, bool]]:
        """Log-probability in nats of each continuation, and whether it is what the model would write.

        Args:
            requests: (context, continuation).
        """
        pairs = [encode_pair(request.args[0], request.args[1], self._encode, self._prefix_id) for request in requests]
        return self._scored([self._sequence(*pair) for pair in pairs])

    def loglikelihood_rolling(self, requests: Sequence[HarnessRequest]) -> list[float]:
        """Log-probability in nats of each whole text.

        Args:
            requests: (text,).
        """
        sums = [0.0] * len(requests)
        windows = [
            (place, self._sequence(*window))
            for place, request in enumerate(requests)
            for window in rolling_windows(
                self._encode(request.args[0], True), self._prefix_id, self._context_length - 1
            )
        ]
        scored = self._scored([sequence for _, sequence in windows], total=len(requests))
        for (place, _), (value, _) in zip(windows, scored, strict=True):
            sums[place] += value
        return sums

    def generate_until(self, requests: Sequence[HarnessRequest]) -> list[str]:
        """The likeliest answer to each context, up to the first of its stop texts, which is left out.

        Args:
            requests: (context, settings); of the settings ``until`` and the limit of tokens are heeded.
        """
        groups: dict[tuple[tuple[str, ...], int], list[int]] = {}
        for place, request in enumerate(requests):
            groups.setdefault(generation_limits(request.args[1]), []).append(place)
        texts: dict[int, str] = {}
        for (stops, limit), places in groups.items():
            contexts = [requests[place].args[0] for place in places]
            texts.update(zip(places, self._generated(contexts, stops, limit), strict=True))
        return [texts[place] for place in range(len(requests))]

    def _generated(self, contexts: Sequence[str], stops: Sequence[str], limit: int) -> list[str]:
        if limit >= self._context_length:
            limit = self._context_length // 2  # the harness's own model refuses, where nothing is left for the prompt
        room = self._context_length - limit
        prompts = [(self._encode(context, True) or [self._prefix_id])[-room:] for context in contexts]
        special = set(self._tokenizer.all_special_tokens)
        ids = [self._tokenizer.convert_tokens_to_ids(stop) for stop in stops if stop in special]
        # a token is at least one byte of the text, but for special ones
        tail = max((len(stop.encode()) for stop in stops), default=0) + 2
        answered = self._answered

        def has_ended(written: Sequence[int]) -> bool:
            text = self._text(written[-tail:]) if stops else ""
            return any(stop in text for stop in stops)

        with fast_layers_paused(self._model), attention_named(self._model, self._own_attention):
            answers = generate(
                self._model, prompts, stop_ids=[*self._stop_ids, *ids], settings=SamplingSettings(limit),
                has_ended=has_ended, on_done=lambda done: self._on_done(answered + done),
            )  # fmt: skip
        self._answered += len(contexts)
        return [cut_at_stops(self._text(answer.ids), stops) for answer in answers]

    def _text(self, ids: Sequence[int]) -> str:
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=True))

    def _encode(self, text: str, whole: bool) -> list[int]:
        """Ids of a text; ``whole`` lets the tokenizer begin it as it begins one, unless it has done so itself."""
        special = whole and not (self._prefix_text and text.startswith(self._prefix_text))
        return list(self._tokenizer(text, add_special_tokens=special)["input_ids"])

    def _sequence(self, context: Sequence[int], continuation: Sequence[int]) -> TokenSequence:
        ids = (*context, *continuation)[-self._context_length :]
        supervised = min(len(continuation), len(ids) - 1)
        return TokenSequence(ids, (False,) * (len(ids) - supervised) + (True,) * supervised, row=0)

    @torch.inference_mode()
    def _scored(self, sequences: Sequence[TokenSequence], *, total: int | None = None) -> list[tuple[float, bool]]:
        """Sum of the log-probabilities of each sequence, and whether each token was the likeliest."""
        sums, greedy, done = [0.0] * len(sequences), [True] * len(sequences), 0
        count = len(sequences) if total is None else total
        for indices in plan_micro_batches(sequences, max_tokens=_TOKENS_AT_ONCE):
            batch = pack([sequences[index] for index in indices])
            for owner, value, is_likeliest in zip(batch.owners_S, *self._of_tokens(batch), strict=True):
                sums[indices[owner]] += value
                greedy[indices[owner]] &= is_likeliest
            done += len(indices)
            self._on_done(self._answered + done * count // len(sequences))
        self._answered += count
        return list(zip(sums, greedy, strict=True))

    def _of_tokens(self, batch: PackedBatch) -> tuple[list[float], list[bool]]:
        if not batch.num_supervised:
            return [], []
        logits_SV = logits_pass(self._forward)(self._model, batch)
        targets_S = targets_of(batch, logits_SV.device)
        values: list[Tensor] = []
        likeliest: list[Tensor] = []
        parts = (torch.split(logits_SV, _POSITIONS_AT_ONCE), torch.split(targets_S, _POSITIONS_AT_ONCE))
        for logits_PV, targets_P in zip(*parts, strict=True):
            logprobs_PV = torch.log_softmax(logits_PV.float(), dim=-1)
            values.append(logprobs_PV.gather(1, targets_P.unsqueeze(1)).squeeze(1))
            likeliest.append(logprobs_PV.argmax(dim=-1) == targets_P)
        return torch.cat(values).tolist(), torch.cat(likeliest).tolist()
