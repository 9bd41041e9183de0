"""How alike an answer and a reference are, by the metrics of OpenAI's text_similarity graders."""

from __future__ import annotations

from types import SimpleNamespace

from hone.errors import MissingDependencyError
from hone.evaluation.text_scores import split_words

__all__ = ["SIMILARITY_METRICS", "text_similarity"]

SIMILARITY_METRICS = (
    "fuzzy_match", "bleu", "gleu", "rouge_1", "rouge_2", "rouge_3", "rouge_4", "rouge_5", "rouge_l",
)  # fmt: skip
_MOST_TEXT = 20_000  # characters compared, which takes the square of them


def text_similarity(metric: str, text: str, reference: str) -> float:
    """The likeness of two texts, from 0 to 1.

    Args:
        metric: one of :data:`SIMILARITY_METRICS`.
        text: the answer; read to 20,000 characters.
        reference: what it should be like; read as far.

    Raises:
        MissingDependencyError: the metric is another package's, which is not installed.
    """
    text, reference = text[:_MOST_TEXT], reference[:_MOST_TEXT]
    if metric == "fuzzy_match":
        return _indel_similarity(text, reference)
    if metric == "bleu":
        from sacrebleu import sentence_bleu

        return float(sentence_bleu(text, [reference]).score) / 100
    if metric == "gleu":
        try:
            from nltk.translate.gleu_score import sentence_gleu
        except ImportError as error:
            raise MissingDependencyError("the metric gleu needs nltk", remedy="pip install nltk") from error
        return float(sentence_gleu([reference.split()], text.split())) if text.split() and reference.split() else 0.0
    from rouge_score.rouge_scorer import RougeScorer

    kind = "rougeL" if metric == "rouge_l" else metric.replace("_", "")
    # rouge-score's own tokenizer drops every letter outside a-z
    scorer = RougeScorer([kind], tokenizer=SimpleNamespace(tokenize=split_words))
    return float(scorer.score(reference, text)[kind].fmeasure)


def _indel_similarity(one: str, other: str) -> float:
    """Twice the longest common subsequence over both lengths, as rapidfuzz's ``ratio`` / 100.

    The subsequence's length is counted in the bits of one integer a row: Hyyrö 2004, "Bit-parallel LCS-length".
    """
    if not one and not other:
        return 1.0
    places: dict[str, int] = {}
    for place, letter in enumerate(one):
        places[letter] = places.get(letter, 0) | 1 << place
    every = state = (1 << len(one)) - 1
    for letter in other:
        matches = state & places.get(letter, 0)
        state = ((state + matches) | (state - matches)) & every
    return 2 * (len(one) - state.bit_count()) / (len(one) + len(other))
