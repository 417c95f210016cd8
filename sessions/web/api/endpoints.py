"""An endpoint of the JSON API: its path, what it takes, what it gives. Routes and OpenAPI are made of these."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import pydantic
from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from sessions.web.problems import Refused

Handler: TypeAlias = Callable[..., Awaitable[BaseModel | Response | None]]


@dataclass(frozen=True, slots=True)
class Endpoint:
    """`takes`: the model of the body, given to `handler` behind the request. `query`: parameters and what they say."""

    method: str
    path: str
    handler: Handler
    summary: str
    gives: type[BaseModel] | None = None
    takes: type[BaseModel] | None = None
    status: int = 200
    query: dict[str, str] = field(default_factory=dict)
    media_type: str = "application/json"

    @property
    def route(self) -> Route:
        """The route that answers it."""
        return Route(self.path, self._answer, methods=[self.method])

    async def _answer(self, request: Request) -> Response:
        given = [] if self.takes is None else [await sent(request, self.takes)]
        answer = await self.handler(request, *given)
        if isinstance(answer, Response):
            return answer
        if answer is None:
            return Response(status_code=204)
        return told(answer, self.status)


async def sent(request: Request, model: type[BaseModel]) -> BaseModel:
    """The body of a request. Raises `Refused` for no JSON, and `ValidationError`."""
    body = await request.body()
    try:
        return model.model_validate_json(body or b"{}")
    except pydantic.ValidationError as error:
        if any(one["type"] == "json_invalid" for one in error.errors(include_url=False, include_input=False)):
            raise Refused(400, "the body is no JSON") from None
        raise


def told(answer: BaseModel, status: int = 200) -> Response:
    """An answer as JSON."""
    return Response(answer.model_dump_json(), status, media_type="application/json")


def query(request: Request, name: str) -> str | None:
    """A parameter of the query that is given, and not empty."""
    return request.query_params.get(name) or None


def number(request: Request, name: str, default: int, most: int) -> int:
    """A whole number of the query, at least 1. Raises `Refused`."""
    text: Any = query(request, name)
    if text is None:
        return default
    if not text.isdecimal() or not 1 <= int(text[:9]) <= most:
        raise Refused(422, f"{name} must be a whole number from 1 to {most}")
    return int(text)
