"""The ASGI application: every route in one place, and every failure in the API's words."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager

from fastapi import APIRouter, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import PlainTextResponse, Response
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Receive, Scope, Send

from hone import __version__
from hone.errors import HoneError
from hone.registry.jobs import list_jobs
from hone.serve.files import files_router
from hone.serve.graders import AnswerChat, graders_router
from hone.serve.jobs import jobs_router
from hone.serve.metrics import CONTENT_TYPE, Labels, Metrics
from hone.serve.models import models_router
from hone.serve.observation import Observed
from hone.serve.permissions import permissions_router
from hone.serve.rankings import rankings_router
from hone.serve.security import Guard
from hone.serve.settings import ServerSettings
from hone.serve.stored import stored_router
from hone.serve.wire import ApiError, WireResponse, error_response
from hone.types import JsonDict

__all__ = ["create_app"]

_FIELD = re.compile(r"(?!(?:int|float|str|bool|list\[.*)$)[A-Za-z_]\w*(?:\[\w+\])?|\d+")

Lifespan = Callable[[FastAPI], AbstractAsyncContextManager[None]]


def create_app(
    settings: ServerSettings,
    *,
    answering: Sequence[APIRouter] = (),
    answer_chat: AnswerChat | None = None,
    metrics: Metrics | None = None,
    tell: Callable[[JsonDict], None] = lambda _line: None,
    is_ready: Callable[[], bool] = lambda: True,
    before_request: Callable[[str], None] | None = None,
    lifespan: Lifespan | None = None,
) -> ASGIApp:
    """The server.

    Args:
        settings: what it was started with.
        answering: the routes that need a model in memory: chat, completions, embeddings.
        answer_chat: asks a served model, for the grader ``score_model``; that grader is refused without it.
        metrics: receives counts; further ones may be in it.
        tell: receives a line of the log for each request.
        is_ready: whether requests are to be sent here; False while it stops.
        before_request: called with a request's path before it is answered, for conformance tests.
        lifespan: what is done before the first request and after the last.
    """
    counted = metrics or Metrics()
    app = FastAPI(
        title="hone", version=__version__, lifespan=lifespan, redirect_slashes=False,
        default_response_class=WireResponse,
        description="The OpenAI API over bases, versions and fine-tuning jobs of one home folder.",
        swagger_ui_oauth2_redirect_url=None, docs_url=None, redoc_url=None,
    )  # fmt: skip
    routers = (files_router, jobs_router, permissions_router, models_router, stored_router, rankings_router)
    for router in (*answering, *(make(settings) for make in routers), graders_router(settings, answer_chat)):
        app.include_router(router)
    app.include_router(_operation(settings, counted, is_ready))
    app.add_exception_handler(HoneError, _hone_error)
    app.add_exception_handler(RequestValidationError, _validation_error)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(UnicodeEncodeError, _unicode_error)
    if before_request is not None:
        app.add_middleware(_Before, before_request)
    return Observed(Guard(app, settings), counted, tell)


def _operation(settings: ServerSettings, metrics: Metrics, is_ready: Callable[[], bool]) -> APIRouter:
    router = APIRouter(tags=["operation"])

    def jobs_by_status() -> dict[Labels, float]:
        counts: dict[Labels, float] = {}
        for job in list_jobs(settings.home):
            key = (("status", job.status),)
            counts[key] = counts.get(key, 0.0) + 1
        return counts

    metrics.gauge("hone_jobs", "Fine-tuning jobs by status.", jobs_by_status)

    @router.get("/healthz")
    def health() -> JsonDict:
        """Whether the server lives."""
        return {"status": "ok"}

    @router.get(
        "/readyz",
        response_class=PlainTextResponse,
        responses={503: {"description": "It stops, or its registry cannot be used."}},
    )
    def readiness() -> Response:
        """Whether requests are to be sent here."""
        if not is_ready():
            return PlainTextResponse("stopping\n", status_code=503)
        list_jobs(settings.home)  # a registry that cannot be read raises, which is 503
        return PlainTextResponse("ready\n")

    @router.get("/metrics", response_class=PlainTextResponse)
    def prometheus() -> Response:
        """Counters in Prometheus' text format."""
        return Response(metrics.text(), headers={"content-type": CONTENT_TYPE})

    return router


class _Before:
    """Calls a function before each request."""

    def __init__(self, app: ASGIApp, before_request: Callable[[str], None]) -> None:
        self._app = app
        self._before_request = before_request

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] == "http":
            self._before_request(scope["path"])
        await self._app(scope, receive, send)


def _hone_error(_request: Request, error: Exception) -> Response:
    assert isinstance(error, HoneError)
    return error_response(error)


def _validation_error(_request: Request, error: Exception) -> Response:
    """The first problem names the parameter; all are in the message."""
    assert isinstance(error, RequestValidationError)
    problems: dict[str, list[str]] = {}
    for one in error.errors():
        # of a union, pydantic names the kind that it tried as well, as "literal['auto']"
        parts = [str(part) for part in one["loc"][1:] if _FIELD.fullmatch(str(part))]
        problems.setdefault(".".join(parts), []).append(str(one["msg"]))
    named = [f"{place}: {' or '.join(found)}" if place else " or ".join(found) for place, found in problems.items()]
    param = next(iter(problems), None) or None
    return error_response(ApiError("; ".join(named) or "the request is wrong", param=param, code="invalid_value"))


def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    if isinstance(error.__cause__, HoneError):  # raised while the body was read
        return error_response(error.__cause__)
    if error.status_code == 404:
        told = ApiError(f"Unknown request URL: {request.method} {request.url.path}", status=404, code="unknown_url")
    else:
        told = ApiError(str(error.detail), status=error.status_code, headers=dict(error.headers or {}))
    return error_response(told)


def _unicode_error(_request: Request, _error: Exception) -> Response:
    return error_response(
        ApiError("The request holds half of a surrogate pair, which no text has.", code="invalid_value")
    )
