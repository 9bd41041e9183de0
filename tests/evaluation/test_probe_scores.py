"""Scores of probe items against transformers' own logits, one row at a time."""

from __future__ import annotations

import torch

from hone.data.render import Renderer
from hone.evaluation.probe_scores import RenderedItem, render_item, score_items
from hone.evaluation.probes.item import ProbeItem
from hone.model.attention import packed_attention_enabled
from hone.model.forward import packed_logits, packed_logprobs, padded_logits, padded_logprobs
from hone.types import TokenSequence
from tests.tiny import row_logits, tiny_model, tiny_tokenizer

MODEL = tiny_model("llama", max_position_embeddings=512)
TOKENIZER = tiny_tokenizer()
RENDERER = Renderer(TOKENIZER)


def encode(text: str) -> list[int]:
    return list(TOKENIZER(text)["input_ids"])


def log_probability(prompt: str, answer: str, *, as_chat: bool, end: bool = True) -> float:
    """Of the whole answer after the prompt, from a plain forward pass."""
    if as_chat:
        before = f"<|im_start|>user\n{prompt}<|im_end|>\n<|im_start|>assistant\n"
        whole = f"{before}{answer}<|im_end|>" if end else before + answer
    else:
        before, whole = prompt, f"{prompt} {answer}"
    start, ids = len(encode(before)), encode(whole)
    logs = torch.log_softmax(row_logits(MODEL, ids).double(), dim=-1)
    return sum(float(logs[place - 1, ids[place]]) for place in range(start, len(ids)))


def questions(*, as_chat: bool, per_byte: bool = False) -> list[ProbeItem]:
    answers = ("the lamp", "an order is on its way", "so", "what is this?")
    prompts = ("what is lit?", "who is there?", "is it?", "what is the answer to this?")
    return [ProbeItem("s", (prompt,), answers, 0, as_chat=as_chat, per_byte=per_byte) for prompt in prompts]


def judged(items: list[ProbeItem]) -> list[bool]:
    rendered = [render_item(item, RENDERER, encode) for item in items]
    with packed_attention_enabled(MODEL):
        packed = score_items(MODEL, rendered, forward=packed_logprobs, logits=packed_logits, max_tokens=256)
    assert packed == score_items(MODEL, rendered, forward=padded_logprobs, logits=padded_logits)
    return packed


def winner(item: ProbeItem) -> int:
    scores = [log_probability(prompt, answer, as_chat=item.as_chat) for prompt, answer in item.options()]
    if item.per_byte:
        scores = [score / (len(answer.encode()) + 1) for score, answer in zip(scores, item.answers, strict=True)]
    return scores.index(max(scores))


def with_right(item: ProbeItem, right: int) -> ProbeItem:
    return ProbeItem(item.skill, item.prompts, item.answers, right, as_chat=item.as_chat, per_byte=item.per_byte)


def check(items: list[ProbeItem]) -> None:
    winners = [winner(item) for item in items]
    assert judged([with_right(item, best) for item, best in zip(items, winners, strict=True)]) == [True] * len(items)
    others = [with_right(item, (best + 1) % len(item.answers)) for item, best in zip(items, winners, strict=True)]
    assert judged(others) == [False] * len(items)


def test_the_likeliest_choice_is_the_answer() -> None:
    check(questions(as_chat=True))


def test_plain_text_is_continued() -> None:
    check(questions(as_chat=False))


def test_per_byte_divides_by_the_length() -> None:
    answers = ("so", "the lamp is lit and the order is on the way, what is the answer to this?")
    whole, divided = (ProbeItem("s", ("is it?",), answers, 0, as_chat=False, per_byte=one) for one in (False, True))
    assert (winner(whole), winner(divided)) == (0, 1)
    check([whole, divided])


def test_the_likelier_beginning_is_the_answer() -> None:
    beginnings = ("the lamp is on the way so the lamp", "the lamp is on the way so the order")
    check([ProbeItem("s", beginnings, ("is lit",) * 2, 0, as_chat=False)])


def test_what_all_choices_share_is_not_scored() -> None:
    item = ProbeItem("s", ("what?",), ("the answer is lit", "the answer is on"), 0)
    rendered = render_item(item, RENDERER, encode)
    assert all(0 < one.num_supervised <= 6 for one in rendered.sequences)


def test_a_choice_that_begins_another_keeps_its_end() -> None:
    rendered = render_item(ProbeItem("s", ("what?",), ("on", "on it"), 0, as_chat=False), RENDERER, encode)
    assert [one.num_supervised > 0 for one in rendered.sequences] == [True, True]


def test_an_exact_answer_is_what_greedy_decoding_gives() -> None:
    prompt = "what is lit?"
    item = ProbeItem("s", (prompt,), ("(as tokens)", "(or these)"), None, as_chat=False)
    greedy = greedy_row(prompt, 4)
    one_is_enough = RenderedItem(item, (changed(greedy), greedy), (1, 1))
    broken = RenderedItem(item, (changed(greedy),), (1,))
    with packed_attention_enabled(MODEL):
        found = score_items(MODEL, [one_is_enough, broken], forward=packed_logprobs, logits=packed_logits)
    assert found == [True, False]


def greedy_row(prompt: str, length: int) -> TokenSequence:
    """The prompt with what greedy decoding writes, which is supervised."""
    ids = encode(prompt)
    start = len(ids)
    for _ in range(length):
        ids.append(int(row_logits(MODEL, ids)[-1].argmax()))
    return TokenSequence(tuple(ids), (False,) * start + (True,) * length, 0)


def changed(sequence: TokenSequence) -> TokenSequence:
    """Another third token from the end."""
    ids = list(sequence.ids)
    ids[-3] = 3 + (ids[-3] + 1) % 300
    return TokenSequence(tuple(ids), sequence.supervised, 0)
