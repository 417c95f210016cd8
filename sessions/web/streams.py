"""A turn's events as server-sent events. A stream that closes without `ended` was cut: the client comes again."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractContextManager, aclosing
from typing import Any

from anyio import to_thread
from sse_starlette import EventSourceResponse, ServerSentEvent
from starlette.types import Receive, Scope, Send

from sessions import SessionsError, Turn
from sessions.web.markdown import RENDERING
from sessions.web.shown import Events

PING = 15
"""Seconds of silence after which a comment shows proxies that the line is open."""
STUCK = 60
"""Seconds after which a reader that takes nothing is given up; it may come again."""
_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


def encoded(value: Any) -> str:
    """One line of JSON."""
    return _encode(value)


async def events_of(turn: Turn, after: str | None) -> AsyncIterator[ServerSentEvent]:
    """What happens in a turn from now on, or behind the event `after`."""
    shown = Events(turn.session_id)
    async with aclosing(turn.follow(after)) as events:
        try:
            async for event in events:
                if shown.may_be_long(event):
                    data = await to_thread.run_sync(shown.told, event, limiter=RENDERING)
                else:
                    data = shown.told(event)
                if data is not None:
                    yield ServerSentEvent(encoded(data), event=event.type, id=event.id)
        except SessionsError:
            return  # this worker ends, or the session is gone: whoever comes again is told


class EventStream(EventSourceResponse):
    """The response with these events. `is_open`: entered while it is open, and may refuse it."""

    def __init__(
        self,
        events: AsyncIterator[ServerSentEvent],
        is_open: AbstractContextManager[None],
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(events, ping=PING, send_timeout=STUCK, headers=headers)
        self._is_open = is_open

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._is_open:
            await super().__call__(scope, receive, send)
