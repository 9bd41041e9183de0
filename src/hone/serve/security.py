"""What a request must pass before any route sees it: address, origin, key, size, and how many are answered at once.

Source for the checks of Host and Origin: OWASP, DNS rebinding and cross-site request forgery. No header allows other
sites' pages to read an answer, and nothing is fetched from a URL that a request names.
"""

from __future__ import annotations

import hmac
import os
import secrets
import stat
from pathlib import Path

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from hone.errors import ConfigError
from hone.files import write_atomically
from hone.serve.settings import ServerSettings
from hone.serve.wire import ApiError, error_response

__all__ = ["OPEN_PATHS", "Guard", "read_key"]

OPEN_PATHS = ("/healthz", "/readyz")
"""Asked by supervisors, which have no key; they say nothing but that the server lives."""

_SAFE_METHODS = ("GET", "HEAD", "OPTIONS")
_UPLOADS = "/v1/files"
_RETRY_AFTER_SECONDS = 1
_KEY_BYTES = 32
_SHORTEST_KEY = 16
# What the parts of a form take beside the file that it carries.
_FORM_BYTES = 64 * 1024


class Guard:
    """ASGI middleware: lets a request through, or answers why not.

    Args:
        app: what is guarded.
        settings: of the server.
    """

    def __init__(self, app: ASGIApp, settings: ServerSettings) -> None:
        self._app = app
        self._settings = settings
        self._answering = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self._app(scope, receive, send)
            return
        refused = self._refusal(scope)
        if refused is not None:
            await error_response(refused)(scope, receive, send)
            return
        self._answering += 1
        try:
            await self._app(scope, _Limited(receive, self._most_bytes(scope)), send)
        finally:
            self._answering -= 1

    def _refusal(self, scope: Scope) -> ApiError | None:
        headers, settings = Headers(scope=scope), self._settings
        host = headers.get("host", "")
        if _without_port(host) not in settings.hosts:
            return ApiError(
                f"This server does not answer for the host {host!r}; name it with --allow-host.",
                status=403,
                code="host_not_allowed",
            )
        origin = headers.get("origin")
        if origin is not None and scope["method"] not in _SAFE_METHODS and origin not in settings.origins:
            return ApiError(
                f"Pages of {origin!r} may not change anything here; name the origin with --allow-origin.",
                status=403,
                code="origin_not_allowed",
            )
        if settings.key is not None and scope["path"] not in OPEN_PATHS and not _has_key(headers, settings.key):
            return ApiError(
                "The key is missing or wrong: send the header Authorization: Bearer KEY.",
                status=401,
                code="invalid_api_key",
                headers={"WWW-Authenticate": "Bearer"},
            )
        if self._answering >= settings.most_requests:
            return ApiError(
                f"The server answers {settings.most_requests} requests already.",
                status=429,
                kind="rate_limit_error",
                code="rate_limit_exceeded",
                headers={"Retry-After": str(_RETRY_AFTER_SECONDS)},
            )
        most, given = self._most_bytes(scope), headers.get("content-length", "0")
        return _too_large(most) if given.isdigit() and int(given) > most else None

    def _most_bytes(self, scope: Scope) -> int:
        uploads = scope["path"] == _UPLOADS
        return self._settings.most_upload_bytes + _FORM_BYTES if uploads else self._settings.most_body_bytes


class _Limited:
    """A request's body that is broken off where it grows too large, whatever its length was said to be."""

    def __init__(self, receive: Receive, most_bytes: int) -> None:
        self._receive = receive
        self._most_bytes = most_bytes
        self._seen_bytes = 0

    async def __call__(self) -> Message:
        message = await self._receive()
        self._seen_bytes += len(message.get("body", b""))
        if self._seen_bytes > self._most_bytes:
            raise _too_large(self._most_bytes)
        return message


def read_key(path: Path) -> str:
    """The key in a file that its owner alone may read; a new one is made where there is no file.

    Args:
        path: the file.

    Raises:
        ConfigError: others may read the file, or what it holds is too short or not plain.
        StorageError: it cannot be written.
    """
    if not path.exists():
        before = os.umask(0o077)  # nobody else may read it at any moment
        try:
            write_atomically(path, secrets.token_urlsafe(_KEY_BYTES) + "\n")
        finally:
            os.umask(before)
        path.chmod(0o600)
    mode = stat.S_IMODE(path.stat().st_mode)
    if os.name == "posix" and mode & 0o077:
        raise ConfigError(
            f"others may read it (mode {mode:04o})",
            where=str(path),
            why="whoever has the key can train and ask every model here",
            remedy=f"chmod 600 {path}",
        )
    key = path.read_text(encoding="utf-8", errors="replace").strip()
    if len(key) < _SHORTEST_KEY or not key.isascii() or not key.isprintable() or " " in key:
        raise ConfigError(
            f"holds no key: one is {_SHORTEST_KEY} or more plain characters without a space",
            where=str(path),
            remedy="remove the file; the next start makes a new one",
        )
    return key


def _has_key(headers: Headers, key: str) -> bool:
    scheme, _, given = headers.get("authorization", "").partition(" ")
    # both sides as bytes: compare_digest takes the same time wherever they differ
    same = hmac.compare_digest(given.strip().encode("utf-8", "replace"), key.encode())
    return same and scheme.lower() == "bearer"


def _without_port(host: str) -> str:
    name, _, port = host.lower().rpartition(":")
    return name if name and port.isdigit() and (not name.count(":") or name.startswith("[")) else host.lower()


def _too_large(most_bytes: int) -> ApiError:
    return ApiError(
        f"The request is larger than {most_bytes} bytes, the most that this server takes.",
        status=413,
        code="request_too_large",
    )
