"""How likely the tokens of a prompt are, each after those before it.

Shape legend: S tokens that are scored, C of a chunk, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["TokenScore", "token_scores"]

# Log-probabilities of one chunk: 2^23 values are 32 MB.
_CHUNK_VALUES = 1 << 23


@dataclass(frozen=True, slots=True)
class TokenScore:
    """How likely a token was.

    Args:
        logprob: in nats.
        top: the likeliest tokens of its place with their log-probabilities, the likeliest first.
    """

    logprob: float
    top: tuple[tuple[int, float], ...]


def token_scores(logits_SV: Tensor, targets: Sequence[int], count: int) -> list[TokenScore]:
    """Score the tokens that follow, in float32 and in chunks.

    Args:
        logits_SV: of the places before them, in the model's dtype.
        targets: the S tokens.
        count: likeliest tokens to give with each.
    """
    targets_S = torch.tensor(list(targets), dtype=torch.long, device=logits_SV.device)
    rows = max(1, _CHUNK_VALUES // logits_SV.shape[1])
    scores: list[TokenScore] = []
    for start in range(0, len(targets), rows):
        chunk = slice(start, start + rows)
        logprobs_CV = torch.log_softmax(logits_SV[chunk], dim=-1, dtype=torch.float32)
        found = logprobs_CV.gather(1, targets_S[chunk].unsqueeze(1)).squeeze(1).tolist()
        best = logprobs_CV.topk(count)
        pairs = zip(best.indices.tolist(), best.values.tolist(), strict=True)
        tops = (tuple(zip(tokens, values, strict=True)) for tokens, values in pairs)
        scores += [TokenScore(logprob, top) for logprob, top in zip(found, tops, strict=True)]
    return scores
