"""Streaming: pieces are whole characters, and together exactly the decoded answer."""

from __future__ import annotations

import pytest

from hone.recipe.answer import text_pieces
from tests.tiny import tiny_tokenizer


@pytest.mark.parametrize(
    "text",
    ["the lamp is lit", "Grüße aus München", "🗼 Paris 👩‍🚀!", "日本語のテキスト", " leading, and trailing ", ""],
)
def test_pieces_are_the_text_and_never_debris(text: str) -> None:
    tokenizer = tiny_tokenizer()
    ids = tokenizer.encode(text, add_special_tokens=False)
    pieces = list(text_pieces(ids, tokenizer.decode))
    assert "".join(pieces) == tokenizer.decode(ids) == text
    assert not any("\ufffd" in piece for piece in pieces)
    assert all(pieces)


def test_a_character_comes_as_soon_as_it_is_whole() -> None:
    tokenizer = tiny_tokenizer()
    ids = tokenizer.encode("a🗼b", add_special_tokens=False)
    assert len(ids) > 3, "the tower takes several tokens"
    given: list[str] = []
    seen_before_last = []
    for count in range(1, len(ids) + 1):
        given = list(text_pieces(ids[:count], tokenizer.decode))
        seen_before_last.append("".join(given))
    assert seen_before_last[0] == "a"
    assert seen_before_last[-2].startswith("a🗼")


def test_bytes_that_never_become_a_character_come_at_the_end() -> None:
    tokenizer = tiny_tokenizer()
    broken = tokenizer.encode("🗼", add_special_tokens=False)[:-1]
    pieces = list(text_pieces(broken, tokenizer.decode))
    assert "".join(pieces) == tokenizer.decode(broken)
    assert len(pieces) == 1


def test_a_decoder_that_rewrites_its_past_is_waited_for() -> None:
    texts = {1: "a ", 2: "a,", 3: "a, b"}
    pieces = list(text_pieces([0, 0, 0], lambda ids: texts[len(ids)]))
    assert pieces[0] == "a "
    assert len("".join(pieces)) == len("a, b")
