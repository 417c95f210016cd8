"""The simulator beneath the real SDK: an `httpx2` transport that answers in process, on asyncio and Trio alike."""

from __future__ import annotations

from collections.abc import AsyncIterator

import httpx2

from sessions.clock import Clock
from sessions.simulator.doors.api import Api, Response, catalogue, lowered
from sessions.simulator.doors.delivery import Broken, Latency, Stalled, Stream
from sessions.simulator.engine import Engine
from sessions.simulator.exchange import HttpRequest
from sessions.simulator.tokens import BYTES_PER_TOKEN


class Transport(httpx2.AsyncBaseTransport):
    """Answers every request of an `httpx2.AsyncClient` from `engine`, at `clock`'s time."""

    characters_per_token: float = BYTES_PER_TOKEN

    def __init__(self, engine: Engine, *, clock: Clock | None = None, latency: Latency | None = None) -> None:
        self._api = Api(engine, clock=clock, latency=latency)
        self.engine, self.clock, self.latency = engine, self._api.clock, self._api.latency

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """One HTTP request. Raises `httpx2.RemoteProtocolError` where a fault drops the connection."""
        raw = await request.aread()
        if (page := catalogue(request.method, request.url.path)) is not None:
            return _whole(page)
        await self._api.catch_up()
        exchange = self._api.receive(_read(request, raw))
        try:
            response = await self._api.respond(exchange)
        except Broken:
            raise _cut(request) from None
        if response is None:
            raise _cut(request)
        if response.content is not None:
            return _whole(response)
        timeout = (request.extensions.get("timeout") or {}).get("read")
        body = _Body(self._api.stream(exchange, timeout), request)
        return httpx2.Response(response.status, headers=response.headers, stream=body)


def _read(request: httpx2.Request, raw: bytes) -> HttpRequest:
    url = request.url
    return HttpRequest(
        method=request.method,
        path=url.path,
        headers=lowered(request.headers),
        raw=raw,
        query=url.query.decode(),
        base_url=f"{url.scheme}://{url.netloc.decode()}",
    )


def _whole(response: Response) -> httpx2.Response:
    return httpx2.Response(response.status, headers=response.headers, content=response.content)


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
