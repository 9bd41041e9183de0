"""The index over passages: BM25, and with embeddings at hand both ways of searching, their ranks put together.

An index is kept in a folder named after what it was made of (files, size of the passages, embeddings), so that it is
made once and never stale. Damaged or unreadable, it is made again: nothing in it is a source.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from hone.files import atomic_folder, write_atomically
from hone.retrieval.documents import Documents, read_documents
from hone.retrieval.embed import EMBEDDING_MODEL, Embed
from hone.retrieval.passages import PASSAGE_WORDS, Passage, cut_passages
from hone.retrieval.words import search_words

__all__ = ["PassageIndex", "index_documents", "index_texts"]

_FORMAT = 1
# Ranks are put together as in Cormack, Clarke, Büttcher 2009, "Reciprocal rank fusion", with its constant.
_FUSION_CONSTANT = 60
_PASSAGES, _VECTORS = "passages.json", "vectors.npy"


class PassageIndex:
    """Finds the passages that fit a question.

    Args:
        passages: what is searched.
        scorer: a ``bm25s.BM25`` over the words of each passage, None where no passage has a word.
        embed: gives vectors of questions; None searches by words alone.
        vectors: unit vectors of the passages, [passages, width]; given with ``embed``.
        left_out: files of the folder that were not read, with the reason.
    """

    def __init__(
        self,
        passages: Sequence[Passage],
        scorer: Any | None,
        *,
        embed: Embed | None = None,
        vectors: npt.NDArray[np.float32] | None = None,
        left_out: Sequence[tuple[str, str]] = (),
    ) -> None:
        assert (embed is None) == (vectors is None), "vectors of passages and of questions belong together"
        self.passages = tuple(passages)
        self.left_out = tuple(left_out)
        self._scorer = scorer
        self._embed = embed
        self._vectors = vectors

    @property
    def method(self) -> str:
        """How it searches, in a few words, for reports."""
        return "BM25" if self._embed is None else f"BM25 and {EMBEDDING_MODEL}"

    def search(self, question: str, count: int) -> list[Passage]:
        """The passages that fit best, best first; equal ones in the order of the documents.

        Args:
            question: any text.
            count: how many at most. By words alone, passages that share no word with the question are not given.
        """
        return [self.passages[place] for place in self.search_places(question, count)]

    def search_places(self, question: str, count: int) -> list[int]:
        """As :meth:`search`, as places in ``passages``."""
        by_words = self._word_scores(question)
        if self._embed is None or self._vectors is None:
            ranked = np.argsort(-by_words, kind="stable")[:count]
            return [int(place) for place in ranked if by_words[place] > 0]
        by_meaning = self._vectors @ self._embed([question])[0]
        fused = _reciprocal_ranks(by_meaning) + np.where(by_words > 0, _reciprocal_ranks(by_words), 0.0)
        return [int(place) for place in np.argsort(-fused, kind="stable")[:count]]

    def _word_scores(self, question: str) -> npt.NDArray[np.float64]:
        known = [] if self._scorer is None else self._scorer.get_tokens_ids(search_words(question))
        if self._scorer is None or not known:
            return np.zeros(len(self.passages))
        return np.asarray(self._scorer.get_scores_from_ids(known), dtype=np.float64)

    def save(self, folder: Path) -> None:
        """Write the index, whole or not at all.

        Raises:
            StorageError: no space or no permission.
        """
        with atomic_folder(folder) as temporary:
            content = {"passages": [asdict(passage) for passage in self.passages], "left_out": self.left_out}
            write_atomically(temporary / _PASSAGES, json.dumps(content, ensure_ascii=False))
            if self._scorer is not None:
                self._scorer.save(str(temporary), show_progress=False)
            if self._vectors is not None:
                stream = io.BytesIO()
                np.save(stream, self._vectors, allow_pickle=False)
                write_atomically(temporary / _VECTORS, stream.getvalue())


def index_texts(texts: Sequence[str]) -> PassageIndex:
    """An index over texts as they are, by words alone: for finding rows that are like a question.

    Args:
        texts: each becomes one passage; places in the index are places in this list.
    """
    passages = [Passage("", "", 0, len(text), text) for text in texts]
    return PassageIndex(passages, _scorer(passages))


def index_documents(folder: Path, *, kept: Path, embed: Embed | None = None) -> PassageIndex:
    """The index of a folder of documents: read from where it is kept, or made and kept there.

    Args:
        folder: the documents; always read, so that a changed file is noticed.
        kept: folder in which indexes are kept, one each.
        embed: gives vectors of texts; None for words alone.

    Raises:
        ConfigError, DataError, MissingDependencyError, StorageError: as for
            :func:`hone.retrieval.documents.read_documents`; StorageError also where the index cannot be written.
    """
    found = read_documents(folder)
    place = kept / _key(found, embed)
    index = _load(place, embed)
    if index is None:
        index = _made(found, embed)
        index.save(place)
    return index


def _made(found: Documents, embed: Embed | None) -> PassageIndex:
    passages = cut_passages(found.documents)
    vectors = None if embed is None else embed([passage.searched for passage in passages])
    return PassageIndex(passages, _scorer(passages), embed=embed, vectors=vectors, left_out=found.left_out)


def _scorer(passages: Sequence[Passage]) -> Any | None:
    import bm25s  # type: ignore[import-untyped]

    words = [search_words(passage.searched) for passage in passages]
    if not any(words):
        return None
    scorer = bm25s.BM25()  # Lucene's variant: no score is below 0
    scorer.index(words, show_progress=False)
    return scorer


def _load(folder: Path, embed: Embed | None) -> PassageIndex | None:
    import bm25s

    try:
        content = json.loads((folder / _PASSAGES).read_text(encoding="utf-8"))
        passages = [Passage(**one) for one in content["passages"]]
        scorer = bm25s.BM25.load(str(folder), load_corpus=False, allow_pickle=False)
        vectors = None if embed is None else np.load(folder / _VECTORS, allow_pickle=False)
        left_out = [(name, reason) for name, reason in content["left_out"]]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if scorer.scores["num_docs"] != len(passages) or (vectors is not None and len(vectors) != len(passages)):
        return None
    return PassageIndex(passages, scorer, embed=embed, vectors=vectors, left_out=left_out)


def _key(found: Documents, embed: Embed | None) -> str:
    made_of = {
        "format": _FORMAT,
        "files": [(one.source, one.sha256) for one in found.documents],
        "left_out": found.left_out,
        "passage_words": PASSAGE_WORDS,
        "embeddings": EMBEDDING_MODEL if embed else None,
    }
    return hashlib.sha256(json.dumps(made_of, ensure_ascii=False).encode()).hexdigest()[:32]


def _reciprocal_ranks(scores: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    ranks = np.empty(len(scores))
    ranks[np.argsort(-scores, kind="stable")] = np.arange(1, len(scores) + 1)
    fused: npt.NDArray[np.float64] = 1.0 / (_FUSION_CONSTANT + ranks)
    return fused
