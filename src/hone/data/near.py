"""Which prompts are equal, or so nearly equal that knowing one is knowing the other.

What is compared is the text of the user's turns. Where those hardly tell rows apart (the document stands in the
system prompt, say), whole prompts are compared. Case, white space and the punctuation of prose do not count; operators,
symbols and numbers do. Two prompts are near copies if

* nothing else differs, or
* one word of at least four letters differs by one typing error (a letter more, less, exchanged or swapped), or
* the Jaccard similarity of their word trigrams, as multisets, is at least :data:`NEAR_THRESHOLD`; in short prompts
  all numbers must agree too, since there another number is another question.

Trigrams that stand in more than half of all distinct prompts are template and left out of the third rule. Candidates
come from an inverted index over each prompt's rarest trigrams (prefix filtering), which misses no pair, and every
candidate is verified; no probability is involved.

Why trigrams at 0.85: prompts that differ in one field ("food[Chinese]", "food[French]") are different tasks. A changed
word changes three trigrams, so it takes about 35 words for one to be a near copy; 630 distinct inputs of the E2E data
set give no near pair but such as differ by case or punctuation (measured in tests/data/test_near.py).

Source: Chaudhuri, Ganti, Kaushik: A primitive operator for similarity joins in data cleaning (ICDE 2006), for prefix
filtering; Lee et al.: Deduplicating training data makes language models better (ACL 2022), for why it matters.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations

from hone.types import Example, Message

__all__ = ["NEAR_THRESHOLD", "NearGraph", "comparison_texts", "near_graph", "normalised"]

NEAR_THRESHOLD = 0.85
_SHINGLE_WORDS = 3
_TEMPLATE_SHARE = 0.5
_TEMPLATE_MIN_PROMPTS = 10
_NUMBERS_COUNT_BELOW_WORDS = 50
_TYPO_MIN_LETTERS = 4
_TYPO_MIN_OTHER_WORDS = 3
_TYPO_MAX_WORDS = 32
# More prompts than this that differ in the same place only are fillers of a slot ("Spell the word ..."), not typos.
_SLOT_FILLERS = 20

# Numbers, a minus before a digit, runs of letters, single letters of scripts written without spaces, other symbols.
_TOKEN = re.compile(
    r"\d+(?:[.,:]\d+)*"
    r"|(?<![^\W\d_])[-−](?=\s?\d)"
    r"|[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff]"
    r"|[^\W\d_\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff]+"
    r"|[^\w\s.,;:!?'\"()\[\]{}…“”„‘’‚«»‹›¿¡–—‐‑\-`·•]"
)


def normalised(text: str) -> str:
    """A text with what does not count taken out: equal results are equal prompts.

    Words are joined without spaces, so that "top-up", "top up" and "topup" agree; two numbers stay apart.
    """
    return _joined(_tokens(text))


def comparison_texts(examples: Sequence[Example]) -> list[str]:
    """For each example the text that near-equality is judged by, given all rows that are to be compared."""
    asked = [_text_of(example, users_only=True) for example in examples]
    whole = [_text_of(example, users_only=False) for example in examples]
    return whole if 2 * len(set(asked)) < len(set(whole)) else asked


@dataclass(frozen=True, slots=True)
class NearGraph:
    """Near-equality among texts.

    Args:
        representative: per text, the index of the first text that is equal to it once normalised.
        near: for a representative, the representatives near it, with the similarity (below 1).
    """

    representative: list[int]
    near: dict[int, dict[int, float]]

    def groups(self) -> list[list[int]]:
        """The texts in groups closed under near-equality: no text is near one of another group."""
        roots = dict.fromkeys(self.representative)
        members: dict[int, list[int]] = defaultdict(list)
        for index, representative in enumerate(self.representative):
            members[representative].append(index)
        groups: list[list[int]] = []
        seen: set[int] = set()
        for root in roots:
            if root in seen:
                continue
            seen.add(root)
            component = [root]
            for current in component:  # grows while it is walked
                fresh = [other for other in self.near.get(current, ()) if other not in seen]
                seen.update(fresh)
                component += fresh
            groups.append(sorted(index for one in component for index in members[one]))
        return groups


def near_graph(texts: Sequence[str]) -> NearGraph:
    """Find all pairs of near copies.

    Args:
        texts: as :func:`comparison_texts` gives them.

    Returns:
        The graph. It depends on the set of texts, not on their order.
    """
    first_of: dict[str, int] = {}
    prompts: list[_Prompt] = []
    representative: list[int] = []
    for index, text in enumerate(texts):
        tokens = _tokens(text)
        first = first_of.setdefault(_joined(tokens), index)
        if first == index:
            prompts.append(_Prompt(index, tokens))
        representative.append(first)
    near: dict[int, dict[int, float]] = defaultdict(dict)
    for one, other, similarity in (*_shingle_pairs(prompts), *_typo_pairs(prompts)):
        best = max(similarity, near[one.index].get(other.index, 0.0))
        near[one.index][other.index] = near[other.index][one.index] = best
    return NearGraph(representative, dict(near))


@dataclass(frozen=True)
class _Prompt:
    index: int
    tokens: tuple[str, ...]

    @cached_property
    def numbers(self) -> Counter[str]:
        return Counter(token for token in self.tokens if token[0].isdigit())

    @cached_property
    def shingles(self) -> frozenset[Hashable]:
        """Word trigrams, those across both ends included; the nth occurrence of one is an element of its own."""
        edge = ("",) * (_SHINGLE_WORDS - 1)
        padded = (*edge, *self.tokens, *edge)
        seen: Counter[tuple[str, ...]] = Counter()
        elements: list[Hashable] = []
        for start in range(len(padded) - _SHINGLE_WORDS + 1):
            shingle = padded[start : start + _SHINGLE_WORDS]
            seen[shingle] += 1
            elements.append((shingle, seen[shingle]))
        return frozenset(elements)


_Pair = tuple[_Prompt, _Prompt, float]


def _text_of(example: Example, *, users_only: bool) -> str:
    def joined(messages: Sequence[Message]) -> str:
        return "\n".join(message.content for message in messages)

    users = joined([message for message in example.prompt if message.role == "user"])
    return users if users_only and users.strip() else joined(example.prompt)


def _tokens(text: str) -> tuple[str, ...]:
    plain = unicodedata.normalize("NFKC", text).casefold()
    # A text of punctuation alone is still a text of its own.
    return tuple(_TOKEN.findall(plain)) or (plain.strip(),)


def _joined(tokens: Sequence[str]) -> str:
    parts: list[str] = []
    for token in tokens:
        if parts and parts[-1][-1:].isdigit() and token[:1].isdigit():
            parts.append(" ")
        parts.append(token)
    return "".join(parts)


def _common(counts: Counter[Hashable], num_prompts: int) -> frozenset[Hashable]:
    """What stands in so many prompts that it tells nothing about any of them."""
    if num_prompts < _TEMPLATE_MIN_PROMPTS:
        return frozenset()
    return frozenset(element for element, count in counts.items() if count > _TEMPLATE_SHARE * num_prompts)


def _shingle_pairs(prompts: Sequence[_Prompt]) -> Iterator[_Pair]:
    """The pairs whose trigrams, template aside, are alike enough."""
    counts: Counter[Hashable] = Counter()
    for prompt in prompts:
        counts.update(prompt.shingles)
    template = _common(counts, len(prompts))
    # Ranked from rare to frequent, so that the index holds short lists. Any fixed order finds the same pairs.
    rank = {element: place for place, (element, _) in enumerate(reversed(counts.most_common()))}
    contents = {
        prompt.index: sorted(rank[element] for element in prompt.shingles - template) for prompt in prompts
    }
    sets = {index: frozenset(content) for index, content in contents.items()}
    index_of: dict[int, list[_Prompt]] = defaultdict(list)
    for prompt in sorted(prompts, key=lambda prompt: len(contents[prompt.index])):
        content = contents[prompt.index]
        # Two sets of Jaccard >= t share an element among the first (1 - t) n + 1 of each in a common order.
        prefix = content[: len(content) - _at_least(NEAR_THRESHOLD * len(content)) + 1]
        smallest = _at_least(NEAR_THRESHOLD * len(content))
        candidates = {
            other.index: other
            for element in prefix
            for other in index_of[element]
            if len(contents[other.index]) >= smallest
        }
        for other in candidates.values():
            similarity = _jaccard(sets[prompt.index], sets[other.index])
            if similarity >= NEAR_THRESHOLD and _numbers_agree(prompt, other):
                yield prompt, other, min(similarity, 0.999)
        for element in prefix:
            index_of[element].append(prompt)


def _at_least(value: float) -> int:
    return -int(-value // 1)


def _jaccard(one: frozenset[int], other: frozenset[int]) -> float:
    shared = len(one & other)
    return shared / (len(one) + len(other) - shared)


def _numbers_agree(one: _Prompt, other: _Prompt) -> bool:
    if min(len(one.tokens), len(other.tokens)) >= _NUMBERS_COUNT_BELOW_WORDS:
        return True
    return one.numbers == other.numbers


def _typo_pairs(prompts: Sequence[_Prompt]) -> Iterator[_Pair]:
    """The pairs that agree in all words but one, which differs by a typing error."""
    counts: Counter[Hashable] = Counter()
    for prompt in prompts:
        counts.update(set(prompt.tokens))
    template = _common(counts, len(prompts))
    # All that agree but in one place have the same key for that place; a sum makes each key cheap to take out.
    slots: dict[tuple[int, int, int], list[_Prompt]] = defaultdict(list)
    for prompt in prompts:
        hashes = [hash((place, token)) for place, token in enumerate(prompt.tokens)]
        others = sum(token not in template for token in prompt.tokens) - 1
        if others < _TYPO_MIN_OTHER_WORDS:
            continue
        for place, token in enumerate(prompt.tokens):
            if len(token) >= _TYPO_MIN_LETTERS - 1 and token.isalpha():
                slots[len(hashes), place, sum(hashes) - hashes[place]].append(prompt)
    for (_, place, _), same in slots.items():
        if 1 < len(same) <= _SLOT_FILLERS:
            for one, other in combinations(same, 2):
                if _is_typo(one.tokens[place], other.tokens[place]) and _agree_but_at(one, other, place):
                    yield one, other, 1 - 1 / max(len(_joined(one.tokens)), len(_joined(other.tokens)))


def _agree_but_at(one: _Prompt, other: _Prompt, place: int) -> bool:
    return one.tokens[:place] == other.tokens[:place] and one.tokens[place + 1 :] == other.tokens[place + 1 :]


def _is_typo(one: str, other: str) -> bool:
    """Whether one letter inserted, left out, exchanged, or swapped with its neighbour makes one word of the other."""
    short, long = sorted((one, other), key=len)
    if len(long) < _TYPO_MIN_LETTERS or len(long) - len(short) > 1:
        return False
    start = next((at for at, (a, b) in enumerate(zip(short, long, strict=False)) if a != b), len(short))
    if len(short) < len(long):
        return short[start:] == long[start + 1 :]
    if short[start + 1 :] == long[start + 1 :]:
        return True
    swapped = short[start + 1 : start + 2] + short[start : start + 1]
    return swapped == long[start : start + 2] and short[start + 2 :] == long[start + 2 :]
