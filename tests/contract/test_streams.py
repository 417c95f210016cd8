"""Streams are read here as the SDK reads them, and leave nothing behind that is half-way."""

from __future__ import annotations

import gc
import inspect
import json
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import anthropic
import httpx2
import pytest
from anthropic import AsyncStream
from anthropic.types import RawMessageStreamEvent
from anthropic.types.beta import BetaRawMessageStreamEvent
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from sessions.core.incoming import Incoming
from sessions.errors import ModelError
from sessions.model.client import ModelClient
from sessions.model.raw_stream import EventDecoder, EventStream, typed_event
from sessions.simulator import client
from tests.sessions.world import everywhere

BODY: dict[str, Any] = {
    "model": "claude-sonnet-5-5", "max_tokens": 100, "messages": [{"role": "user", "content": "Count."}],
}  # fmt: skip
STREAM, OTHER = "text/event-stream; charset=utf-8", "application/octet-stream"
"""Content types: what is read here, and what is left to the decoder of the SDK's client."""


class Body(httpx2.AsyncByteStream):
    """Bytes that come in these pieces."""

    def __init__(self, *chunks: bytes) -> None:
        self.chunks = chunks

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for chunk in self.chunks:
            yield chunk


def response(*chunks: bytes, kind: str = STREAM) -> httpx2.Response:
    request = httpx2.Request("POST", "https://e.org")
    return httpx2.Response(200, headers={"content-type": kind}, stream=Body(*chunks), request=request)


def event(name: str, data: Any) -> bytes:
    return f"event: {name}\ndata: {data if isinstance(data, str) else json.dumps(data)}\n\n".encode()


def half_way() -> list[Any]:
    """Asynchronous generators of the HTTP library and the SDK that are waiting to go on."""
    gc.collect()  # those of earlier tests
    return [
        one
        for one in gc.get_objects()
        if inspect.isasyncgen(one) and one.ag_frame is not None and one.ag_frame.f_lasti > 0
        and any(name in one.ag_code.co_filename for name in ("httpx2", "anthropic"))
    ]  # fmt: skip


async def outcome(events: AsyncIterator[Any]) -> tuple[list[Any], Any]:
    """What comes, and the error that ends it."""
    read = []
    try:
        async for one in events:
            read.append(one)  # noqa: PERF401 - what came before the error counts
    except Exception as error:
        return read, (type(error), str(error), getattr(error, "body", None), getattr(error, "type", None))
    return read, None


# -- nothing is left half-way --


@everywhere
async def test_a_stream_read_to_its_end_leaves_nothing_half_way() -> None:
    async with client(lambda request: "One, two.") as sdk:
        stream = await sdk.messages.create(**BODY, stream=True)
        raw = EventStream(stream, sdk, beta=False)
        assert [one["type"] async for one in raw][-1] == "message_stop"
        await raw.close()
        assert stream.response.is_closed
        assert half_way() == []


@everywhere
@pytest.mark.parametrize("events", [0, 1, 3])
@pytest.mark.parametrize("kind", [STREAM, OTHER])
async def test_a_stream_left_half_way_is_unwound(events: int, kind: str) -> None:
    async with client(lambda request: "One, two.") as sdk:
        stream = await sdk.messages.create(**BODY, stream=True)
        stream.response.headers["content-type"] = kind
        raw = EventStream(stream, sdk, beta=False)
        for _ in range(events):
            await anext(raw)
        assert bool(half_way()) == bool(events)
        await raw.close()
        assert stream.response.is_closed
        assert half_way() == []


@everywhere
async def test_an_error_event_leaves_nothing_half_way() -> None:
    async with client() as sdk:
        answer = response(event("error", {"type": "error", "error": {"type": "overloaded_error"}}), b"event: x\n")
        raw = EventStream(AsyncStream(cast_to=object, response=answer, client=sdk), sdk, beta=False)
        with pytest.raises(anthropic.APIStatusError) as caught:
            await anext(raw)
        assert caught.value.type == "overloaded_error"
        await raw.close()
        assert half_way() == []


# -- read as the SDK reads --

FIELDS = ["event: message_start", "event:ping", "event", "event: error", "event: é", "id: 1", "retry: 5", "retry: x"]
DATA = ['data: {"b":1,"a":"é 😀"}', "data:[1,", "data: 2]", "data", "data:", "data:  x", ": comment", "other: y"]
LINES = st.sampled_from([*FIELDS, *DATA, "", "", ""])
ENDS = st.sampled_from(["\n", "\r\n"])


@st.composite
def cut(draw: st.DrawFn) -> list[bytes]:
    """An event stream, cut anywhere."""
    end = draw(ENDS)
    text = "".join(line + end for line in draw(st.lists(LINES, max_size=25))).encode()
    places = sorted(draw(st.lists(st.integers(0, len(text)), max_size=12)))
    return [text[start:stop] for start, stop in zip([0, *places], [*places, len(text)], strict=True)]


@given(cut())
async def test_events_are_those_of_the_sdk(chunks: list[bytes]) -> None:
    theirs = [(one.event, one.data) async for one in AsyncStream.raw_events(response(*chunks))]
    decoder = EventDecoder()
    ours = [one for chunk in chunks for one in decoder.feed(chunk)]
    assert ours == [(name, data) for name, data in theirs if name is not None]


