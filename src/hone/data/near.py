"""Which prompts are equal, or so nearly equal that knowing one is knowing the other.

What is compared is the text of the user's turns. Where those hardly tell rows apart (the document stands in the
system prompt, say), whole prompts are compared. Case, white space and the punctuation of prose do not count; operators,
symbols and numbers do. Two prompts are near copies if

* nothing else differs, or
* one word of at least four letters differs by one typing error (a letter more, less, exchanged or swapped), and the
  prompts that differ in that place are mostly such (else it is a slot that is filled: "house", "mouse", "apple"), or
* the Jaccard similarity of their word trigrams, as multisets, is at least :data:`NEAR_THRESHOLD`; in short prompts
  all numbers must agree too, since there another number is another question.

Trigrams that stand in more than half of all distinct prompts are template and left out of the third rule. Candidates
come from an inverted index over each prompt's rarest trigrams (prefix filtering), which misses no pair, and every
candidate is verified; no probability is involved.

Why trigrams at 0.85: prompts that differ in one field ("food[Chinese]", "food[French]") are different tasks. A changed
word changes three trigrams, so it takes about 35 words for one to be a near copy; 1,060 distinct inputs of the E2E data
set give no near pair (3 at 0.80, 360 at 0.75), and the ten ready tasks give none; of 13,083 questions of Banking77 30
pairs are near, each a true copy (tests/data/test_near.py).

Source: Chaudhuri, Ganti, Kaushik: A primitive operator for similarity joins in data cleaning (ICDE 2006), for prefix
filtering; Lee et al.: Deduplicating training data makes language models better (ACL 2022), for why it matters.
"""

from __future__ import annotations

from array import array
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from hone.data.near_rules import (
    BELOW_EQUAL,
    NEAR_THRESHOLD,
    SLOT_FILLERS,
    Prompt,
    can_hold_typo,
    joined,
    numbers_agree,
    template_count,
    typos_in_slot,
    words_of,
)
from hone.types import Example, Message

__all__ = ["NEAR_THRESHOLD", "NearGraph", "comparison_texts", "near_graph", "normalised"]

_SHINGLE_WORDS = 3
_SIGNATURE_BITS = 512


def normalised(text: str) -> str:
    """A text with what does not count taken out: equal results are equal prompts.

    Words are joined without spaces, so that "top-up", "top up" and "topup" agree; two numbers stay apart.
    """
    return joined(words_of(text))


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
    tokens_of: dict[int, tuple[str, ...]] = {}
    representative: list[int] = []
    for index, text in enumerate(texts):
        tokens = words_of(text)
        first = first_of.setdefault(joined(tokens), index)
        # Equal texts may have different words ("top up", "topup"); the least ones, whatever the order of the texts.
        tokens_of[first] = min(tokens, tokens_of.get(first, tokens))
        representative.append(first)
    prompts = [Prompt(index, tokens) for index, tokens in tokens_of.items()]
    near: dict[int, dict[int, float]] = defaultdict(dict)
    for one, other, similarity in (*_shingle_pairs(prompts), *_typo_pairs(prompts)):
        best = max(similarity, near[one.index].get(other.index, 0.0))
        near[one.index][other.index] = near[other.index][one.index] = best
    return NearGraph(representative, dict(near))


_Pair = tuple[Prompt, Prompt, float]


def _text_of(example: Example, *, users_only: bool) -> str:
    def joined(messages: Sequence[Message]) -> str:
        return "\n".join(message.content for message in messages)

    users = joined([message for message in example.prompt if message.role == "user"])
    return users if users_only and users.strip() else joined(example.prompt)


