"""Errors as RFC 9457 has them: `application/problem+json` with a status, a title, and a detail that says what to do."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

import pydantic
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from sessions import (
    BudgetExceeded,
    ConfigurationError,
    Conflict,
    InvalidHistory,
    ModelError,
    SessionBusy,
    SessionNotFound,
    SessionsError,
    ToolsChanged,
)
from sessions.web.limits import TooMany

log = logging.getLogger("sessions")

_STATUS: Mapping[type[Exception], int] = {
    SessionNotFound: 404,
    SessionBusy: 409,
    ToolsChanged: 409,
    Conflict: 409,
    BudgetExceeded: 409,
    InvalidHistory: 422,
    ConfigurationError: 422,
    ModelError: 502,
    SessionsError: 503,
}
"""The first that an error is an instance of, in this order."""
NOT_FOUND = "there is no such session"
"""Said of one that is absent and of one that is somebody else's: nobody learns which ids there are."""
RETRY_AFTER = 1


class Refused(Exception):
    """A request that cannot be done as it is. `status`: of HTTP; `detail`: what to do."""

    def __init__(self, status: int, detail: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(detail)
        self.status, self.detail, self.headers = status, detail, headers


HEADERS: Mapping[str, str] = {
    "Cache-Control": "no-store",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
"""Of every response that has no others of the name: it is for whoever asked, and for nobody in between."""


def problem(status: int, detail: str, headers: Mapping[str, str] | None = None) -> JSONResponse:
    """The response that tells of an error."""
    title = HTTPStatus(status).phrase
    content = {"type": "about:blank", "title": title, "status": status, "detail": detail}
    return JSONResponse(content, status, headers={**HEADERS, **(headers or {})}, media_type="application/problem+json")


def told(error: Exception) -> JSONResponse:
    """An error of ours, or of what was sent, as a response; any other is raised again."""
    if isinstance(error, Refused):
        return problem(error.status, error.detail, error.headers)
    if isinstance(error, TooMany):
        return problem(429, str(error), {"Retry-After": str(math.ceil(error.seconds))})
    if isinstance(error, pydantic.ValidationError):
        return problem(422, _wrong(error))
    if isinstance(error, SessionNotFound):
        return problem(404, NOT_FOUND)
    if isinstance(error, SessionsError):
        status = next(status for kind, status in _STATUS.items() if isinstance(error, kind))
        headers = {"Retry-After": str(RETRY_AFTER)} if status == 503 else None
        return problem(status, str(error) or type(error).__name__, headers)
    raise error


def _wrong(error: pydantic.ValidationError) -> str:
    """The first thing that is wrong with what was sent, and where; none of what was sent is repeated."""
    first = error.errors(include_url=False, include_input=False)[0]
    where = ".".join(str(part) for part in first["loc"])
    return f"{where or 'the body'}: {first['msg']}"


async def _told(request: Request, error: Exception) -> Response:
    return told(error)


async def _of_http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return problem(error.status_code, error.detail, error.headers)


async def _failed(request: Request, error: Exception) -> Response:
    # Starlette raises it again for the server's log.
    return problem(500, "the server failed: its log says why")


HANDLERS: Mapping[Any, Any] = {
    HTTPException: _of_http,
    Refused: _told,
    TooMany: _told,
    pydantic.ValidationError: _told,
    SessionsError: _told,
    Exception: _failed,
}
"""What Starlette is told to do with each kind of error."""
