"""Sentences, passages and words: whole sentences, true places, nothing lost."""

from __future__ import annotations

import random

import pytest

from hone.retrieval import Document, Section, cut_passages, passages_text, search_text, with_passages
from hone.retrieval.words import search_words, sentence_spans
from hone.types import Message


def sentences(text: str) -> list[str]:
    return [text[start:end] for start, end in sentence_spans(text)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("One is here. Two is there!  Three?", ["One is here.", "Two is there!", "Three?"]),
        ('He said "no." Then he left.', ['He said "no."', "Then he left."]),
        ("Dr. A. Smith pays £3.90. It costs 2.5 kg.", ["Dr. A. Smith pays £3.90.", "It costs 2.5 kg."]),
        ("A line\nthat wraps.\n\nA paragraph", ["A line\nthat wraps.", "A paragraph"]),
        ("Prices:\n- one\n- two\n3) three", ["Prices:", "- one", "- two", "3) three"]),
        ("これは一つ。二つ目。", ["これは一つ。", "二つ目。"]),
        ("", []),
        (" \n ", []),
    ],
)
def test_sentences(text: str, expected: list[str]) -> None:
    assert sentences(text) == expected


def document(text: str, start: int = 0) -> Document:
    return Document("a.md", "0" * 64, (Section("Top", text, start),))


def test_passages_are_whole_sentences_that_overlap_by_one() -> None:
    text = " ".join(f"Sentence number {n} stands here." for n in range(10))  # five words each
    found = cut_passages([document(text, start=100)], most_words=20)
    assert [passage.text.count("Sentence") for passage in found] == [4, 4, 4]
    assert found[0].text.endswith("number 3 stands here.")
    assert found[1].text.startswith("Sentence number 3")
    assert all(passage.text == text[passage.start - 100 : passage.end - 100] for passage in found)
    assert {(passage.source, passage.heading) for passage in found} == {("a.md", "Top")}


def test_every_sentence_stands_whole_in_some_passage_and_none_is_too_long() -> None:
    draw = random.Random(0)
    for _ in range(60):
        lengths = [draw.randrange(1, 30) for _ in range(draw.randrange(1, 25))]
        text = " ".join(" ".join(["word"] * (length - 1) + [f"end{n}."]) for n, length in enumerate(lengths))
        found = cut_passages([document(text)], most_words=24)
        assert all(len(passage.text.split()) <= 24 for passage in found)
        for n, length in enumerate(lengths):
            whole = " ".join(["word"] * (length - 1) + [f"end{n}."])
            if length <= 24:
                assert any(whole in passage.text for passage in found)
            assert any(f"end{n}." in passage.text for passage in found)
        assert [passage.start for passage in found] == sorted({passage.start for passage in found})


def test_search_words() -> None:
    assert search_words("The Lamps' batteries, boxes & glass: £3.90 at 9:00") == [
        "the", "lamp", "battery", "boxe", "glass", "3.90", "at", "9:00",
    ]  # fmt: skip
    assert search_words("Straße CAFÉ") == ["strasse", "cafe"]
    assert search_words("東京都 abc") == ["東京", "京都", "abc"]


def test_the_prompt_holds_numbered_passages_before_the_last_question() -> None:
    found = cut_passages([document("Sixty days."), Document("b.txt", "0", (Section("", "Ten pounds.", 0),))])
    assert passages_text(found) == "[1] a.md, Top: Sixty days.\n\n[2] b.txt: Ten pounds."
    system, first = Message("system", "Be kind."), Message("user", "How long?")
    answer, second = Message("assistant", "Sixty."), Message("user", "And in winter?")
    asked = with_passages([system, first, answer, second], found)
    assert asked[:3] == (system, first, answer)
    assert asked[3].content.endswith("[1] a.md, Top: Sixty days.\n\n[2] b.txt: Ten pounds.\n\nAnd in winter?")
    assert with_passages([system, first], []) == (system, first)
    assert search_text([system, first, answer, second]) == "How long?\nAnd in winter?"
