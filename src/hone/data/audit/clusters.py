"""Groups of prompts that share telling words, and prompts that share none with any other.

Telling are words of three letters or more (of scripts without spaces each letter) that are no function words, and that
not more than half the prompts have. A prompt is the set of those that at least 1 in 100 prompts has. The prompt that
most others are like begins a group; it takes in all that are like the mean of its members, until that changes nothing;
then the same among the rest. No number of groups is given beforehand, and prompts like no others are in none.

Source: Dhillon, Modha: Concept decompositions for large sparse text data using clustering (Machine Learning 2001), for
means of such vectors.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hone.data.audit.languages import is_function_word

__all__ = ["PromptGroup", "odd_prompts", "prompt_groups"]

_WORD = re.compile(r"[^\W\d_\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff]{3,}|[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff]")
_MOST_WORDS = 2048
_TEMPLATE_SHARE = 0.5
_LEAST_WORD_SHARE = 0.01
_ALIKE = 0.35
_ALIKE_TO_MEAN = 0.35
_MOST_ROUNDS = 10
_LEAST_PROMPTS = 20
_WORDS_TOLD = 3
# Odd is only what stands out: nearly all others must share a word with one another.
_SHARING_SHARE = 0.95
_SHARED_WORDS = 0.9
_ODD_LEAST_WORDS = 3

_Mask = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class PromptGroup:
    """Prompts that are like one another.

    Args:
        centre: index of the prompt nearest to the mean of all.
        members: indices, the centre's among them.
        words: those that mark the group: most frequent in it, compared with the other prompts.
    """

    centre: int
    members: tuple[int, ...]
    words: tuple[str, ...]


def prompt_groups(prompts: Sequence[str], *, least_share: float, most: int) -> list[PromptGroup]:
    """The largest groups, the largest first.

    Args:
        prompts: at most a few thousand, since each is compared with each.
        least_share: share of all prompts that a group must have.
        most: how many groups.
    """
    count = len(prompts)
    if count < _LEAST_PROMPTS:
        return []
    words, counts = _telling_words(prompts)
    vectors = _vectors(words, counts)
    alike = vectors @ vectors.T >= _ALIKE
    left = np.ones(count, dtype=bool)
    groups: list[PromptGroup] = []
    # small groups are taken out as well, so that they do not hide the larger ones behind them
    while left.sum() >= max(2, least_share * count):
        neighbours = np.where(left, (alike & left).sum(axis=1), 0)
        first = int(neighbours.argmax())
        if neighbours[first] < 2:
            break
        members, centre = _settled(vectors, alike[first] & left, left)
        left &= ~members
        left[first] = False
        if members.sum() >= least_share * count:
            inside = np.flatnonzero(members).tolist()
            groups.append(PromptGroup(centre, tuple(inside), _marking_words(words, counts, inside)))
    return sorted(groups, key=lambda group: (-len(group.members), group.centre))[:most]


def odd_prompts(prompts: Sequence[str]) -> list[tuple[int, tuple[str, ...]]]:
    """Prompts of three or more telling words that stand in no other, where prompts share nearly all their words.

    Args:
        prompts: any number.

    Returns:
        (index, words) of each. None where half the prompts have a tenth or more of their telling words alone: there it
        is nothing odd.
    """
    if len(prompts) < _LEAST_PROMPTS:
        return []
    words, counts = _telling_words(prompts)
    sharing = [any(counts[word] > 1 for word in some) for some in words]
    shared = [sum(counts[word] > 1 for word in some) / len(some) for some in words if some]
    if sum(sharing) < _SHARING_SHARE * len(prompts) or np.median(shared) <= _SHARED_WORDS:
        return []
    return [
        (index, tuple(sorted(some)))
        for index, (some, shares) in enumerate(zip(words, sharing, strict=True))
        if not shares and len(some) >= _ODD_LEAST_WORDS
    ]


def _telling_words(prompts: Sequence[str]) -> tuple[list[frozenset[str]], Counter[str]]:
    """The telling words of each prompt, and how many prompts have each."""
    every = [frozenset(_WORD.findall(prompt.casefold())) for prompt in prompts]
    counts = Counter(word for some in every for word in some if not is_function_word(word))
    most = _TEMPLATE_SHARE * len(prompts)
    telling = {word: count for word, count in counts.items() if count <= most}
    return [frozenset(word for word in some if word in telling) for some in every], Counter(telling)


def _vectors(words: Sequence[frozenset[str]], counts: Counter[str]) -> NDArray[np.float32]:
    """A row of length 1 for each prompt that has a frequent telling word; zeros for the others."""
    least = max(2, _LEAST_WORD_SHARE * len(words))
    ordered = sorted(counts.items(), key=lambda one: (-one[1], one[0]))
    column = {word: place for place, (word, count) in enumerate(ordered[:_MOST_WORDS]) if count >= least}
    vectors = np.zeros((len(words), max(len(column), 1)), dtype=np.float32)
    for row, some in enumerate(words):
        vectors[row, [column[word] for word in some if word in column]] = 1.0
    lengths = np.sqrt(vectors.sum(axis=1, keepdims=True))
    vectors /= np.maximum(lengths, 1.0)
    return vectors


def _settled(vectors: NDArray[np.float32], members: _Mask, left: _Mask) -> tuple[_Mask, int]:
    """The prompts like their own mean, and the one nearest to it, beginning with ``members``."""
    likeness = np.zeros(len(vectors), dtype=np.float32)
    for _ in range(_MOST_ROUNDS):
        mean = vectors[members].sum(axis=0)
        likeness = vectors @ (mean / max(float(np.linalg.norm(mean)), 1e-9))
        now = left & (likeness >= _ALIKE_TO_MEAN)
        if not now.any() or (now == members).all():
            break
        members = now
    return members, int(np.where(members, likeness, -1.0).argmax())


def _marking_words(words: Sequence[frozenset[str]], counts: Counter[str], members: Sequence[int]) -> tuple[str, ...]:
    inside = Counter(word for index in members for word in words[index])
    others = max(len(words) - len(members), 1)

    def mark(word: str) -> float:
        return inside[word] / len(members) - (counts[word] - inside[word]) / others

    return tuple(sorted(inside, key=lambda word: (-mark(word), word))[:_WORDS_TOLD])
