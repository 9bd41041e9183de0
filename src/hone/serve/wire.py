"""The wire of the OpenAI API: its errors and its lists.

An error is ``{"error": {"message", "type", "param", "code"}}``; a list is
``{"object": "list", "data", "first_id", "last_id", "has_more"}``.
Source: the OpenAI API reference, and what the ``openai`` clients for Python and Node expect.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from typing import Annotated, Any, Protocol, TypeVar

from fastapi import Query, Request
from fastapi.responses import JSONResponse

from hone.errors import BadInputError, HoneError, StorageError, VersionError
from hone.evaluation.grading import GraderError
from hone.types import JsonDict

__all__ = [
    "ERROR_RESPONSES",
    "After",
    "ApiError",
    "Limit",
    "WireResponse",
    "as_api_error",
    "error_response",
    "list_page",
    "page_after",
    "query_metadata",
]

_BAD_REQUEST = 400
_FORBIDDEN = 403
_NOT_FOUND = 404
_SERVER_ERROR = 500
_UNAVAILABLE = 503

After = Annotated[str | None, Query(description="The id of the last object of the page before.")]
Limit = Annotated[int, Query(ge=0, le=10_000, description="Objects of a page, at most.")]

_ERROR_SCHEMA = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": ["string", "null"]},
            },
        }
    },
}
ERROR_RESPONSES: dict[int | str, dict[str, Any]] = {
    status: {"description": description, "content": {"application/json": {"schema": _ERROR_SCHEMA}}}
    for status, description in (
        (400, "The request is wrong; the message says what."),
        (401, "The key is missing or wrong."),
        (403, "The address or the origin is not allowed."),
        (404, "There is no such object."),
        (413, "The request is too large."),
        (429, "Too many requests at once; come again after Retry-After seconds."),
        (503, "The registry or the disk cannot be used now."),
    )
}
"""What every route may answer besides its object, for the OpenAPI document."""


class _Listed(Protocol):
    @property
    def id(self) -> str: ...


_Row = TypeVar("_Row", bound=_Listed)


class WireResponse(JSONResponse):
    """JSON as UTF-8; half of a surrogate pair, which no encoding has, becomes an escape that JSON allows."""

    def render(self, content: Any) -> bytes:
        """The body's bytes."""
        return json.dumps(content, ensure_ascii=False, allow_nan=False).encode(errors="backslashreplace")


class ApiError(HoneError):
    """A request that is answered with an error, in the words of the OpenAI API.

    Args:
        message: what was wrong, as the client shows it.
        status: the HTTP status. Never 409 for something that is over already: clients send those again.
        kind: the error's ``type``.
        param: the field or parameter that was wrong.
        code: a word for programs, as ``model_not_found``.
        headers: further headers of the answer, as ``Retry-After``.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int = _BAD_REQUEST,
        kind: str = "invalid_request_error",
        param: str | None = None,
        code: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.status = status
        self.kind = kind
        self.param = param
        self.code = code
        self.headers = dict(headers or {})

    def body(self) -> JsonDict:
        """The answer's JSON."""
        return {"error": {"message": self.message, "type": self.kind, "param": self.param, "code": self.code}}


def as_api_error(error: HoneError) -> ApiError:
    """Any error of hone in the API's words.

    Bad input is 400, a version that is not there 404, a locked or full disk 503, everything else 500. Paths of this
    machine, which ``where`` holds, are left out: the client cannot use them.

    Args:
        error: what a layer below raised.
    """
    if isinstance(error, ApiError):
        return error
    parts = [error.what, *error.details[:20]]
    message = "; ".join(part.rstrip(".;") for part in parts) + (f". {error.remedy}" if error.remedy else "")
    if isinstance(error, VersionError):
        return ApiError(message, status=_NOT_FOUND, param="model", code="model_not_found")
    if isinstance(error, GraderError):
        return _refused_grader(error)
    if isinstance(error, BadInputError):
        return ApiError(message)
    if isinstance(error, StorageError):
        return ApiError(message, status=_UNAVAILABLE, kind="server_error", code="storage_error")
    return ApiError(message, status=_SERVER_ERROR, kind="server_error")


def _refused_grader(error: GraderError) -> ApiError:
    if error.code == "python_graders_disabled":
        text = "This server runs no programs that a request holds; start it with --allow-python-graders."
        return ApiError(text, status=_FORBIDDEN, param="grader.type", code=error.code)
    return ApiError(error.what, param=f"grader.{error.field}", code=error.code)


def list_page(data: Sequence[JsonDict], *, has_more: bool) -> JsonDict:
    """One page of a list.

    Args:
        data: its objects, each with an ``id``.
        has_more: whether another page follows.
    """
    return {
        "object": "list",
        "data": list(data),
        "first_id": data[0]["id"] if data else None,
        "last_id": data[-1]["id"] if data else None,
        "has_more": has_more,
    }


def page_after(
    rows: Sequence[_Row], *, after: str | None, limit: int, cursors: Collection[str] = ()
) -> tuple[list[_Row], bool]:
    """One page of rows and whether another follows.

    Args:
        rows: all of them in the list's order, deleted ones too, so that a page can begin after one of those.
        after: id of the row before the page.
        limit: rows of a page.
        cursors: values of ``after`` that stand for the end of any list.

    Raises:
        ApiError: no row has the id ``after``.
    """
    begin = 0
    if after in cursors:
        begin = len(rows)
    elif after is not None:
        places = [place for place, row in enumerate(rows) if row.id == after]
        if not places:
            raise ApiError(f"No such object to list after: {after}", param="after")
        begin = places[0] + 1
    there = [row for row in rows[begin:] if getattr(row, "deleted_at", None) is None]
    return there[:limit], len(there) > limit


def error_response(error: HoneError) -> WireResponse:
    """The answer to a request that failed."""
    told = as_api_error(error)
    return WireResponse(told.body(), status_code=told.status, headers=told.headers)


def query_metadata(request: Request) -> dict[str, str]:
    """The metadata that a list is asked for: ``metadata[key]=value``."""
    return {
        name.removeprefix("metadata[")[:-1]: value
        for name, value in request.query_params.multi_items()
        if name.startswith("metadata[") and name.endswith("]")
    }
