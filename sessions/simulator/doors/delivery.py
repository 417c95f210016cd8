"""Sends an exchange's answer on its way: waits on the clock, breaks where a fault says so, and closes the books.

The transport and the HTTP server both send through here: a fault means the same beneath the SDK and over a socket.
"""

from __future__ import annotations

import inspect
import json
from dataclasses import dataclass

import anyio
import anyio.lowlevel

from sessions.clock import Clock
from sessions.simulator.answers.script import Answer, ScriptError
from sessions.simulator.answers.wire import error_event, message
from sessions.simulator.engine import Engine
from sessions.simulator.exchange import Exchange


class Broken(Exception):
    """The connection is cut here."""


class Stalled(Exception):
    """Nothing came within the client's read timeout."""


@dataclass(frozen=True, slots=True)
class Latency:
    """How long things take, in seconds: per uncached prompt token, up to the first event, per output token; a batch."""

    prefill_per_token: float = 0.0
    first_event: float = 0.0
    per_output_token: float = 0.0
    batch: float = 0.0

    def prefill(self, exchange: Exchange) -> float:
        """Seconds from the request to its first event: cached tokens cost nothing."""
        prompt = exchange.prompt
        if prompt is None:
            return 0.0
        return self.first_event + self.prefill_per_token * (prompt.usage.total_input - prompt.usage.cache_read)


async def prepare(engine: Engine, exchange: Exchange, clock: Clock, latency: Latency) -> None:
    """Everything up to the first event: the script's answer, the prefill, then the entries are readable.

    Afterwards either `exchange.error` is set, or `exchange.state` is `failed` (drop the connection), or
    `exchange.result` is a message, or `exchange.events` are to be sent with a `Stream`. Raises `Broken` where a message
    that is not streamed breaks off, `ScriptError` where the script fails. Cancelled before the first event: nothing is
    charged.
    """
    await anyio.lowlevel.checkpoint()
    if exchange.state != "open" or exchange.prompt is None:
        return
    try:
        if not engine.answer(exchange, await _asked(engine, exchange)):
            return
        await _wait(clock, latency.prefill(exchange))
        engine.begin(exchange, clock.now())
        if exchange.result is not None:
            await _whole(engine, exchange, clock, latency)
    except BaseException:
        engine.end(exchange, clock.now(), cut=True)
        raise


async def _asked(engine: Engine, exchange: Exchange) -> Answer:
    """What the script answers. Raises `ScriptError` for what it raises: that is no failure of the connection."""
    try:
        answer = engine.ask(exchange)
        return await answer if inspect.isawaitable(answer) else answer
    except Exception as error:
        raise ScriptError(error) from error


async def _whole(engine: Engine, exchange: Exchange, clock: Clock, latency: Latency) -> None:
    """A message that is not streamed comes when all of it is there."""
    assert exchange.reply is not None
    await _wait(clock, exchange.reply.delay + latency.per_output_token * exchange.reply.output_tokens)
    fault = exchange.fault
    if fault is not None and fault.kind == "stall":
        await _stall(clock, fault.seconds, None)
    broken = fault is not None and fault.kind in ("cut", "end", "error", "garbled")
    engine.end(exchange, clock.now(), cut=broken)
    if broken:
        raise Broken


class Stream:
    """The events of one response as bytes, made as they are read. Not a generator: it can be dropped at any point.

    Raises `Broken` where the connection is cut, `Stalled` when a stall outlasts `read_timeout` (seconds). `close` marks
    a response that was not read to its end as cut.
    """

    def __init__(
        self, engine: Engine, exchange: Exchange, clock: Clock, latency: Latency, read_timeout: float | None = None
    ) -> None:
        self._engine = engine
        self._exchange = exchange
        self._clock = clock
        self._latency = latency
        self._read_timeout = read_timeout
        self._at = 0
        self._stalled = False

    def __aiter__(self) -> Stream:
        return self

    async def __anext__(self) -> bytes:
        try:
            await anyio.lowlevel.checkpoint()
            return await self._next()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Ends the exchange if it has not ended yet."""
        self._engine.end(self._exchange, self._clock.now(), cut=True)

    async def _next(self) -> bytes:
        exchange, fault = self._exchange, self._exchange.fault
        if self._at >= len(exchange.events):
            raise StopAsyncIteration
        if fault is not None and fault.kind == "json":
            return self._json()
        if fault is not None and fault.after == self._at and not self._stalled:
            if fault.kind == "error" and exchange.state == "open":
                self.close()
                return error_event(fault, exchange.request_id).encode()
            if fault.kind == "cut":
                raise Broken
            if fault.kind in ("end", "error"):
                raise StopAsyncIteration
            if fault.kind == "stall":
                self._stalled = True
                await _stall(self._clock, fault.seconds, self._read_timeout)
        return await self._event()

    async def _event(self) -> bytes:
        exchange = self._exchange
        event = exchange.events[self._at]
        delay = self._latency.per_output_token * event.tokens
        if exchange.reply is not None and event.name == "content_block_start" and event.data["index"] == 0:
            delay += exchange.reply.delay
        await _wait(self._clock, delay)
        self._engine.generated(exchange, event.tokens)
        self._at += 1
        if self._at == len(exchange.events):
            self._engine.end(exchange, self._clock.now())
        return event.encode()

    def _json(self) -> bytes:
        exchange = self._exchange
        assert exchange.prompt is not None
        assert exchange.reply is not None
        self._at = len(exchange.events)
        self._engine.end(exchange, self._clock.now())
        return json.dumps(message(exchange.prompt.head, exchange.reply)).encode()


async def _wait(clock: Clock, seconds: float) -> None:
    if seconds > 0:
        await clock.sleep(seconds)


async def _stall(clock: Clock, seconds: float | None, read_timeout: float | None) -> None:
    """Waits out a stall on the clock; a client with a shorter read timeout gives up first."""
    if read_timeout is not None and (seconds is None or seconds >= read_timeout):
        await clock.sleep(read_timeout)
        raise Stalled
    if seconds is None:
        await anyio.sleep_forever()
    else:
        await clock.sleep(seconds)
