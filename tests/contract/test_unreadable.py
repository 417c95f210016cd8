"""Events as no well-behaved server sends them: read as the standard library reads JSON, and paid for all the same."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import httpx2
import pytest
from anthropic import AsyncAnthropic
from hypothesis import given
from hypothesis import strategies as st

from sessions import ModelError, SessionManager
from sessions.model.raw_stream import read_json

MODEL = "claude-sonnet-5-5"
NUMBERS = st.integers() | st.floats(allow_nan=False) | st.sampled_from([10**400, -(10**30), 5e-324, -0.0])
TEXTS = st.text() | st.sampled_from(["half \ud83d", "\ud83d\ude00", "\u2028"])
VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=12,
)


@given(VALUES)
def test_any_json_is_read_as_the_standard_library_does(value: Any) -> None:
    text = json.dumps(value)
    assert repr(read_json(text)) == repr(json.loads(text))


@pytest.mark.parametrize(
    "text",
    [
        '{"a":1,"b":2,"a":3}',
        "[" * 300 + "]" * 300,
        "-0",
        "1e400",
        "NaN",
        "-Infinity",
        '"\ud800"',
        "9" * 4301,
        "12.50e-3",
    ],
)
def test_odd_json_is_read_as_the_standard_library_does(text: str) -> None:
    def outcome(read: Any) -> str:
        try:
            return repr(read(text))
        except ValueError as error:
            return type(error).__name__

    assert outcome(read_json) == outcome(json.loads)


class Canned(httpx2.AsyncBaseTransport):
    """Answers every request with these events."""

    def __init__(self, *events: dict[str, Any]) -> None:
        self.body = "".join(f"event: {one['type']}\ndata: {json.dumps(one)}\n\n" for one in events).encode()

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        await request.aread()
        return httpx2.Response(200, headers={"content-type": "text/event-stream"}, content=self.body)


async def test_a_reply_that_cannot_be_stored_is_a_row_of_the_ledger() -> None:
    usage = {"input_tokens": 10, "output_tokens": 250}
    start = {"id": "msg_1", "type": "message", "role": "assistant", "model": MODEL, "content": [], "stop_reason": None}
    canned = Canned(
        {"type": "message_start", "message": {**start, "usage": usage}},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "half \ud83d"}},
        {"type": "content_block_stop", "index": 0},
        {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 250}},
        {"type": "message_stop"},
    )
    async with httpx2.AsyncClient(transport=canned) as http:
        sdk = AsyncAnthropic(api_key="none", http_client=http, max_retries=0)
        async with SessionManager("sqlite://", client=sdk) as manager:
            session = await manager.create(model=MODEL, max_tokens=1000)
            with pytest.raises(ModelError, match="cannot be stored"):
                await session.send("Hello")
            (call,) = await session.calls()
            assert (call.status, call.usage.output, call.response_id) == ("error", 250, "msg_1")
            assert call.cost is not None
            assert call.cost > Decimal(0)
            assert [one["role"] for one in session.messages] == ["user"]