def _shingles(tokens: Sequence[str]) -> Iterator[int]:
    """Hashes of the word trigrams, those across both ends included; the nth occurrence of one is one of its own.

    They are 64-bit: among a million different trigrams two are taken for one in 3 of 100 million data sets.
    """
    edge = ("",) * (_SHINGLE_WORDS - 1)
    padded = (*edge, *tokens, *edge)
    seen: Counter[tuple[str, ...]] = Counter()
    for start in range(len(padded) - _SHINGLE_WORDS + 1):
        shingle = padded[start : start + _SHINGLE_WORDS]
        seen[shingle] += 1
        yield hash((shingle, seen[shingle]))


def _contents(prompts: Sequence[Prompt]) -> list[array[int]]:
    """The trigrams of each prompt, template aside, as ranks from rare to frequent, in ascending order."""
    number_of: dict[int, int] = {}
    numbers = [array("Q", (number_of.setdefault(one, len(number_of)) for one in _shingles(p.tokens))) for p in prompts]
    counts = [0] * len(number_of)
    del number_of
    for shingles in numbers:
        for number in shingles:
            counts[number] += 1
    rank = [0] * len(counts)
    for place, number in enumerate(sorted(range(len(counts)), key=counts.__getitem__)):
        rank[number] = place
    most = template_count(len(prompts))
    return [array("Q", sorted(rank[number] for number in shingles if counts[number] <= most)) for shingles in numbers]


def _shingle_pairs(prompts: Sequence[Prompt]) -> Iterator[_Pair]:
    """The pairs whose trigrams, template aside, are alike enough."""
    contents = _contents(prompts)
    signatures = [_signature(content) for content in contents]
    holders: dict[int, list[int]] = defaultdict(list)
    for one in sorted(range(len(prompts)), key=lambda place: len(contents[place])):
        content = contents[one]
        smallest = _at_least(NEAR_THRESHOLD * len(content))
        # Sets of Jaccard >= t share one of the first n - ceil(t n) + 1 elements of each, in any common order. From
        # rare to frequent, the lists of holders are short.
        prefix = content[: len(content) - smallest + 1]
        candidates = {other for rank in prefix for other in holders[rank] if len(contents[other]) >= smallest}
        for other in candidates:
            # A bit that only one of them has is an element that only it has: most candidates end here, cheaply.
            shared_at_least = _at_least(NEAR_THRESHOLD / (1 + NEAR_THRESHOLD) * (len(content) + len(contents[other])))
            if (signatures[one] & ~signatures[other]).bit_count() > len(content) - shared_at_least:
                continue
            similarity = _jaccard(set(content), set(contents[other]))
            if similarity >= NEAR_THRESHOLD and numbers_agree(prompts[one].tokens, prompts[other].tokens):
                yield prompts[one], prompts[other], min(similarity, BELOW_EQUAL)
        for rank in prefix:
            holders[rank].append(one)


def _signature(content: Sequence[int]) -> int:
    bits = 0
    for rank in content:
        bits |= 1 << rank % _SIGNATURE_BITS
    return bits


def _at_least(value: float) -> int:
    return -int(-value // 1)


def _jaccard(one: set[int], other: set[int]) -> float:
    shared = len(one & other)
    return shared / (len(one) + len(other) - shared)


def _typo_pairs(prompts: Sequence[Prompt]) -> Iterator[_Pair]:
    """The pairs that agree in all words but one, which differs by a typing error."""
    # All that agree but in one place have the same key for that place; a sum makes each key cheap to take out.
    slots: dict[tuple[int, int, int], list[Prompt]] = defaultdict(list)
    for prompt in prompts:
        hashes = [hash((place, token)) for place, token in enumerate(prompt.tokens)]
        total = sum(hashes)
        for place, token in enumerate(prompt.tokens):
            if can_hold_typo(token):
                slots[len(hashes), place, total - hashes[place]].append(prompt)
    for (_, place, _), same in slots.items():
        if 1 < len(same) <= SLOT_FILLERS:
            for one, other in typos_in_slot(same, place):
                yield one, other, 1 - 1 / max(len(joined(one.tokens)), len(joined(other.tokens)))
