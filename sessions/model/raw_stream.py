"""The events of an answer as they were sent: each a dict whose keys have the order received.

The SDK's typed events put the keys into an order of their own, and making one takes longer than reading it: they are
made for those who read them.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from functools import cache
from typing import TYPE_CHECKING, Any, Self

import anyio
from pydantic import TypeAdapter, ValidationError
from pydantic_core import from_json

from sessions.model.failures import is_connection_trouble

if TYPE_CHECKING:
    from anthropic import APIStatusError, AsyncStream

_EVENT_STREAM = "text/event-stream"
_BOM = b"\xef\xbb\xbf"


class EventStream:
    """The events of one of the SDK's streams, in which nothing has been read yet. `beta`: it is the beta API's.

    Iterating it raises what the SDK would raise: `APIStatusError` for an error event, or an error of its HTTP library.
    """

    def __init__(self, stream: AsyncStream[Any], sdk: Any, *, beta: bool) -> None:
        self._stream, self._beta = stream, beta
        self._observer: Any = getattr(stream.response.stream, "stream_observer", None)  # where the SDK traces this call
        self._events: _ServerSent | _BySDK = _ServerSent(stream) if _is_event_stream(stream) else _BySDK(stream, sdk)
        if self._observer is not None:
            self._events.begin(self._observer)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Any:
        try:
            event = await anext(self._events)
        except Exception as error:
            if self._observer is not None and not isinstance(error, StopAsyncIteration):
                self._observer.end("failed", error)
            raise
        if self._observer is not None:
            self._observer.item(typed_event(event, beta=self._beta))
        return event

    async def close(self) -> None:
        """Closes the stream, read to its end or not; generators inside it that were left half-way are unwound."""
        # Where the caller is cancelled too: else the connection stays taken in the SDK's pool.
        with anyio.CancelScope(shield=True):
            await _quietly(self._stream.close)
            if not self._events.is_read:  # unwinding takes longer than all the rest
                await _quietly(self._unwind)

    async def _unwind(self) -> None:
        """A cancelled scope makes the next wait inside them raise; only what has arrived already can still come out."""
        with anyio.CancelScope() as unwinding:
            unwinding.cancel()
            while await anext(self._events.source, None) is not None:
                continue


class _ServerSent:
    """Server-sent events, read here. Which are skipped, and what an error event raises, is as the SDK has it."""

    def __init__(self, stream: AsyncStream[Any]) -> None:
        self._response = stream.response
        self.source: AsyncIterator[Any] = stream.response.aiter_bytes()
        self.is_read = False
        self._decoder = EventDecoder()
        self._decoded: Iterator[tuple[str, str]] = iter(())

    def begin(self, observer: Any) -> None:
        """Tells the SDK's tracing that events are read, as its own streams do."""
        observer.begin()

    async def __anext__(self) -> Any:
        while True:
            for name, data in self._decoded:
                if name == "error":
                    raise _error(data, self._response)
                if data and name != "ping":
                    return read_json(data)
            try:
                chunk = await anext(self.source)
            except StopAsyncIteration:
                self.is_read = True
                raise
            self._decoded = self._decoder.feed(chunk)


class _BySDK:
    """Events that one of the SDK's clients decodes in its own way: Bedrock's come in frames of another format."""

    def __init__(self, stream: AsyncStream[Any], sdk: Any) -> None:
        from anthropic import AsyncStream

        self.source: AsyncIterator[Any] = AsyncStream(cast_to=object, response=stream.response, client=sdk)
        self.is_read = False

    def begin(self, observer: Any) -> None:
        """The SDK's stream tells its tracing itself."""

    async def __anext__(self) -> Any:
        try:
            return await anext(self.source)
        except StopAsyncIteration:
            self.is_read = True
            raise


class EventDecoder:
    """Server-sent events out of bytes, however these are cut (HTML standard, 9.2: event stream interpretation).

    Events without a name are left out: the API names each.
    """

    def __init__(self) -> None:
        self._rest: list[bytes] = []  # of a line whose end has not come
        self._after_return = False  # a line feed that comes next belongs to the line before
        self._begun = False
        self._name = b""
        self._data: list[bytes] = []

    def feed(self, chunk: bytes) -> Iterator[tuple[str, str]]:
        """Takes in some bytes: (name, data) of each event that they complete. Raises `ValueError` for broken UTF-8."""
        for line in self._lines(chunk):
            if line:
                self._take(line)
                continue
            name, data, self._name, self._data = self._name, self._data, b"", []
            if name:
                yield name.decode(), b"\n".join(data).decode()

    def _take(self, line: bytes) -> None:
        """One field; a comment is a line whose field has no name."""
        field, _, value = line.partition(b":")
        if field == b"data":
            self._data.append(value.removeprefix(b" "))
        elif field == b"event":
            self._name = value.removeprefix(b" ")

    def _lines(self, chunk: bytes) -> list[bytes]:
        """The lines that end with these bytes, by a line feed, a carriage return or both."""
        if self._after_return:
            chunk = chunk.removeprefix(b"\n")
        if not chunk:
            return []
        # Bytes are split at \n, \r and \r\n only; text would be at other characters too.
        lines = chunk.splitlines()
        self._after_return = chunk.endswith(b"\r")
        is_whole = self._after_return or chunk.endswith(b"\n")
        if not is_whole and len(lines) == 1:
            self._rest += lines
            return []
        if self._rest:
            lines[0] = b"".join([*self._rest, lines[0]])
        self._rest = [] if is_whole else [lines.pop()]
        if not self._begun:
            self._begun = True
            lines[0] = lines[0].removeprefix(_BOM)
        return lines


def read_json(text: str) -> Any:
    """An event's JSON. Both readers give the same; the first is three times as fast."""
    try:
        return from_json(text)
    except (TypeError, ValueError):  # it takes 200 levels, and no half of a surrogate pair
        return json.loads(text)


def typed_event(event: Any, *, beta: bool = False) -> Any:
    """An event of the SDK's classes, made as the SDK makes it: unknown types and fields stay, nothing is refused."""
    known, lenient = _event_types(beta)
    try:
        return known.validate_python(event)
    except ValidationError:
        return lenient.model_construct(event=event).event


@cache
def _event_types(beta: bool) -> tuple[TypeAdapter[Any], Any]:
    """What makes an event that is as the SDK knows it, and a model that makes any other, in its one field.

    The SDK makes what stands in a field of its models as leniently as all that it receives.
    """
    from anthropic import BaseModel
    from anthropic.types import RawMessageStreamEvent
    from anthropic.types.beta import BetaRawMessageStreamEvent

    kind: Any = BetaRawMessageStreamEvent if beta else RawMessageStreamEvent
    return TypeAdapter(kind), type("Envelope", (BaseModel,), {"__annotations__": {"event": kind}})


def _is_event_stream(stream: AsyncStream[Any]) -> bool:
    kind, _, _ = str(stream.response.headers.get("content-type", "")).partition(";")
    return kind.strip().lower() == _EVENT_STREAM


def _error(data: str, response: Any) -> APIStatusError:
    from anthropic import APIStatusError

    try:
        body = read_json(data)
    except ValueError:
        return APIStatusError(data or f"Error code: {response.status_code}", response=response, body=data)
    return APIStatusError(str(body), response=response, body=body)


async def _quietly(work: Callable[[], Awaitable[None]]) -> None:
    from anthropic import AnthropicError

    try:
        await work()
    except Exception as error:  # a broken connection may fail to close; what it delivered has been kept
        if not is_connection_trouble(error) and not isinstance(error, AnthropicError | ValueError):
            raise
