"""How the next token is chosen from logits: the one sampler of ``hone generate``, of evaluation and of the server.

Shape legend: B rows of a batch, V vocabulary.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

__all__ = ["SamplingSettings", "TokenBias", "choose_tokens", "row_generator"]


@dataclass(frozen=True, slots=True)
class SamplingSettings:
    """How the next token is chosen.

    Args:
        max_new_tokens: upper bound on the tokens of an answer.
        temperature: 0 takes the most likely token.
        top_p: the smallest set of tokens with at least this probability is drawn from (Holtzman et al. 2020).
        seed: of the draws; ignored at temperature 0.
    """

    max_new_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0


@dataclass(frozen=True, slots=True)
class TokenBias:
    """What is added to logits before a token is chosen; the formula is that of the OpenAI API reference.

    Args:
        by_token: added to the logits of single tokens.
        presence_penalty: taken from the logits of every token that the answer has already.
        frequency_penalty: taken from them once for each time that the answer has the token.
    """

    by_token: dict[int, float] = field(default_factory=dict)
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0

    def __bool__(self) -> bool:
        return bool(self.by_token or self.presence_penalty or self.frequency_penalty)

    def applied(self, logits_V: Tensor, written: Sequence[int]) -> Tensor:
        """A biased copy of ``logits_V``.

        Args:
            logits_V: of one row.
            written: the tokens of the answer so far.
        """
        change = dict(self.by_token)
        if self.presence_penalty or self.frequency_penalty:
            for token, count in Counter(written).items():
                change[token] = change.get(token, 0.0) - self.presence_penalty - self.frequency_penalty * count
        if not change:
            return logits_V
        index = torch.tensor(list(change), device=logits_V.device)
        added = torch.tensor(list(change.values()), dtype=logits_V.dtype, device=logits_V.device)
        return logits_V.index_add(0, index, added)


def row_generator(seed: int, index: int) -> torch.Generator:
    """The draws of one row: they depend on (seed, index) and on nothing else.

    Args:
        seed: of the request.
        index: of the row among those of the same request.
    """
    return torch.Generator().manual_seed(seed * 1_000_003 + index)


def choose_tokens(
    logits_BV: Tensor, *, temperature: float, top_p: float, generators: Sequence[torch.Generator]
) -> Tensor:
    """The next token [B] of each row.

    Args:
        logits_BV: float32.
        temperature: 0 takes the most likely token.
        top_p: see :class:`SamplingSettings`.
        generators: one a row; drawn from once each where the temperature is over 0.
    """
    if temperature == 0:
        return logits_BV.argmax(dim=-1)
    probabilities = torch.softmax(logits_BV / temperature, dim=-1).cpu()
    if top_p >= 1:
        return torch.stack(
            [torch.multinomial(row, 1, generator=one) for row, one in zip(probabilities, generators, strict=True)]
        ).squeeze(1).to(logits_BV.device)  # fmt: skip
    ordered, tokens = probabilities.sort(dim=-1, descending=True)
    # a token stays while the probability of those before it is under top_p; the first always stays
    ordered = ordered.masked_fill(ordered.cumsum(-1) - ordered >= top_p, 0.0)
    drawn = [torch.multinomial(row, 1, generator=generator) for row, generator in zip(ordered, generators, strict=True)]
    return tokens.gather(1, torch.stack(drawn)).squeeze(1).to(logits_BV.device)
