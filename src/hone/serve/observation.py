"""What is told of each request: a line of the log, and the counters of ``/metrics``."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from datetime import UTC, datetime

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from hone.serve.metrics import Metrics
from hone.types import JsonDict

__all__ = ["Observed", "json_line"]

_UNMATCHED = "unmatched"


class Observed:
    """ASGI middleware: measures every request, answered or refused.

    Args:
        app: what is measured.
        metrics: receives counts and durations by route.
        tell: receives a line for each request; never the key, nor what was sent.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics, tell: Callable[[JsonDict], None]) -> None:
        self._app = app
        self._metrics = metrics
        self._tell = tell

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began, told = time.perf_counter(), {"status": 500, "bytes": 0}

        async def watched(message: Message) -> None:
            if message["type"] == "http.response.start":
                told["status"] = message["status"]
            told["bytes"] += len(message.get("body", b""))
            await send(message)

        try:
            await self._app(scope, receive, watched)
        finally:
            self._record(scope, told, time.perf_counter() - began)

    def _record(self, scope: Scope, told: dict[str, int], seconds: float) -> None:
        route = getattr(scope.get("route"), "path", _UNMATCHED)
        method, status = scope["method"], str(told["status"])
        method = method if method in ("GET", "POST", "DELETE", "HEAD", "OPTIONS", "PUT", "PATCH") else "other"
        self._metrics.count("hone_requests_total", "Requests answered.", method=method, route=route, status=status)
        self._metrics.time(
            "hone_request_seconds", "Seconds from a request to the end of its answer.", seconds, route=route
        )
        client = scope.get("client") or ("", 0)
        self._tell(
            {"event": "request", "method": method, "path": scope["path"], "route": route, "status": told["status"],
             "bytes": told["bytes"], "seconds": round(seconds, 6), "client": client[0]}
        )  # fmt: skip


def json_line(value: JsonDict) -> str:
    """One line of a log for programs: the time in UTC, then what happened."""
    now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return json.dumps({"time": now, **value}, ensure_ascii=False).encode(errors="backslashreplace").decode()
