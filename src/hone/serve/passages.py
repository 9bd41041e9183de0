"""Retrieval that is attached to a served name: documents set once, passages added to each question and cited."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from hone.errors import ConfigError
from hone.recipe.contest import PASSAGES, open_documents
from hone.retrieval import Passage, PassageIndex, search_text, with_passages
from hone.serve.asked import AddPassages, Passages
from hone.serve.models import resolve_served_model
from hone.serve.settings import ServerSettings
from hone.serve.wire import ApiError
from hone.types import JsonDict, Message

__all__ = ["attached_documents"]


def attached_documents(settings: ServerSettings) -> dict[str, AddPassages]:
    """What adds passages, by the name that documents are attached to; indexes are made now, or read from the home.

    Args:
        settings: of the server.

    Raises:
        ConfigError: documents are attached to a name that is not served.
        HoneError: as for :func:`hone.retrieval.index_documents`.
    """
    return {name: _adder(settings, name, folder) for name, folder in settings.documents.items()}


def _adder(settings: ServerSettings, name: str, folder: Path) -> AddPassages:
    try:
        resolve_served_model(settings, name)
    except ApiError as error:
        raise ConfigError(
            f"{name!r} is not served, so no documents can be attached to it",
            where="--documents",
            remedy="`hone models` lists versions and aliases; as --documents support@production=FOLDER",
        ) from error
    index = open_documents(folder, home=settings.home)
    assert index is not None, "there is a folder"

    def add(messages: Sequence[Message], fits: Callable[[Sequence[Message]], bool]) -> Passages:
        return _added(index, messages, fits)

    return add


def _added(index: PassageIndex, messages: Sequence[Message], fits: Callable[[Sequence[Message]], bool]) -> Passages:
    """The passages that fit the question best, as many as leave room for the answer."""
    found = index.search(search_text(messages), PASSAGES)
    while found and not fits(with_passages(messages, found)):
        found = found[:-1]
    citations = tuple(_citation(number, passage) for number, passage in enumerate(found, 1))
    return Passages(with_passages(messages, found), citations)


def _citation(number: int, passage: Passage) -> JsonDict:
    return {
        "number": number,
        "source": passage.source,
        "heading": passage.heading,
        "start": passage.start,
        "end": passage.end,
        "text": passage.text,
    }
