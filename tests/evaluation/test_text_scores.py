"""Corpus scores equal those of the reference implementations, on any text."""

from __future__ import annotations

import re
import string
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rouge_score.rouge_scorer import RougeScorer
from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.chrf import CHRF

from hone.evaluation import text_scores
from hone.evaluation.sums import mean_aggregate

# Words repeat, so that n-grams match; empty texts, punctuation, several scripts and odd white space occur.
WORDS = st.sampled_from(
    ["the", "cat", "sat", "on", "mat", "Straße", "ö", "東京", "で", "😀", "e\u0301", ".", ",", "3.5", "$x", "a", "I'm"]
)
SPACES = st.sampled_from([" ", "  ", "\n", "\u00a0", "\u3000"])
TEXTS = st.one_of(
    st.lists(st.tuples(WORDS, SPACES), max_size=14).map(lambda pairs: "".join(word + space for word, space in pairs)),
    st.text(max_size=25),
)
PAIRS = st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=6)
ASCII = st.text(alphabet=string.printable, max_size=40)


@given(PAIRS)
def test_corpus_chrf_is_sacrebleus(pairs: list[tuple[str, str]]) -> None:
    predictions, references = map(list, zip(*pairs, strict=True))
    sums = text_scores.chrf_statistics(predictions, references).sum(axis=0)
    expected = CHRF().corpus_score(predictions, [references]).score
    assert float(text_scores.chrf_aggregate(sums)) == pytest.approx(expected, abs=1e-9)


@given(PAIRS)
def test_corpus_bleu_is_sacrebleus(pairs: list[tuple[str, str]]) -> None:
    predictions, references = map(list, zip(*pairs, strict=True))
    sums = text_scores.bleu_statistics(predictions, references).sum(axis=0)
    expected = BLEU(force=True).corpus_score(predictions, [references]).score
    assert float(text_scores.bleu_aggregate(sums)) == pytest.approx(expected, abs=1e-9)


@given(TEXTS, TEXTS)
def test_row_scores_are_sacrebleus_sentence_scores(prediction: str, reference: str) -> None:
    bleu = text_scores.bleu_row_aggregate(text_scores.bleu_statistics([prediction], [reference]))[0]
    chrf = text_scores.chrf_aggregate(text_scores.chrf_statistics([prediction], [reference]))[0]
    assert bleu == pytest.approx(BLEU(effective_order=True).sentence_score(prediction, [reference]).score, abs=1e-9)
    assert chrf == pytest.approx(CHRF().sentence_score(prediction, [reference]).score, abs=1e-9)


def test_aggregates_work_on_any_leading_axes() -> None:
    predictions = ["the cat sat on the mat", "", "a b c d e", "東京 is far"]
    references = ["the cat sat on a mat", "not empty", "a b c d e", "東京 is near"]
    weights = np.random.default_rng(0).integers(0, 3, size=(2, 5, 4)).astype(float)
    for statistics, aggregate in (
        (text_scores.chrf_statistics, text_scores.chrf_aggregate),
        (text_scores.bleu_statistics, text_scores.bleu_aggregate),
        (text_scores.bleu_statistics, text_scores.bleu_row_aggregate),
        (text_scores.token_f1_statistics, mean_aggregate),
    ):
        rows = statistics(predictions, references)
        together = aggregate(weights @ rows)
        assert together.shape == (2, 5)
        one_by_one = [[float(aggregate(weight @ rows)) for weight in line] for line in weights]
        assert np.allclose(together, one_by_one)


@given(ASCII, ASCII)
def test_rouge_l_of_ascii_is_rouge_scores_own(prediction: str, reference: str) -> None:
    expected = RougeScorer(["rougeL"]).score(reference, prediction)["rougeL"].fmeasure
    assert text_scores.rouge_l_statistics([prediction], [reference])[0].tolist() == [pytest.approx(expected), 1.0]


def test_rouge_l_sees_letters_beyond_ascii() -> None:
    own = text_scores.rouge_l_statistics(["Ελλάδα είναι μακριά", "東京は遠い"], ["Ελλάδα είναι κοντά", "東京は近い"])
    assert own[0, 0] == pytest.approx(2 / 3)
    assert own[1, 0] == pytest.approx(4 / 5)


def squad_f1(prediction: str, reference: str) -> float:
    """As in SQuAD's evaluate-v1.1.py."""

    def tokens(text: str) -> list[str]:
        kept = "".join(ch for ch in text.lower() if ch not in set(string.punctuation))
        return re.sub(r"\b(a|an|the)\b", " ", kept).split()

    common = Counter(tokens(prediction)) & Counter(tokens(reference))
    same = sum(common.values())
    if same == 0:
        return 0.0
    precision, recall = same / len(tokens(prediction)), same / len(tokens(reference))
    return 2 * precision * recall / (precision + recall)


@given(
    st.lists(st.sampled_from(["The", "an", "cat,", "sat!", "on", "don't", "42"]), min_size=1, max_size=8).map(" ".join),
    st.lists(st.sampled_from(["the", "a", "cat", "sat", "on.", "dont", "x"]), min_size=1, max_size=8).map(" ".join),
)
def test_token_f1_is_squads(prediction: str, reference: str) -> None:
    # SQuAD scores an answer of articles alone 0; here it can still be matched (below).
    own = text_scores.token_f1_statistics([prediction], [reference])[0, 0]
    if all(text_scores.normalise_short_answer(text) != text.lower() or "c" in text for text in (prediction, reference)):
        assert own == pytest.approx(squad_f1(prediction, reference))


@pytest.mark.parametrize(
    ("prediction", "reference", "expected"),
    [
        ("A", "a", 1.0),
        ("the", "a", 0.0),
        ("?", "?", 1.0),
        ("", "Paris", 0.0),
        ("", "", 1.0),
        ("in Paris", "Paris", 2 / 3),
        ("北京市", "北京", 0.8),
        ("«Paris»", "Paris", 1.0),
    ],
)
def test_token_f1_at_the_edges(prediction: str, reference: str, expected: float) -> None:
    assert text_scores.token_f1_statistics([prediction], [reference])[0, 0] == pytest.approx(expected)


def test_words_are_cut_in_every_script() -> None:
    assert text_scores.split_words("Don't go_to  ZÜRICH-West 24!") == ["don", "t", "go", "to", "zürich", "west", "24"]
    assert text_scores.split_words("東京 Tower") == ["東", "京", "tower"]
    assert text_scores.split_words("...") == []
