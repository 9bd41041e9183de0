"""``/v1/chat/completions`` that were stored with ``store: true``: list, show, annotate and delete them."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import delete, select, update
from sqlalchemy.dialects.sqlite import insert as insert_or

from hone.registry.store import open_store, stored_completions
from hone.serve.settings import ServerSettings
from hone.serve.wire import ERROR_RESPONSES, After, ApiError, Limit, list_page, page_after, query_metadata
from hone.types import JsonDict

__all__ = ["MetadataChange", "store_completion", "stored_router"]

_table = stored_completions


class MetadataChange(BaseModel):
    """The body of ``POST /v1/chat/completions/{id}``."""

    model_config = ConfigDict(extra="forbid")

    metadata: (
        Annotated[
            dict[Annotated[str, Field(max_length=64)], Annotated[str, Field(max_length=512)]], Field(max_length=16)
        ]
        | None
    )


@dataclass(frozen=True, slots=True)
class _Stored:
    sequence: int
    id: str
    model: str
    created_at: int
    request: JsonDict
    completion: JsonDict
    metadata: dict[str, str]


def store_completion(home: Path, request: Mapping[str, Any], completion: Mapping[str, Any]) -> None:
    """Keep a completion, as ``store: true`` asks.

    Args:
        home: the home folder.
        request: the request's body.
        completion: the answer's.

    Raises:
        StorageError: the registry cannot be written.
    """
    values = {
        "id": completion["id"],
        "model": completion["model"],
        "created_at": int(completion.get("created", time.time())),
        "request": {"messages": request.get("messages", [])},
        "completion": dict(completion),
        "metadata": dict(request.get("metadata") or {}),
    }
    with open_store(home).write() as connection:
        connection.execute(insert_or(_table).values(values).on_conflict_do_nothing())


def stored_router(settings: ServerSettings) -> APIRouter:
    """The routes of stored completions."""
    router = APIRouter(prefix="/v1/chat/completions", tags=["chat"], responses=ERROR_RESPONSES)
    home, cursors = settings.home, settings.cursors

    @router.get("")
    def list_stored(
        request: Request,
        model: str | None = None,
        after: After = None,
        limit: Limit = 20,
        order: Annotated[Literal["asc", "desc"], Query(description="By time.")] = "asc",
    ) -> JsonDict:
        """List stored completions; `metadata[key]=value` keeps those with that metadata."""
        wanted = query_metadata(request)
        rows = [
            one
            for one in _all(home)
            if one.id == after or (model in (None, one.model) and wanted.items() <= one.metadata.items())
        ]
        rows = rows if order == "asc" else rows[::-1]
        page, has_more = page_after(rows, after=after, limit=limit, cursors=cursors)
        return list_page([_completion(one) for one in page], has_more=has_more)

    @router.get("/{completion_id}")
    def retrieve_stored(completion_id: str) -> JsonDict:
        """Show a stored completion."""
        return _completion(_require(home, completion_id))

    @router.post("/{completion_id}")
    def update_stored(completion_id: str, asked: MetadataChange) -> JsonDict:
        """Replace a stored completion's metadata."""
        changed = update(_table).where(_table.c.id == completion_id).values(metadata=asked.metadata or {})
        with open_store(home).write() as connection:
            connection.execute(changed)
        return _completion(_require(home, completion_id))

    @router.delete("/{completion_id}")
    def delete_stored(completion_id: str) -> JsonDict:
        """Delete a stored completion."""
        _require(home, completion_id)
        with open_store(home).write() as connection:
            connection.execute(delete(_table).where(_table.c.id == completion_id))
        return {"id": completion_id, "object": "chat.completion.deleted", "deleted": True}

    @router.get("/{completion_id}/messages")
    def list_messages(
        completion_id: str, after: After = None, limit: Limit = 20, order: Literal["asc", "desc"] = "asc"
    ) -> JsonDict:
        """List the messages that a stored completion answered."""
        rows = _messages(_require(home, completion_id))
        page, has_more = page_after(rows if order == "asc" else rows[::-1], after=after, limit=limit, cursors=cursors)
        return list_page([one.body for one in page], has_more=has_more)

    return router


@dataclass(frozen=True, slots=True)
class _Message:
    id: str
    body: JsonDict


def _messages(stored: _Stored) -> list[_Message]:
    """The request's messages in the form of the API's stored messages, which have a text and an id."""
    found = []
    for place, message in enumerate(stored.request["messages"]):
        content = message.get("content")
        text = content if isinstance(content, str) or content is None else json.dumps(content, ensure_ascii=False)
        identity = f"{stored.id}-{place}"
        # the client's schema knows the role assistant alone, and refuses a list with others
        body = {**message, "id": identity, "role": "assistant", "content": text, "refusal": None}
        found.append(_Message(identity, body))
    return found


def _completion(stored: _Stored) -> JsonDict:
    return {**stored.completion, "metadata": stored.metadata}


def _all(home: Path) -> list[_Stored]:
    with open_store(home).read() as connection:
        return [_Stored(**row._mapping) for row in connection.execute(select(_table).order_by(_table.c.sequence))]


def _require(home: Path, completion_id: str) -> _Stored:
    with open_store(home).read() as connection:
        row = connection.execute(select(_table).where(_table.c.id == completion_id)).first()
    if row is None:
        raise ApiError(f"No such completion: {completion_id}", status=404, param="completion_id")
    return _Stored(**row._mapping)
