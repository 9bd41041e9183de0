"""The wire of the OpenAI API: its errors and its lists.

Source: the OpenAI API reference, and what the ``openai`` clients for Python and Node expect. An error is
``{"error": {"message", "type", "param", "code"}}``; a list is ``{"object": "list", "data", "first_id", "last_id", "has_more"}``.
"""

from __future__ import annotations

from collections.abc import Sequence

from hone.errors import BadInputError, HoneError, StorageError, VersionError
from hone.types import JsonDict

__all__ = ["ApiError", "as_api_error", "list_page"]

_BAD_REQUEST = 400
_NOT_FOUND = 404
_SERVER_ERROR = 500
_UNAVAILABLE = 503


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
    if isinstance(error, BadInputError):
        return ApiError(message)
    if isinstance(error, StorageError):
        return ApiError(message, status=_UNAVAILABLE, kind="server_error", code="storage_error")
    return ApiError(message, status=_SERVER_ERROR, kind="server_error")


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