@given(cut())
async def test_what_comes_of_a_stream_is_what_the_sdk_gives(chunks: list[bytes]) -> None:
    async with anthropic.AsyncAnthropic(api_key="k") as sdk:
        theirs = AsyncStream(cast_to=object, response=response(*chunks), client=sdk)
        ours = EventStream(AsyncStream(cast_to=object, response=response(*chunks), client=sdk), sdk, beta=False)
        assert await outcome(ours) == await outcome(aiter(theirs))


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
@pytest.mark.parametrize("size", [1, 2, 3, 1000])
def test_lines_end_as_the_standard_has_it(end: bytes, size: int) -> None:
    lines = [
        "\ufeffevent: a",
        "data: é",
        ": comment",
        "data: 😀",
        "",
        "",
        "event: b",
        "data: 2",
        "",
        "data: no name",
        "",
    ]
    text = b"".join(line.encode() + end for line in lines)
    decoder = EventDecoder()
    chunks = [text[at : at + size] for at in range(0, len(text), size)]
    assert [one for chunk in chunks for one in decoder.feed(chunk)] == [("a", "é\n😀"), ("b", "2")]


def test_broken_text_is_an_error_after_what_came_before() -> None:
    events = EventDecoder().feed(b"event: a\ndata: 1\n\nevent: b\ndata: \xff\n\n")
    assert next(events) == ("a", "1")
    with pytest.raises(UnicodeDecodeError):
        next(events)


# -- events of the SDK's classes --

EVENTS: list[dict[str, Any]] = [
    {"type": "message_start", "message": {"usage": {"output_tokens": 1, "new": {"b": 1}}, "id": "m", "content": []}},
    {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": "", "later": 1}},
    {"type": "content_block_start", "index": 0, "content_block": {"type": "unheard of", "x": [1]}},
    {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "a"}},
    {"type": "content_block_delta", "index": "0", "delta": {"type": "unheard of", "text": 1}},
    {"type": "content_block_stop", "index": 0},
    {"type": "message_delta", "delta": {"stop_reason": "new"}, "usage": {"output_tokens": 2}},
    {"type": "message_stop", "more": True},
    {"type": "unheard of", "message": 1},
    {"no": "type"},
    {"type": "compaction_delta", "event": "event"},
]


@pytest.mark.parametrize("beta", [False, True])
async def test_typed_events_are_those_of_the_sdk(beta: bool) -> None:
    async with anthropic.AsyncAnthropic(api_key="k") as sdk:
        kind: Any = BetaRawMessageStreamEvent if beta else RawMessageStreamEvent
        answer = response(*(event("any", one) for one in EVENTS))
        theirs = [one async for one in AsyncStream(cast_to=kind, response=answer, client=sdk)]
    ours = [typed_event(one, beta=beta) for one in EVENTS]
    assert [type(one) for one in ours] == [type(one) for one in theirs]
    assert list(map(repr, ours)) == list(map(repr, theirs))


@pytest.mark.parametrize("kind", [STREAM, OTHER])
async def test_keys_have_the_order_in_which_they_came(kind: str) -> None:
    async with anthropic.AsyncAnthropic(api_key="k") as sdk:
        answer = response(*(event(str(one.get("type", "any")), one) for one in EVENTS), kind=kind)
        raw = EventStream(AsyncStream(cast_to=object, response=answer, client=sdk), sdk, beta=False)
        assert json.dumps([one async for one in raw]) == json.dumps(EVENTS)


# -- the spans that the SDK makes of its calls --

ANSWER = [
    {"type": "message_start", "message": {
        "id": "m", "type": "message", "role": "assistant", "model": "claude-sonnet-5-5", "content": [],
        "stop_reason": None, "stop_sequence": None, "usage": {"input_tokens": 7, "output_tokens": 1}}},
    {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
    {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "One."}},
    {"type": "content_block_stop", "index": 0},
    {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 2}},
    {"type": "message_stop"},
]  # fmt: skip
FAILED = {"type": "error", "error": {"type": "overloaded_error", "message": "busy"}}


@pytest.mark.parametrize("kind", [STREAM, OTHER])
@pytest.mark.parametrize("events", [ANSWER, ANSWER[:4], [*ANSWER[:2], FAILED], [*ANSWER[:2], "[not json"]])
async def test_the_sdks_span_says_what_it_says_where_the_sdk_reads(kind: str, events: list[Any]) -> None:
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    chunks = [event(one["type"] if isinstance(one, dict) else "any", one) for one in events]

    def answer(request: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(200, headers={"content-type": kind}, stream=Body(*chunks))

    async with httpx2.AsyncClient(transport=httpx2.MockTransport(answer)) as http:
        sdk = anthropic.AsyncAnthropic(api_key="k", http_client=http, open_telemetry={"tracer_provider": provider})
        await outcome(aiter(await sdk.messages.create(**BODY, stream=True)))
        stream = ModelClient(sdk).stream(BODY, Incoming())
        with suppress(ModelError):
            async with stream as drawn:
                async for _ in drawn:
                    pass
    theirs, ours = exporter.get_finished_spans()
    assert dict(theirs.attributes or {}).keys() >= {"gen_ai.request.model", "url.path"}
    told = [dict(span.attributes or {}) for span in (theirs, ours)]
    times = [one.pop("gen_ai.response.time_to_first_chunk", None) for one in told]
    assert told[1] == told[0]
    assert (times[1] is None) == (times[0] is None)
    assert ours.status.status_code is theirs.status.status_code
