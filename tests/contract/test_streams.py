"""What we rely on inside the SDK's streams: its generators end with the stream, and can be unwound before."""

from __future__ import annotations

from typing import Any

import pytest

from sessions.client import _close, _events, _is_read
from sessions.core.incoming import Incoming
from sessions.simulator import client

BODY: dict[str, Any] = {
    "model": "claude-sonnet-5-5", "max_tokens": 100, "messages": [{"role": "user", "content": "Count."}],
}  # fmt: skip


def generators(stream: Any) -> list[Any]:
    """The SDK's own of typed events, and the one of raw events below it."""
    return [stream._iterator, stream._iter_events()]


async def test_a_stream_read_to_its_end_leaves_nothing_to_unwind() -> None:
    async with client(lambda request: "One, two.") as sdk:
        stream = await sdk.messages.create(**BODY, stream=True)
        read = [event.type async for event in _events(stream, Incoming())]
        assert read[-1] == "message_stop"
        assert [_is_read(one) for one in generators(stream)] == [True, True]


@pytest.mark.parametrize("events", [0, 1, 3])
async def test_a_stream_left_half_way_is_unwound(events: int) -> None:
    async with client(lambda request: "One, two.") as sdk:
        stream = await sdk.messages.create(**BODY, stream=True)
        drawn = _events(stream, Incoming())
        for _ in range(events):
            await anext(drawn)
        await drawn.aclose()
        if events:
            assert not all(map(_is_read, generators(stream)))
        await _close(stream)
        assert not events or all(map(_is_read, generators(stream)))
