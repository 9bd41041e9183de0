"""Overlap of two texts as sums over rows: chrF, BLEU, ROUGE-L, token F1.

``*_statistics(predictions, references)`` gives one vector per row, [rows, k]; ``*_aggregate(sums)`` turns summed
vectors [..., k] into scores [...] from 0 to 100 (``sums.py``). Corpus chrF and BLEU equal sacrebleu's ``corpus_score``.

    chrF     Popović 2015, "chrF: character n-gram F-score", as in sacrebleu: order 6, beta 2, no spaces
    BLEU     Papineni et al. 2002; counts by sacrebleu (13a tokens, exponential smoothing)
    ROUGE-L  Lin 2004, F-measure by rouge-score, over Unicode words
    token F1 Rajpurkar et al. 2016 (SQuAD), its normalisation extended to Unicode
"""

from __future__ import annotations

import re
import string
import unicodedata
from collections import Counter
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np

from hone.evaluation.sums import FloatArray, mean_statistics, ratio

__all__ = [
    "bleu_aggregate",
    "bleu_row_aggregate",
    "bleu_statistics",
    "chrf_aggregate",
    "chrf_statistics",
    "normalise_short_answer",
    "rouge_l_statistics",
    "split_words",
    "token_f1_statistics",
]

CHRF_ORDER = 6
CHRF_BETA = 2
BLEU_ORDER = 4

# Scripts that put no spaces between words: each character counts as a word of its own.
_UNSPACED = (
    r"\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
    r"\U00020000-\U0003ffff"
)
_WORD = re.compile(rf"[{_UNSPACED}]|(?:(?![{_UNSPACED}])[^\W_])+")
_WORD_OR_RUN = re.compile(rf"[{_UNSPACED}]|(?:(?![{_UNSPACED}])\S)+")
_ARTICLE = re.compile(r"\b(?:a|an|the)\b")


def split_words(text: str) -> list[str]:
    """Cut a text into lower-case words; characters of Chinese, Japanese, Thai and the like stand alone.

    On ASCII text these are rouge-score's own tokens.
    """
    return _WORD.findall(text.lower())


def normalise_short_answer(text: str) -> str:
    """SQuAD's normal form: lower case, no punctuation, no articles, single spaces.

    An answer that consists of nothing else ("A", "?") keeps its lower-case form, so that it can still be matched.
    """
    lowered = " ".join(text.lower().split())
    kept = "".join(ch for ch in lowered if ch not in string.punctuation and unicodedata.category(ch)[0] != "P")
    return " ".join(_ARTICLE.sub(" ", kept).split()) or lowered


def chrf_statistics(predictions: Sequence[str], references: Sequence[str]) -> FloatArray:
    """Character n-gram counts: per row (predicted, reference, matched) for orders 1 to 6, [rows, 18]."""
    rows = [_chrf_row(prediction, reference) for prediction, reference in zip(predictions, references, strict=True)]
    return np.asarray(rows, dtype=np.float64).reshape(-1, 3 * CHRF_ORDER)


def chrf_aggregate(sums: FloatArray) -> FloatArray:
    """ChrF2 of summed counts [..., 18], averaged over the orders that both sides have."""
    predicted, reference, matched = sums[..., 0::3], sums[..., 1::3], sums[..., 2::3]
    effective = (predicted > 0) & (reference > 0)
    orders = effective.sum(axis=-1).astype(np.float64)
    precision = ratio(np.where(effective, ratio(matched, predicted), 0.0).sum(axis=-1), orders)
    recall = ratio(np.where(effective, ratio(matched, reference), 0.0).sum(axis=-1), orders)
    weight = float(CHRF_BETA**2)
    return 100.0 * ratio((1 + weight) * precision * recall, weight * precision + recall)


def bleu_statistics(predictions: Sequence[str], references: Sequence[str]) -> FloatArray:
    """Word n-gram counts by sacrebleu: per row (length, reference length, 4 matched, 4 predicted), [rows, 10]."""
    bleu = _sentence_bleu()
    rows = []
    for prediction, reference in zip(predictions, references, strict=True):
        found = bleu.sentence_score(prediction, [reference])
        rows.append([found.sys_len, found.ref_len, *found.counts, *found.totals])
    return np.asarray(rows, dtype=np.float64).reshape(-1, 2 + 2 * BLEU_ORDER)


