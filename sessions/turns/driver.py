"""A turn as a stream: the SDK's events as they come, the text alone, and the final reply."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, Protocol, Self, TypeVar

import anyio

from sessions.conversation.conversation import Conversation
from sessions.errors import SessionsError
from sessions.following.events import ToolResult
from sessions.lifecycle import ENDED
from sessions.model.raw_stream import typed_event
from sessions.runtime import Runtime
from sessions.translate import storage_errors
from sessions.turns.batched import Part
from sessions.turns.loop import Loop
from sessions.turns.outcome import Event, Outcome, Step

if TYPE_CHECKING:
    from anthropic.types import RawMessageStreamEvent


R = TypeVar("R")


class Collect(Protocol):
    """How the reply of a request in a Message Batch is brought in; `None`: the turn is to go on in real time."""

    def __call__(self, conversation: Conversation, part: Part, *, wait: bool) -> Awaitable[Outcome | None]: ...


class Driver:
    """Draws what happens out of a turn, within the caller's time limit (`timeout`: seconds for the whole turn).

    The turn may be drawn, closed and timed out from different tasks: `close` and the end of the time interrupt whoever
    draws; the time is watched also while nobody draws.
    """

    def __init__(self, runtime: Runtime, turn: Loop, collect: Collect, timeout: float | None = None) -> None:
        self.turn, self._collect = turn, collect
        self._clock, self._background = runtime.clock, runtime.background
        self._timeout = self._left_to_wait = timeout
        self._lifecycle = runtime.lifecycle
        self._happening: AsyncGenerator[Event | Step | Outcome] = self._driven()
        self._drawing: anyio.CancelScope | None = None
        self._inside = self._over = self._replied = self._late = self._ended = False
        self._left: anyio.Event | None = None
        self._watch: anyio.CancelScope | None = None

    async def _driven(self) -> AsyncGenerator[Event | Step | Outcome]:
        # Outside the try: a turn that is not taken was never under way.
        self._lifecycle.begin(self)
        try:
            while True:
                part: Part | None = None
                async with aclosing(self.turn.drive()) as happening:
                    async for happened in happening:
                        if isinstance(happened, Part):
                            part = happened
                        else:
                            yield happened
                if part is None:
                    return
                # Outside the turn's lease, which bringing the reply in needs.
                outcome = await self._collect(self.turn.conversation, part, wait=not self.turn.has_words)
                if outcome is not None:
                    yield outcome
                    return
        finally:
            self._lifecycle.over(self)

    @property
    def is_drawn(self) -> bool:
        """Whether somebody waits for what happens next."""
        return self._inside

    def interrupt(self) -> None:
        """Whoever waits is told that the manager ended before the turn did."""
        self._ended = True
        if self._drawing is not None:
            self._drawing.cancel()

    async def next(self) -> Event | Step | Outcome | None:
        """The next thing that happens, or `None` at the end, or once closed. Raises `TimeoutError` when time is up."""
        happened: Event | Step | Outcome | None = None
        if self._ended and not self._over:  # the end came just after the last thing had: nothing more may begin
            await self.close()
        if not self._over:
            self._begin_watching()
            # The one scope for all who may interrupt: the time limit, `close` in another task, the manager's end.
            with anyio.CancelScope() as self._drawing:
                happened = await self._draw()
        # What came in the same moment is given: only who would get nothing is told of the end.
        if self._ended and not self._replied and happened is None:
            raise SessionsError(ENDED)
        if self._late and not self._replied and happened is None:
            raise self._too_late()
        return happened

    async def _draw(self) -> Event | Step | Outcome | None:
        happened: Event | Step | Outcome | None = None
        self._inside = True
        try:
            with storage_errors():
                happened = await anext(self._happening, None)
        finally:
            self._replied = self._replied or isinstance(happened, Outcome)
            self._leave()
            if happened is None:
                self._end_watching()
        return happened

    async def close(self) -> None:
        """Ends the turn; one that has not finished is left for `resume()`. Who draws in another task gets the end."""
        # First: whoever draws in another task begins nothing more.
        self._over = True
        if self._inside:
            # A generator cannot be closed while another task is inside it.
            await self._interrupt()
        self._inside = True
        try:
            with storage_errors():
                await self._happening.aclose()
        finally:
            self._leave()
            self._end_watching()

    async def _interrupt(self) -> None:
        """Waits until nobody else is inside the turn, and sees to it that this comes soon."""
        with anyio.CancelScope(shield=True):
            # Again each time: another task's `close` may come in first.
            while self._inside:
                if self._drawing is not None:
                    self._drawing.cancel()
                self._left = self._left or anyio.Event()
                await self._left.wait()

    def _leave(self) -> None:
        self._inside, self._drawing = False, None
        if self._left is not None:
            self._left.set()
            self._left = None

    def limit(self, timeout: float, left: float) -> None:
        """The turn's time limit, where it shows only now which turn it is; `left` seconds of it are still to come."""
        self._timeout, self._left_to_wait = timeout, left
        self._begin_watching()

    def _begin_watching(self) -> None:
        if self._timeout is not None and self._watch is None:
            self._watch = anyio.CancelScope()
            self._background.start(self._end_in_time)

    def _end_watching(self) -> None:
        # When time is up the watch itself closes the turn: it must not cancel itself there.
        if self._watch is not None and not self._late:
            self._watch.cancel()

    async def _end_in_time(self) -> None:
        assert self._left_to_wait is not None
        assert self._watch is not None
        with self._watch:
            await self._clock.sleep(self._left_to_wait)
            self._late = not self._replied
            if self._late:
                # Before the close, which the turn sees as a cancellation: its followers hear the reason.
                self.turn.error = self._too_late()
            await self.close()

    def _too_late(self) -> TimeoutError:
        return TimeoutError(f"the turn was not done after {self._timeout:g} seconds: resume() goes on")

    async def outcome(self) -> Outcome | None:
        """Runs to the end; the turn's outcome, or `None` if there was nothing to do."""
        outcome: Outcome | None = None
        try:
            while (happened := await self.next()) is not None:
                outcome = happened if isinstance(happened, Outcome) else outcome
        finally:
            await self.close()
        return outcome


