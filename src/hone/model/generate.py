"""Generation: batches of prompts of similar length, a key-value cache, rows leaving as they end.

A row's answer depends on its own prompt and on (seed, its index) alone, not on which rows stood beside it: each row
draws from a generator of its own. (Sums in bfloat16 may still differ in the last bit with the batch's shape.)

What all prompts of a batch begin with alike, a system message or an instruction, is computed once and its keys and
values are copied to the rows, where every layer's cache keeps all positions (not with sliding windows: padding then
stands between the opening and the rest, and a window counts positions of the cache). A prompt that stands in a batch
several times, to be answered by several samples, is read once, and its keys and values are copied to each.

Shape legend: B rows of a batch, P distinct prompts among them, L length of the longest prompt, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer

from hone.model.folded_attention import folded_attention_enabled
from hone.model.sampling import SamplingSettings, choose_tokens, row_generator

__all__ = [
    "SHORTEST_OPENING_TOKENS",
    "Generation",
    "SamplingSettings",
    "generate",
    "rows_together",
    "shared_opening",
    "stream",
]

SHORTEST_OPENING_TOKENS = 16
"""A shorter opening is not worth a pass of the model of its own."""
_USUAL_ROWS, _MOST_ROWS = 32, 64
# Rows whose keys and values are in the way of nothing else in memory.
_SHORT_ROWS_TOKENS = 10_240


@dataclass(frozen=True, slots=True)
class Generation:
    """One answer.

    Args:
        ids: the tokens, without the stop token.
        stopped: whether the model ended the answer by itself.
        stop_id: the stop token that ended it; None where none did, or nobody noted it.
        logprobs: of each token that was drawn, the stop token among them, in nats and at temperature 1, as the decoder
            had it; empty where the likeliest was taken.
    """

    ids: tuple[int, ...]
    stopped: bool
    stop_id: int | None = field(default=None, compare=False)
    logprobs: tuple[float, ...] = field(default=(), compare=False)


def generate(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    *,
    stop_ids: Sequence[int],
    settings: SamplingSettings,
    seeds: Sequence[int] | None = None,
    batch_size: int | None = None,
    has_ended: Callable[[Sequence[int]], bool] = lambda written: False,
    on_done: Callable[[int], None] = lambda count: None,
) -> list[Generation]:
    """Answer every prompt.

    Args:
        model: in evaluation mode.
        prompts: token ids, none empty; one that stands there several times is answered as often.
        stop_ids: tokens that end an answer.
        settings: how tokens are chosen.
        seeds: of each prompt's draws, in place of (the settings' seed, its index).
        batch_size: rows decoded together; see :func:`rows_together` unless given.
        has_ended: asked after each token with what a row has written so far; True ends the answer, as a stop token
            does, and the last token stays.
        on_done: called with the number of prompts answered so far, whenever one ends.

    Returns:
        One answer a prompt, in the order of ``prompts``.
    """
    order = sorted(range(len(prompts)), key=lambda index: (-len(prompts[index]), index))
    answers: dict[int, Generation] = {}
    with folded_attention_enabled(model):
        while order:
            size = batch_size or rows_together(len(prompts[order[0]]) + settings.max_new_tokens, len(order))
            batch, order = order[:size], order[size:]
            drawn = [
                row_generator(settings.seed, index) if seeds is None else row_generator(seeds[index], 0)
                for index in batch
            ]
            for index, answer in _decode_batch(model, prompts, batch, stop_ids, settings, drawn, has_ended):
                answers[index] = answer
                on_done(len(answers))
    return [answers[index] for index in range(len(prompts))]


def rows_together(longest: int, waiting: int) -> int:
    """Rows of the next batch: 32, or 64 while they are short; with more rows the weights are read less often a token.

    Up to half as many more that are the last ones join them: by themselves they would need as many passes again.

    Args:
        longest: tokens of the longest row, prompt and answer.
        waiting: rows that are not answered yet.
    """
    usual = _MOST_ROWS if _MOST_ROWS * longest <= _SHORT_ROWS_TOKENS else _USUAL_ROWS
    return waiting if waiting <= usual + usual // 2 else usual


def stream(
    model: PreTrainedModel, prompt: Sequence[int], *, stop_ids: Sequence[int], settings: SamplingSettings
) -> Iterator[int]:
    """Token ids of one answer as they are chosen, without the stop token; the same as :func:`generate` gives."""
    decoder = _Decoder(model, [prompt], [0], settings, [row_generator(settings.seed, 0)])
    for _ in range(settings.max_new_tokens):
        token = decoder.next_tokens()[0]
        if token in stop_ids:
            return
        yield token


def shared_opening(prompts: Sequence[Sequence[int]]) -> int:
    """How many tokens all prompts begin with alike; each prompt keeps at least one token of its own."""
    shortest = min(map(len, prompts), default=0)
    first = prompts[0] if prompts else ()
    alike = next((at for at in range(shortest) if any(prompt[at] != first[at] for prompt in prompts)), max(0, shortest))
    return max(0, min(alike, shortest - 1))


def _decode_batch(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    indices: Sequence[int],
    stop_ids: Sequence[int],
    settings: SamplingSettings,
    generators: list[torch.Generator],
    has_ended: Callable[[Sequence[int]], bool],
) -> Iterator[tuple[int, Generation]]:
    decoder = _Decoder(model, [prompts[index] for index in indices], list(indices), settings, generators)
    written: dict[int, list[int]] = {index: [] for index in indices}
    logprobs: dict[int, list[float]] = {index: [] for index in indices}
    stops = frozenset(stop_ids)
    for _ in range(settings.max_new_tokens):
        living = []
        for place, token in enumerate(decoder.next_tokens()):
            index = decoder.indices[place]
            logprobs[index] += decoder.logprobs[place : place + 1]
            if token not in stops:
                written[index].append(token)
                if not has_ended(written[index]):
                    living.append(place)
                    continue
            stop_id = token if token in stops else None
            yield index, Generation(tuple(written[index]), True, stop_id, tuple(logprobs[index]))
        if not living:
            return
        decoder.keep(living)
    for index in decoder.indices:
        yield index, Generation(tuple(written[index]), False, logprobs=tuple(logprobs[index]))


class _Decoder:
    """Left-padded rows and their cache; one call of ``next_tokens`` is one forward pass.

    Left padding lets every row write its next token at the same place of the cache; masked positions and per-row
    position ids make it exact.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        prompts: Sequence[Sequence[int]],
        indices: list[int],
        settings: SamplingSettings,
        generators: list[torch.Generator],
    ) -> None:
        self.model = model
        self.indices = indices
        self.settings = settings
        self.generators = generators
        self.logprobs: list[float] = []
        device = model.device
        self.cache = DynamicCache(config=model.config)
        # prompts that stand there several times are read once: the row of each prompt among the distinct ones
        places = {tuple(prompt): place for place, prompt in enumerate(dict.fromkeys(map(tuple, prompts)))}
        alike = len(places) < len(prompts)
        self.copies_B = torch.tensor([places[tuple(prompt)] for prompt in prompts], device=device) if alike else None
        prompts = list(places) if alike else prompts
        opening = self._compute_opening(prompts)
        longest = max(len(prompt) for prompt in prompts) - opening
        padding = [longest + opening - len(prompt) for prompt in prompts]
        self.input_BL = torch.tensor(
            [[0] * pad + list(prompt[opening:]) for pad, prompt in zip(padding, prompts, strict=True)], device=device
        )
        self.mask_BL = torch.tensor(
            [[1] * opening + [0] * pad + [1] * (longest - pad) for pad in padding], device=device
        )

    @torch.inference_mode()
    def _compute_opening(self, prompts: Sequence[Sequence[int]]) -> int:
        """Fill the cache with what all rows begin with; gives its length in tokens, 0 where nothing was computed."""
        opening = shared_opening(prompts) if len(prompts) > 1 else 0
        keeps_all = bool(self.cache.layers) and all(type(layer) is DynamicLayer for layer in self.cache.layers)
        if opening < SHORTEST_OPENING_TOKENS or not keeps_all:
            return 0
        ids_1L = torch.tensor([list(prompts[0][:opening])], device=self.model.device)
        self.model(input_ids=ids_1L, past_key_values=self.cache, use_cache=True, logits_to_keep=1)
        self.cache.batch_repeat_interleave(len(prompts))
        return opening

    @torch.inference_mode()
    def next_tokens(self) -> list[int]:
        """Run the tokens not yet seen, and choose the next one of each row."""
        positions = (self.mask_BL.cumsum(-1) - 1).clamp(min=0)[:, -self.input_BL.shape[1] :]
        output = self.model(
            input_ids=self.input_BL,
            attention_mask=self.mask_BL,
            position_ids=positions,
            past_key_values=self.cache,
            use_cache=True,
            logits_to_keep=1,
        )
        logits_BV = output.logits[:, -1].float()
        if self.copies_B is not None:
            logits_BV, self.mask_BL = logits_BV[self.copies_B], self.mask_BL[self.copies_B]
            self.cache.batch_select_indices(self.copies_B)
            self.copies_B = None
        chosen = choose_tokens(
            logits_BV,
            temperature=self.settings.temperature,
            top_p=self.settings.top_p,
            generators=self.generators,
        )
        self.input_BL = chosen.unsqueeze(1)
        if self.settings.temperature > 0:
            drawn_B = logits_BV.gather(1, self.input_BL).squeeze(1)
            self.logprobs = (drawn_B - logits_BV.logsumexp(dim=-1)).tolist()
        self.mask_BL = torch.cat([self.mask_BL, torch.ones_like(self.input_BL)], dim=1)
        tokens: list[int] = chosen.tolist()
        return tokens

    def keep(self, places: list[int]) -> None:
        """Go on with these rows alone."""
        if len(places) == len(self.indices):
            return
        index = torch.tensor(places, device=self.input_BL.device)
        self.input_BL, self.mask_BL = self.input_BL[index], self.mask_BL[index]
        self.cache.batch_select_indices(index)
        self.indices = [self.indices[place] for place in places]
        self.generators = [self.generators[place] for place in places]
