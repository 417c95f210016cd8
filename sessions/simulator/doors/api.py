"""The API behind every door: where a request goes, and what goes back, before it becomes a door's own bytes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sessions.clock import Clock, SystemClock
from sessions.simulator.batch import ROOT as BATCHES
from sessions.simulator.batches import LARGEST as LARGEST_BATCH
from sessions.simulator.batches import Batches
from sessions.simulator.catalogue import models
from sessions.simulator.checks.refusal import Refusal
from sessions.simulator.doors.delivery import Latency, Stream, prepare
from sessions.simulator.engine import Engine
from sessions.simulator.exchange import Exchange, HttpRequest

MESSAGES, COUNTING, MODELS = "/v1/messages", "/v1/messages/count_tokens", "/v1/models"
LARGEST = 32 * 1024 * 1024
"""Bytes of a request body (Messages reference, 2026)."""
TOO_LARGE = Refusal("Request exceeds the maximum size", status=413)

_ENCODE = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
_JSON = {"content-type": "application/json"}
_LINES = {"content-type": "application/x-jsonl"}
_EVENTS = {"content-type": "text/event-stream; charset=utf-8", "cache-control": "no-cache"}


@dataclass(frozen=True, slots=True)
class Response:
    """What goes back. `content`: the body, `None` where it comes in pieces, as a `Stream` makes them."""

    status: int
    headers: Mapping[str, str]
    content: bytes | None


class Api:
    """One engine as HTTP requests see it, at `clock`'s time."""

    def __init__(self, engine: Engine, *, clock: Clock | None = None, latency: Latency | None = None) -> None:
        self.engine = engine
        self.clock: Clock = clock or SystemClock()
        self.latency = latency or Latency()
        self._batches = Batches(engine)

    async def catch_up(self) -> None:
        """Lets happen what has fallen due since the last request: batches are processed. Await it before `receive`."""
        await self._batches.process(self.clock.now())

    def receive(self, request: HttpRequest) -> Exchange:
        """Hands a request to the engine. Never raises: an unknown path or an unreadable body is a refused exchange."""
        if request.path.startswith(BATCHES):
            return self._batches.receive(request, self.clock.now(), seconds=self.latency.batch)
        if len(request.raw) > LARGEST:
            return self.reject(request.path, TOO_LARGE)
        try:
            body = json.loads(request.raw)
        except RecursionError:
            return self.reject(request.path, Refusal("The request body is not valid JSON: nested too deeply"))
        except ValueError as error:
            return self.reject(request.path, Refusal(f"The request body is not valid JSON: {error}"))
        if request.path == MESSAGES:
            return self.engine.receive(body, request.headers, self.clock.now())
        if request.path == COUNTING:
            return self.engine.count_tokens(body, request.headers, self.clock.now())
        return self.reject(request.path, Refusal("Not Found", status=404))

    def reject(self, path: str, refusal: Refusal) -> Exchange:
        """A request that a door does not even read."""
        return self.engine.reject(refusal, path, self.clock.now())

    async def respond(self, exchange: Exchange) -> Response | None:
        """What goes back once it begins; `None` where the connection is dropped before any header.

        Raises `Broken` where a message that is not streamed breaks off, `ScriptError` where the script fails.
        """
        await prepare(self.engine, exchange, self.clock, self.latency)
        if exchange.error is not None:
            return json_response(exchange.status, exchange.error, exchange.headers)
        if exchange.state == "failed":
            return None
        if exchange.lines is not None:
            return Response(200, {**exchange.headers, **_LINES}, jsonl(exchange.lines))
        if exchange.result is not None:
            return json_response(exchange.status, exchange.result, exchange.headers)
        kind = _JSON if exchange.fault is not None and exchange.fault.kind == "json" else _EVENTS
        return Response(200, {**exchange.headers, **kind}, None)

    def stream(self, exchange: Exchange, read_timeout: float | None = None) -> Stream:
        """The rest of a response without `content`. `read_timeout`: the client's, in seconds."""
        return Stream(self.engine, exchange, self.clock, self.latency, read_timeout)


def largest(path: str) -> int:
    """The most bytes that a request to `path` may have."""
    return LARGEST_BATCH if path.startswith(BATCHES) else LARGEST


def catalogue(method: str, path: str) -> Response | None:
    """The models, for a request that asks for them (no exchange is kept of it), else `None`."""
    if method != "GET" or not (path == MODELS or path.startswith(f"{MODELS}/")):
        return None
    status, body = models(path)
    return json_response(status, body)


def lowered(headers: Mapping[str, str]) -> dict[str, str]:
    """Headers by their names in small letters."""
    return {name.lower(): value for name, value in headers.items()}


def json_response(status: int, body: Any, headers: Mapping[str, str] | None = None) -> Response:
    """`body` as JSON."""
    return Response(status, {**(headers or {}), **_JSON}, _ENCODE(body).encode("utf-8", "surrogatepass"))


def jsonl(lines: list[dict[str, Any]]) -> bytes:
    """One JSON value to a line."""
    return "".join(f"{_ENCODE(line)}\n" for line in lines).encode("utf-8", "surrogatepass")