class TurnStream(Generic[R]):
    """A turn under way, drawn event by event. `reply_of`: makes the caller's reply of the turn's outcome.

    Its events are the SDK's, and between two replies a `ToolResult` for each tool that has run.
    """

    def __init__(self, driver: Driver, reply_of: Callable[[Outcome], R]) -> None:
        self._driver, self._reply_of = driver, reply_of
        self._reply: R | None = None
        self._seen = False
        self._ended = False
        self._drawing = anyio.Lock()
        self._replayed: list[Any] = []

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended = True
        await self._driver.close()

    def __aiter__(self) -> AsyncIterator[RawMessageStreamEvent | ToolResult]:
        return self

    async def __anext__(self) -> RawMessageStreamEvent | ToolResult:
        """The next event. A stored reply (same idempotency key) comes as events too."""
        async with self._drawing:  # cancel() may draw from another task
            return await self._next()

    async def _next(self) -> RawMessageStreamEvent | ToolResult:
        while not self._replayed and not self._ended:
            try:
                happened = await self._driver.next()
            except BaseException:
                self._ended = True
                raise
            if isinstance(happened, Event):
                self._seen = True
                event: RawMessageStreamEvent | ToolResult = happened.event
                return event
            if isinstance(happened, Outcome):
                self._reply = self._reply_of(happened)
                self._replayed = [] if self._seen else _events_of(happened)
            elif happened is None:
                self._ended = True
        if self._replayed:
            replayed: RawMessageStreamEvent = self._replayed.pop(0)
            return replayed
        raise StopAsyncIteration

    @property
    def text_stream(self) -> AsyncIterator[str]:
        """The text as it comes, of every reply in the turn."""
        return _Texts(self)

    async def get_final_reply(self) -> R:
        """Waits for the end of the turn. After `cancel()`: what was kept, with the stop reason "cancelled"."""
        async for _ in self:
            continue
        if self._reply is None:
            raise SessionsError("the stream was closed before the turn ended: resume() goes on")
        return self._reply

    async def cancel(self) -> None:
        """The user pressed stop. Finished blocks and the text so far are kept as the reply, running tools are closed.

        May be called from another task, or from inside the loop over the stream. Returns when all is stored.
        """
        self.stop()
        async for _ in self:
            continue

    def stop(self) -> None:
        """As `cancel()`, for a caller that does not wait: what runs is interrupted at its next await."""
        self._driver.turn.stop()


class _Texts:
    """The text of a stream's events; leaving it half-way leaves nothing behind."""

    def __init__(self, stream: TurnStream[Any]) -> None:
        self._stream = stream

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> str:
        while True:
            event = await anext(self._stream)
            if event.type == "content_block_delta" and event.delta.type == "text_delta":
                return event.delta.text


def _events_of(reply: Outcome) -> list[Any]:
    """The events that the API would have sent for a reply that is already there."""
    message = reply.message.model_dump(mode="json")
    raw: list[dict[str, Any]] = [{"type": "message_start", "message": {**message, "content": [], "stop_reason": None}}]
    for index, block in enumerate(reply.content):
        raw += _block_events(index, block)
    usage = {"output_tokens": reply.usage.output}
    delta = {"stop_reason": reply.stop_reason, "stop_sequence": None}
    raw += [{"type": "message_delta", "delta": delta, "usage": usage}, {"type": "message_stop"}]
    return [typed_event(event) for event in raw]


def _block_events(index: int, block: dict[str, Any]) -> list[dict[str, Any]]:
    start, deltas = dict(block), []
    if block["type"] == "text":
        start = {**block, "text": ""}
        deltas = [{"type": "text_delta", "text": block["text"]}]
    return [
        {"type": "content_block_start", "index": index, "content_block": start},
        *({"type": "content_block_delta", "index": index, "delta": delta} for delta in deltas),
        {"type": "content_block_stop", "index": index},
    ]
