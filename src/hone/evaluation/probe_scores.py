"""How a model answers probe items: packed through the product's own forward, prompts shared by their choices.

Shape legend: S supervised tokens, V vocabulary.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from transformers import PreTrainedModel

from hone.data.pack import PackedBatch, pack, plan_micro_batches
from hone.data.render import Renderer
from hone.evaluation.probes.item import ProbeItem
from hone.model.forward import Forward
from hone.types import Example, Message, TokenSequence

__all__ = ["RenderedItem", "render_item", "score_items"]

# (model, batch) to the logits [S, V] of the supervised tokens
LogitsForward = Callable[[PreTrainedModel, PackedBatch], Tensor]
Encode = Callable[[str], list[int]]


@dataclass(frozen=True, slots=True)
class RenderedItem:
    """An item as tokens.

    Args:
        item: what it was made from.
        sequences: one for each choice or accepted answer; only what differs between choices is supervised.
        weights: what the log-probability of each is divided by: 1, or the UTF-8 bytes of what is supervised.
    """

    item: ProbeItem
    sequences: tuple[TokenSequence, ...]
    weights: tuple[int, ...]


def render_item(item: ProbeItem, renderer: Renderer, encode: Encode) -> RenderedItem:
    """Make the token sequences of an item.

    Args:
        item: the question.
        renderer: renders what is a message to an assistant.
        encode: ids of a plain text, as the tokenizer begins one.

    Raises:
        TemplateError: the template refuses the text, or it is longer than the context.
    """
    options = item.options()
    if item.as_chat:
        sequences = [_as_chat(prompt, answer, renderer) for prompt, answer in options]
    else:
        sequences = [_as_text(prompt, answer, encode) for prompt, answer in options]
    if item.right is None:
        # the end of the turn is not asked for: "exact" is about the words
        bare = [_without_end(one) if item.as_chat else one for one in sequences]
        return RenderedItem(item, tuple(bare), (1,) * len(bare))
    same = _shared(item.answers) if len(item.prompts) == 1 else 0
    if len(item.prompts) == 1:
        sequences = _only_differences(sequences)
    # the end of an answer counts as one byte
    weights = [len(answer[same:].encode()) + 1 if item.per_byte else 1 for answer in item.answers]
    return RenderedItem(item, tuple(sequences), tuple(weights))


def _shared(rows: Sequence[Sequence[object]]) -> int:
    """Length of the beginning that all have."""
    same = (len(set(column)) == 1 for column in zip(*rows, strict=False))
    return sum(1 for _ in itertools.takewhile(bool, same))


def _as_chat(prompt: str, answer: str, renderer: Renderer) -> TokenSequence:
    messages = (Message("user", prompt), Message("assistant", answer, supervised=True))
    return renderer.render(Example(messages)).sequences[-1]


def _as_text(prompt: str, answer: str, encode: Encode) -> TokenSequence:
    before, whole = encode(prompt), encode(f"{prompt} {answer}")
    # a token may cross the boundary; what differs from the prompt's own ids belongs to the answer
    start = _shared([before, whole])
    return TokenSequence(tuple(whole), (False,) * start + (True,) * (len(whole) - start), row=0)


def _without_end(sequence: TokenSequence) -> TokenSequence:
    return replace(sequence, ids=sequence.ids[:-1], supervised=sequence.supervised[:-1])


def _only_differences(sequences: Sequence[TokenSequence]) -> list[TokenSequence]:
    """What all choices have in common says nothing between them; the last token of each stays."""
    common = _shared([sequence.ids for sequence in sequences])
    cut = min(common, *(len(sequence.ids) - 1 for sequence in sequences))
    return [replace(one, supervised=(False,) * cut + one.supervised[cut:]) for one in sequences]


@torch.inference_mode()
def score_items(
    model: PreTrainedModel,
    items: Sequence[RenderedItem],
    *,
    forward: Forward,
    logits: LogitsForward,
    max_tokens: int = 2048,
    on_done: Callable[[int], None] = lambda count: None,
) -> list[bool]:
    """Whether the model answers each item rightly.

    Args:
        model: in evaluation mode.
        items: the rendered questions.
        forward: log-probabilities of the supervised tokens; for choices.
        logits: all logits of the supervised tokens; for answers to be given word for word.
        max_tokens: tokens of one forward pass, shared prompts counted once.
        on_done: called with the number of sequences scored so far.
    """
    owners = [number for number, one in enumerate(items) for _ in one.sequences]
    sequences = [sequence for one in items for sequence in one.sequences]
    scores = [0.0] * len(sequences)
    done = 0
    for with_choices in (True, False):
        mine = [place for place, owner in enumerate(owners) if (items[owner].item.right is not None) == with_choices]
        for indices in plan_micro_batches([sequences[place] for place in mine], max_tokens=max_tokens):
            batch = pack([sequences[mine[index]] for index in indices])
            if with_choices:
                values = forward(model, batch).tolist()
            else:
                likeliest = logits(model, batch).argmax(dim=-1).tolist()
                values = [float(one == target) - 1.0 for one, target in zip(likeliest, batch.targets_S, strict=True)]
            for owner, value in zip(batch.owners_S, values, strict=True):
                scores[mine[indices[owner]]] += value
            done += len(indices)
            on_done(done)
    return _judged(items, scores)


def _judged(items: Sequence[RenderedItem], scores: Sequence[float]) -> list[bool]:
    """Scores are summed log-probabilities for choices; for exact answers minus the number of other tokens."""
    right, start = [], 0
    for one in items:
        mine = scores[start : start + len(one.sequences)]
        start += len(one.sequences)
        if one.item.right is None:
            right.append(max(mine) == 0.0)
        else:
            weighed = [score / weight for score, weight in zip(mine, one.weights, strict=True)]
            # of two alike the first would win by its place alone
            right.append(weighed.count(max(weighed)) == 1 and weighed.index(max(weighed)) == one.item.right)
    return right
