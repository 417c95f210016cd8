"""The simulator over HTTP, for any client: `/v1/messages`, its batches, `/v1/models`, and its own bill and journal.

A plain ASGI application under uvicorn. A fault that cuts a connection really cuts it: the response stops half-way.
"""

from __future__ import annotations

import asyncio
import json
import re
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, MutableMapping
from contextlib import asynccontextmanager, contextmanager
from ipaddress import ip_address
from typing import Any

import anyio
import uvicorn

from sessions.clock import Clock, SystemClock
from sessions.simulator.batches import LARGEST as LARGEST_BATCH
from sessions.simulator.batches import ROOT as BATCHES
from sessions.simulator.catalogue import models
from sessions.simulator.delivery import Broken, Latency, Stream, prepare
from sessions.simulator.engine import Engine
from sessions.simulator.exchange import Exchange
from sessions.simulator.refusal import Refusal
from sessions.simulator.transport import LARGEST, TOO_LARGE, jsonl, lowered, receive

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

MODELS = "/v1/models"
_POSTED = frozenset({"/v1/messages", "/v1/messages/count_tokens", "/_simulator/evict"})
_PAGES = frozenset({MODELS, "/_simulator/bill", "/_simulator/requests"})
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
        self.clock: Clock = clock or SystemClock()
        self.latency = latency or Latency()

    async def __call__(self, scope: Scope, receive_: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        path = scope["path"]
        try:
            raw = await _body(receive_, LARGEST_BATCH if path.startswith(BATCHES) else LARGEST)
        except ConnectionAbortedError:
            return
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        if not is_called_by(headers.get("host", ""), self.host):
            refusal = Refusal(f"Host not allowed: call it by an address of this machine or {self.host}", status=403)
            await _json(send, refusal.status, refusal.envelope("req_host"))
            return
        await self.engine.batches.process(self.clock.now())
        if (found := self._page(scope["method"], path)) is not None:
            await _json(send, *found)
            return
        exchange = self._exchange(scope, raw, headers)
        async with anyio.create_task_group() as group:
            group.start_soon(_watch, receive_, group.cancel_scope)
            await self._respond(exchange, send)
            group.cancel_scope.cancel()

    def _exchange(self, scope: Scope, raw: bytes | None, headers: dict[str, str]) -> Exchange:
        method, path = scope["method"], scope["path"]
        refusal = _refused(method, path, raw, headers)
        if refusal is not None or raw is None:
            return self.engine.reject(refusal or TOO_LARGE, path, self.clock.now())
        if path.startswith(BATCHES):
            return self._batches(scope, raw, headers)
        return receive(self.engine, path, raw, headers, self.clock.now())

    def _batches(self, scope: Scope, raw: bytes, headers: dict[str, str]) -> Exchange:
        url, base = (scope["path"], scope["query_string"].decode()), f"{scope['scheme']}://{headers.get('host', '')}"
        return self.engine.batches.receive(
            scope["method"], url, raw, lowered(headers), self.clock.now(), base_url=base, seconds=self.latency.batch
        )

    async def _respond(self, exchange: Exchange, send: Send) -> None:
        """Answers; a client that leaves cancels this, which ends the exchange as cut."""
        await prepare(self.engine, exchange, self.clock, self.latency)
        if exchange.state == "failed" and exchange.error is None:
            _drop(send)
            return
        if exchange.lines is not None and exchange.error is None:
            await send(_start(200, {**exchange.headers, "content-type": "application/x-jsonl"}))
            await send({"type": "http.response.body", "body": jsonl(exchange.lines)})
            return
        if exchange.error is not None or exchange.result is not None:
            await _json(send, exchange.status, exchange.error or exchange.result, exchange.headers)
            return
        as_json = exchange.fault is not None and exchange.fault.kind == "json"
        kind = "application/json" if as_json else "text/event-stream; charset=utf-8"
        await send(_start(200, {**exchange.headers, "content-type": kind}))
        stream = Stream(self.engine, exchange, self.clock, self.latency)
        try:
            async for chunk in stream:
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
        finally:
            stream.close()
        await send({"type": "http.response.body", "body": b""})

    def _page(self, method: str, path: str) -> tuple[int, Any] | None:
        """The models, and the simulator's own `bill`, `requests` and `evict`; None for other requests."""
        if path == "/_simulator/evict" and method in ("GET", "POST"):
            return 200, {"evicted": self.engine.evict()}
        if method != "GET":
            return None
        if path == MODELS or path.startswith(f"{MODELS}/"):
            return models(path)
        if path == "/_simulator/bill":
            return 200, _bill(self.engine)
        if path == "/_simulator/requests":
            return 200, [_row(exchange) for exchange in self.engine.requests]
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


def _refused(method: str, path: str, raw: bytes | None, headers: Mapping[str, str]) -> Refusal | None:
    """Why a request is not even read."""
    if raw is None:
        return TOO_LARGE
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


async def _body(receive_: Receive, largest: int) -> bytes | None:
    """The whole body; `None` for one of more than `largest` bytes, which is read to its end and not kept.

    Raises `ConnectionAbortedError` where the client hangs up before the end.
    """
    body = bytearray()
    fits = True
    while True:
        event = await receive_()
        if event["type"] == "http.disconnect":
            raise ConnectionAbortedError
        if fits:
            body += event.get("body", b"")
        if len(body) > largest:
            fits = False
            body.clear()
        if not event.get("more_body"):
            return bytes(body) if fits else None


async def _watch(receive_: Receive, scope: anyio.CancelScope) -> None:
    """Cancels the answer when the client hangs up."""
    while (await receive_())["type"] != "http.disconnect":
        pass
    scope.cancel()


def _start(status: int, headers: MutableMapping[str, str] | dict[str, str]) -> dict[str, Any]:
    encoded = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]
    return {"type": "http.response.start", "status": status, "headers": encoded}


async def _json(send: Send, status: int, body: Any, headers: dict[str, str] | None = None) -> None:
    raw = json.dumps(body).encode()
    await send(_start(status, {**(headers or {}), "content-type": "application/json", "content-length": str(len(raw))}))
    await send({"type": "http.response.body", "body": raw})


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
