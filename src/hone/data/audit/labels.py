"""Labels that rows like it do not have: cross-validated agreement of a small text classifier.

Each row is judged by a multinomial naive Bayes over words and word pairs that has not seen it. A row is suspect where
another label is far more probable than the one it has, in the sense of confident learning: the probability of its own
label is under that label's average, and that of the other over the other's average.

Source: Northcutt, Jiang, Chuang: Confident learning (JAIR 2021), the thresholds of section 3.1; Rennie et al.: Tackling
the poor assumptions of naive Bayes text classifiers (ICML 2003), for damped counts.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

__all__ = ["SuspectLabel", "suspect_labels"]

_FOLDS = 10
_SMOOTHING = 0.3
_WORD = re.compile(r"\w+|[^\w\s]")
# Naive Bayes is far too sure of itself: the sum over a text is taken at this power of its length.
_LENGTH_POWER = 0.6
_LEAST_MARGIN = 0.2


@dataclass(frozen=True, slots=True)
class SuspectLabel:
    """A row whose label the others do not bear out.

    Args:
        index: of the row.
        other: the label that is more probable.
        own_probability: of the label it has.
        other_probability: of the other.
    """

    index: int
    other: str
    own_probability: float
    other_probability: float


def suspect_labels(texts: Sequence[str], labels: Sequence[str]) -> list[SuspectLabel]:
    """Rows whose label is probably wrong, the most suspect first.

    Args:
        texts: what each label was given for.
        labels: one a text.
    """
    names = sorted(set(labels))
    if len(names) < 2:
        return []
    features = [_features(text) for text in texts]
    folds = [
        int.from_bytes(hashlib.sha256(text.encode("utf-8", "replace")).digest()[:4], "little") % _FOLDS
        for text in texts
    ]
    own = np.array([names.index(label) for label in labels])
    probabilities = np.zeros((len(texts), len(names)))
    for fold in range(_FOLDS):
        inside = [index for index, number in enumerate(folds) if number == fold]
        outside = [index for index, number in enumerate(folds) if number != fold]
        if not inside or not outside:
            continue
        scores = _scores([features[i] for i in outside], own[outside], [features[i] for i in inside], len(names))
        probabilities[inside] = scores
    given = probabilities[np.arange(len(texts)), own]
    average = np.array([given[own == label].mean() for label in range(len(names))])
    best = probabilities.argmax(axis=1)
    top = probabilities[np.arange(len(texts)), best]
    suspect = (best != own) & (given < average[own]) & (top >= average[best]) & (top - given >= _LEAST_MARGIN)
    order = sorted(np.flatnonzero(suspect), key=lambda index: (given[index] - top[index], index))
    return [SuspectLabel(int(i), names[best[i]], float(given[i]), float(top[i])) for i in order]


def _features(text: str) -> Counter[str]:
    words = _WORD.findall(text.casefold())
    return Counter(words) + Counter(f"{one} {other}" for one, other in pairwise(words))


def _scores(
    seen: Sequence[Counter[str]], labels: NDArray[np.int64], asked: Sequence[Counter[str]], num_labels: int
) -> NDArray[np.float64]:
    """Probability of each label for each text asked for, from the texts seen."""
    counts: dict[str, NDArray[np.float64]] = defaultdict(lambda: np.zeros(num_labels))
    for features, label in zip(seen, labels, strict=True):
        for word, count in features.items():
            counts[word][label] += math.log1p(count)
    totals = sum(counts.values(), np.zeros(num_labels)) + _SMOOTHING * (len(counts) + 1)
    prior = np.log(np.bincount(labels, minlength=num_labels) + 1.0)
    rows = []
    for features in asked:
        known = [(counts[word], math.log1p(count)) for word, count in features.items() if word in counts]
        logits = sum((weight * np.log((found + _SMOOTHING) / totals) for found, weight in known), np.zeros(num_labels))
        logits = logits / max(len(known), 1) ** (1 - _LENGTH_POWER) + prior
        shares = np.exp(logits - logits.max())
        rows.append(shares / shares.sum())
    return np.array(rows)
