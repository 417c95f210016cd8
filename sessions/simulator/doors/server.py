"""The simulator over HTTP, for any client: `/v1/messages`, its batches, `/v1/models`, and its own bill and journal.

A plain ASGI application under uvicorn. A fault that cuts a connection really cuts it: the response stops half-way.
"""

from __future__ import annotations

import asyncio
import re
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, MutableMapping
from contextlib import asynccontextmanager, contextmanager
from ipaddress import ip_address
from typing import Any

import anyio
import uvicorn

from sessions.clock import Clock
from sessions.simulator.batch import ROOT as BATCHES
from sessions.simulator.checks.refusal import Refusal
from sessions.simulator.doors.api import (
    COUNTING,
    MESSAGES,
    MODELS,
    TOO_LARGE,
    Api,
    Response,
    catalogue,
    json_response,
    largest,
    lowered,
)
from sessions.simulator.doors.delivery import Broken, Latency
from sessions.simulator.engine import Engine
from sessions.simulator.exchange import Exchange, HttpRequest

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

BILL, REQUESTS, EVICT = "/_simulator/bill", "/_simulator/requests", "/_simulator/evict"
_POSTED = frozenset({MESSAGES, COUNTING, EVICT})
_PAGES = frozenset({MODELS, BILL, REQUESTS})
_HOST = re.compile(r"(\[[0-9a-fA-F:.]+\]|[^:\[\]]+)(?::\d+)?")


class Application:
    """The ASGI application around one engine. `host`: the address it is bound to, a name that it may be called by."""

    def __init__(
        self,
        engine: Engine,
        *,
        clock: Clock | None = None,
        latency: Latency | None = None,
        host: str = "127.0.0.1",
    ) -> None:
        self.engine = engine
        self.host = host
        self._api = Api(engine, clock=clock, latency=latency)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        method, path = scope["method"], scope["path"]
        try:
            raw = await _body(receive, largest(path))
        except ConnectionAbortedError:
            return
        headers = lowered({name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]})
        if not is_called_by(headers.get("host", ""), self.host):
            refusal = Refusal(f"Host not allowed: call it by an address of this machine or {self.host}", status=403)
            await _send(send, json_response(refusal.status, refusal.envelope("req_host")))
            return
        await self._api.catch_up()
        if (page := self._page(method, path) or catalogue(method, path)) is not None:
            await _send(send, page)
            return
        exchange = self._exchange(scope, raw, headers)
        async with anyio.create_task_group() as group:
            group.start_soon(_watch, receive, group.cancel_scope)
            await self._respond(exchange, send)
            group.cancel_scope.cancel()

    def _exchange(self, scope: Scope, raw: bytes | None, headers: dict[str, str]) -> Exchange:
        method, path = scope["method"], scope["path"]
        if raw is None:
            return self._api.reject(path, TOO_LARGE)
        refusal = _refused(method, path, raw, headers)
        if refusal is not None:
            return self._api.reject(path, refusal)
        return self._api.receive(
            HttpRequest(
                method=method,
                path=path,
                headers=headers,
                raw=raw,
                query=scope["query_string"].decode(),
                base_url=f"{scope['scheme']}://{headers.get('host', '')}",
            )
        )

    async def _respond(self, exchange: Exchange, send: Send) -> None:
        """Answers; a client that leaves cancels this, which ends the exchange as cut."""
        response = await self._api.respond(exchange)
        if response is None:
            _drop(send)
            return
        if response.content is not None:
            await _send(send, response)
            return
        await send(_start(response.status, response.headers))
        stream = self._api.stream(exchange)
        try:
            async for chunk in stream:
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
        finally:
            stream.close()
        await send({"type": "http.response.body", "body": b""})

    def _page(self, method: str, path: str) -> Response | None:
        """The simulator's own `bill`, `requests` and `evict`; None for other requests."""
        if path == EVICT and method in ("GET", "POST"):
            return json_response(200, {"evicted": self.engine.evict()})
        if method == "GET" and path == BILL:
            return json_response(200, _bill(self.engine))
        if method == "GET" and path == REQUESTS:
            return json_response(200, [_row(exchange) for exchange in self.engine.requests])
        return None


def is_called_by(host: str, bound: str) -> bool:
    """Whether a `Host` header names this machine: a web page whose name is made to lead here does not (DNS rebinding).

    Where `bound` is every address of the machine, any address will do, but no name.
    """
    parts = _HOST.fullmatch(host)
    if parts is None:
        return False
    name = parts[1].strip("[]").lower()
    if name in ("localhost", bound.lower()):
        return True
    try:
        return ip_address(name).is_loopback or ip_address(bound).is_unspecified
    except ValueError:
        return False


