"""The way from a peer to the simulator: transports beneath the HTTP libraries that peers use, no socket."""

from __future__ import annotations

import httpx
from anthropic import AsyncAnthropic

from sessions import simulator
from sessions.clock import Clock, SystemClock
from sessions.simulator import Engine, Latency
from sessions.simulator.doors.api import Api, lowered
from sessions.simulator.exchange import HttpRequest


class Hands:
    """A clock that shows what it was set to; a peer's request takes no time."""

    def __init__(self) -> None:
        self.at = 0.0

    def now(self) -> float:
        return self.at

    async def sleep(self, seconds: float) -> None:
        raise AssertionError(f"a peer's request waited {seconds} seconds")


class Door:
    """One simulator and its time: set by hand, or with a `latency` the machine's own. `client` is the SDK's, `http` a
    client of `httpx`."""

    def __init__(self, engine: Engine, latency: Latency | None = None) -> None:
        self.engine = engine
        self.hands = Hands()
        self.latency = latency or Latency()
        self.clock: Clock = SystemClock() if latency else self.hands

    def client(self) -> AsyncAnthropic:
        """A client of the real SDK."""
        return simulator.client(engine=self.engine, clock=self.clock, latency=self.latency, max_retries=0)

    def http(self) -> httpx.AsyncClient:
        """A client of `httpx`, for peers that do without the SDK."""
        return httpx.AsyncClient(transport=_Transport(self))


class _Transport(httpx.AsyncBaseTransport):
    def __init__(self, door: Door) -> None:
        self._api = Api(door.engine, clock=door.clock, latency=door.latency)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        raw, headers = await request.aread(), lowered(request.headers)
        exchange = self._api.receive(HttpRequest(request.method, request.url.path, headers, raw))
        response = await self._api.respond(exchange)
        if response is None or response.content is None:
            raise AssertionError("a peer asked for a stream")
        return httpx.Response(response.status, headers=response.headers, content=response.content)
