"""Passages for a question, with their source: documents, the index over them, and the prompt that holds them."""

from __future__ import annotations

from hone.retrieval.documents import Document, Documents, Section, list_documents, read_documents
from hone.retrieval.embed import find_embedder
from hone.retrieval.index import PassageIndex, index_documents, index_texts
from hone.retrieval.passages import Passage, cut_passages
from hone.retrieval.prompt import passages_text, search_text, with_passages

__all__ = [
    "Document",
    "Documents",
    "Passage",
    "PassageIndex",
    "Section",
    "cut_passages",
    "find_embedder",
    "index_documents",
    "index_texts",
    "list_documents",
    "passages_text",
    "read_documents",
    "search_text",
    "with_passages",
]
