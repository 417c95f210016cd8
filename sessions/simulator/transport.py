"""The simulator beneath the real SDK: an `httpx2` transport that answers in process, on asyncio and Trio alike."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import httpx2

from sessions.clock import Clock, SystemClock
from sessions.simulator.batches import ROOT as BATCHES
from sessions.simulator.catalogue import models
from sessions.simulator.delivery import Broken, Latency, Stalled, Stream, prepare
from sessions.simulator.engine import Engine
from sessions.simulator.exchange import Exchange
from sessions.simulator.refusal import Refusal
from sessions.simulator.tokens import BYTES_PER_TOKEN

LARGEST = 32 * 1024 * 1024
"""Bytes of a request body (Messages reference, 2026)."""
TOO_LARGE = Refusal("Request exceeds the maximum size", status=413)

_ENCODE = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


class Transport(httpx2.AsyncBaseTransport):
    """Answers every request of an `httpx2.AsyncClient` from `engine`, at `clock`'s time."""

    characters_per_token: float = BYTES_PER_TOKEN

    def __init__(self, engine: Engine, *, clock: Clock | None = None, latency: Latency | None = None) -> None:
        self.engine = engine
        self.clock: Clock = clock or SystemClock()
        self.latency = latency or Latency()

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """One HTTP request. Raises `httpx2.RemoteProtocolError` where a fault drops the connection."""
        raw = await request.aread()
        path = request.url.path
        if request.method == "GET" and path.startswith("/v1/models"):
            status, body = models(path)
            return httpx2.Response(status, json=body)
        await self.engine.batches.process(self.clock.now())
        if path.startswith(BATCHES):
            exchange = self._batches(request, raw)
        else:
            exchange = receive(self.engine, path, raw, request.headers, self.clock.now())
        try:
            await prepare(self.engine, exchange, self.clock, self.latency)
        except Broken:
            raise _cut(request) from None
        if exchange.state == "failed" and exchange.ok:
            raise _cut(request)
        headers = exchange.headers
        if exchange.lines is not None and exchange.error is None:
            return httpx2.Response(200, headers={**headers, **_LINES}, content=jsonl(exchange.lines))
        if exchange.error is not None or exchange.result is not None:
            content = _ENCODE(exchange.error or exchange.result).encode("utf-8", "surrogatepass")
            return httpx2.Response(exchange.status, headers={**headers, **_JSON}, content=content)
        kind = _JSON if exchange.fault is not None and exchange.fault.kind == "json" else _EVENTS
        timeout = (request.extensions.get("timeout") or {}).get("read")
        stream = Stream(self.engine, exchange, self.clock, self.latency, timeout)
        return httpx2.Response(200, headers={**headers, **kind}, stream=_Body(stream, request))

    def _batches(self, request: httpx2.Request, raw: bytes) -> Exchange:
        url = request.url
        base = str(url.copy_with(raw_path=b"")).rstrip("/")
        return self.engine.batches.receive(
            request.method, (url.path, url.query.decode()), raw, lowered(request.headers), self.clock.now(),
            base_url=base, seconds=self.latency.batch,
        )  # fmt: skip


_LINES = {"content-type": "application/x-jsonl"}
_JSON = {"content-type": "application/json"}
_EVENTS = {"content-type": "text/event-stream; charset=utf-8", "cache-control": "no-cache"}


def receive(engine: Engine, path: str, raw: bytes, headers: Any, now: float) -> Exchange:
    """Parses a request and hands it to the engine; unknown paths and unreadable bodies are refused there."""
    names = lowered(headers)
    if len(raw) > LARGEST:
        return engine.reject(TOO_LARGE, path, now)
    try:
        body = json.loads(raw)
    except RecursionError:
        return engine.reject(Refusal("The request body is not valid JSON: nested too deeply"), path, now)
    except ValueError as error:
        return engine.reject(Refusal(f"The request body is not valid JSON: {error}"), path, now)
    if path == "/v1/messages":
        return engine.receive(body, names, now)
    if path == "/v1/messages/count_tokens":
        return engine.count_tokens(body, names, now)
    return engine.reject(Refusal("Not Found", status=404), path, now)


def lowered(headers: Any) -> dict[str, str]:
    """Headers by their names in small letters."""
    return {name.lower(): value for name, value in headers.items()}


def jsonl(lines: list[dict[str, Any]]) -> bytes:
    """One JSON value to a line."""
    return "".join(f"{_ENCODE(line)}\n" for line in lines).encode("utf-8", "surrogatepass")


class _Body(httpx2.AsyncByteStream):
    """A `Stream` in the transport's own errors; closing it early tells the engine that the client left."""

    def __init__(self, stream: Stream, request: httpx2.Request) -> None:
        self._stream = stream
        self._request = request

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        try:
            return await self._stream.__anext__()
        except Broken:
            raise _cut(self._request) from None
        except Stalled:
            raise httpx2.ReadTimeout("", request=self._request) from None

    async def aclose(self) -> None:
        self._stream.close()


def _cut(request: httpx2.Request) -> httpx2.RemoteProtocolError:
    return httpx2.RemoteProtocolError(
        "peer closed connection without sending complete message body (incomplete chunked read)", request=request
    )