def _refused(method: str, path: str, raw: bytes, headers: Mapping[str, str]) -> Refusal | None:
    """Why a request is not even read: what no client of the SDK does wrong."""
    if not path.startswith(BATCHES) and method != "POST":
        return Refusal("Method Not Allowed", status=405) if path in _POSTED else Refusal("Not Found", status=404)
    if path in _PAGES:
        return Refusal("Method Not Allowed", status=405)
    kind = headers.get("content-type", "").partition(";")[0].strip().lower()
    if method == "POST" and raw and kind != "application/json":
        return Refusal(f"content-type: expected application/json, not {kind or 'none'}")
    return None


def _bill(engine: Engine) -> dict[str, Any]:
    bill = engine.bill()
    return {
        "input": bill.usage.input,
        "cache_read": bill.usage.cache_read,
        "cache_write_5m": bill.usage.cache_write_5m,
        "cache_write_1h": bill.usage.cache_write_1h,
        "output": bill.usage.output,
        "cost": str(bill.cost) if bill.cost is not None else None,
        "charged": bill.charged,
        "refused": bill.refused,
    }


def _row(exchange: Exchange) -> dict[str, Any]:
    usage = exchange.usage
    return {
        "index": exchange.index,
        "request_id": exchange.request_id,
        "message_id": exchange.message_id,
        "path": exchange.path,
        "model": exchange.model,
        "started": exchange.started,
        "began": exchange.began,
        "ended": exchange.ended,
        "status": exchange.status,
        "state": exchange.state,
        "stop_reason": exchange.stop_reason,
        "error": exchange.error,
        "messages": len(exchange.body["messages"]) if exchange.body and exchange.ok else None,
        "usage": None
        if usage is None
        else {
            "input": usage.input,
            "cache_read": usage.cache_read,
            "cache_write_5m": usage.cache_write_5m,
            "cache_write_1h": usage.cache_write_1h,
            "output": usage.output,
        },
        "cost": str(exchange.cost) if exchange.cost is not None else None,
    }


def _drop(send: Send) -> None:
    """Breaks the connection before any header. ASGI has no word for it: uvicorn's own cycle holds the socket."""
    connection = getattr(getattr(send, "__self__", None), "transport", None)
    if connection is None:
        raise Broken
    connection.abort()


async def _body(receive: Receive, largest: int) -> bytes | None:
    """The whole body; `None` for one of more than `largest` bytes, which is read to its end and not kept.

    Raises `ConnectionAbortedError` where the client hangs up before the end.
    """
    body = bytearray()
    fits = True
    while True:
        event = await receive()
        if event["type"] == "http.disconnect":
            raise ConnectionAbortedError
        if fits:
            body += event.get("body", b"")
        if len(body) > largest:
            fits = False
            body.clear()
        if not event.get("more_body"):
            return bytes(body) if fits else None


async def _watch(receive: Receive, scope: anyio.CancelScope) -> None:
    """Cancels the answer when the client hangs up."""
    while (await receive())["type"] != "http.disconnect":
        pass
    scope.cancel()


def _start(status: int, headers: Mapping[str, str]) -> dict[str, Any]:
    encoded = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]
    return {"type": "http.response.start", "status": status, "headers": encoded}


async def _send(send: Send, response: Response) -> None:
    """A response that is whole."""
    content = response.content or b""
    await send(_start(response.status, {**response.headers, "content-length": str(len(content))}))
    await send({"type": "http.response.body", "body": content})


@asynccontextmanager
async def serving(
    engine: Engine | None = None,
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    clock: Clock | None = None,
    latency: Latency | None = None,
) -> AsyncIterator[str]:
    """Serves `engine` while the context is open and gives its base URL; port 0 takes a free one. asyncio only.

    Raises `OSError` where the port is taken. May be entered in one task and left in another.
    """
    application = Application(engine or Engine(), clock=clock, latency=latency, host=host)
    listener = socket.create_server((host, port))
    config = uvicorn.Config(application, log_level="critical", lifespan="off", access_log=False)
    server = _Server(config)
    task = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        address = listener.getsockname()
        yield f"http://{address[0]}:{address[1]}"
    finally:
        server.should_exit = server.force_exit = True
        await task
        listener.close()


class _Server(uvicorn.Server):
    """Uvicorn that leaves the program's signal handlers alone."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


async def serve(
    engine: Engine | None = None,
    *,
    host: str = "127.0.0.1",
    port: int = 8787,
    clock: Clock | None = None,
    latency: Latency | None = None,
    started: Callable[[str], None] = lambda url: None,
) -> None:
    """Serves until cancelled; `started` is told the base URL. Raises `OSError` where the port is taken."""
    async with serving(engine, host=host, port=port, clock=clock, latency=latency) as url:
        started(url)
        await asyncio.Event().wait()