def bleu_aggregate(sums: FloatArray) -> FloatArray:
    """Corpus BLEU of summed counts [..., 10]: brevity penalty, exponential smoothing, four orders."""
    return _bleu(sums, effective_order=False)


def bleu_row_aggregate(sums: FloatArray) -> FloatArray:
    """BLEU of single rows [..., 10]: only the orders that the prediction is long enough for count."""
    return _bleu(sums, effective_order=True)


def rouge_l_statistics(predictions: Sequence[str], references: Sequence[str]) -> FloatArray:
    """ROUGE-L F-measure per row by rouge-score, no stemming: (score, 1), [rows, 2]."""
    scorer = _rouge_scorer()
    scores = [
        scorer.score(reference, prediction)["rougeL"].fmeasure
        for prediction, reference in zip(predictions, references, strict=True)
    ]
    return mean_statistics(scores)


def token_f1_statistics(predictions: Sequence[str], references: Sequence[str]) -> FloatArray:
    """F1 of the words in common per row, SQuAD normalisation: (score, 1), [rows, 2]."""
    pairs = zip(predictions, references, strict=True)
    return mean_statistics([_token_f1(prediction, reference) for prediction, reference in pairs])


def _chrf_row(prediction: str, reference: str) -> list[int]:
    predicted_text, reference_text = "".join(prediction.split()), "".join(reference.split())
    row: list[int] = []
    for order in range(1, CHRF_ORDER + 1):
        predicted, expected = _ngrams(predicted_text, order), _ngrams(reference_text, order)
        matched = sum(min(count, expected[ngram]) for ngram, count in predicted.items() if ngram in expected)
        # sacrebleu does not count predicted n-grams of an order that the reference is too short for.
        row += [predicted.total() if expected else 0, expected.total(), matched]
    return row


def _ngrams(text: str, order: int) -> Counter[str]:
    return Counter(text[start : start + order] for start in range(len(text) - order + 1))


def _bleu(sums: FloatArray, *, effective_order: bool) -> FloatArray:
    length, reference_length = sums[..., 0], sums[..., 1]
    matched, predicted = sums[..., 2 : 2 + BLEU_ORDER], sums[..., 2 + BLEU_ORDER :]
    present = np.logical_and.accumulate(predicted > 0, axis=-1)
    unmatched = present & (matched == 0)
    # NIST smoothing: the k-th order without a match counts as 1 / 2**k matches.
    smoothed = np.where(unmatched, 0.5 ** np.cumsum(unmatched, axis=-1), matched)
    safe = np.where(present, smoothed / np.where(predicted > 0, predicted, 1.0), 1.0)
    orders = present.sum(axis=-1) if effective_order else np.full(length.shape, BLEU_ORDER)
    geometric = np.exp(np.log(np.maximum(safe, 1e-300)).sum(axis=-1) / np.maximum(orders, 1))
    safe_length = np.maximum(length, 1.0)
    brevity = np.where(length < reference_length, np.exp(1.0 - reference_length / safe_length), 1.0)
    complete = present.any(axis=-1) if effective_order else present.all(axis=-1)
    scored: FloatArray = np.where(complete & (matched.sum(axis=-1) > 0), 100.0 * brevity * geometric, 0.0)
    return scored


@cache
def _sentence_bleu() -> Any:
    # Imported on first use: the command line must not pay for it on `hone --help`.
    from sacrebleu.metrics.bleu import BLEU

    return BLEU(effective_order=True, force=True)


class _UnicodeWords:
    """rouge-score's own tokenizer drops every letter outside a-z, so that German or Greek would score 0."""

    def tokenize(self, text: str) -> list[str]:
        return split_words(text)


@cache
def _rouge_scorer() -> Any:
    # rouge-score imports nltk, about a second: on first use only.
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer(["rougeL"], tokenizer=_UnicodeWords())


def _token_f1(prediction: str, reference: str) -> float:
    predicted = _WORD_OR_RUN.findall(normalise_short_answer(prediction))
    expected = _WORD_OR_RUN.findall(normalise_short_answer(reference))
    if not predicted or not expected:
        return float(predicted == expected)
    shared = (Counter(predicted) & Counter(expected)).total()
    return 2.0 * shared / (len(predicted) + len(expected))
