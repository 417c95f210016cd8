"""Every way a response goes wrong, as the real SDK shows it (measured with the SDK 2.11, November 2026)."""

from __future__ import annotations

import json
from contextlib import aclosing
from typing import Any

import anthropic
import httpx2
import pytest

from sessions.simulator import Engine, Fault, Request, Scripted, client, engine_of

CALL = {"type": "tool_use", "name": "look", "input": {"x": 1}}
TOOLS: list[Any] = [{"name": "look", "input_schema": {"type": "object"}}]


def answer(request: Request) -> Scripted:
    """Text and two tool calls: eighteen events."""
    return Scripted([{"type": "text", "text": "Let me look."}, CALL, CALL], thinking="hm")


async def read(simulated: Any, ask: dict[str, Any]) -> list[Any]:
    """All events up to whatever happens; what happens is the last."""
    found: list[Any] = []
    try:
        stream = await simulated.messages.create(stream=True, **ask)
        async with aclosing(aiter(stream)) as events:
            async for event in events:
                found.append(event)  # noqa: PERF401  a comprehension would lose what came before the error
    except Exception as error:
        found.append(error)
    return found


STATUS = [
    (Fault.http(429, retry_after=2), anthropic.RateLimitError, "rate_limit_error"),
    (Fault.http(429), anthropic.RateLimitError, "rate_limit_error"),
    (Fault.http(500), anthropic.InternalServerError, "api_error"),
    (Fault.http(529), anthropic.InternalServerError, "overloaded_error"),
    (Fault.http(400, "messages: too odd"), anthropic.BadRequestError, "invalid_request_error"),
    (Fault.http(402), anthropic.APIStatusError, "billing_error"),
]


@pytest.mark.parametrize(("fault", "error", "kind"), STATUS, ids=str)
def test_an_http_error(run, ask, fault: Fault, error: type[Exception], kind: str) -> None:
    async def main() -> None:
        simulated = client(answer, faults={0: fault}, max_retries=0)
        with pytest.raises(error) as caught:
            await simulated.messages.create(**ask)
        assert caught.value.type == kind
        assert caught.value.body["request_id"] == caught.value.response.headers["request-id"]
        retry = caught.value.response.headers.get("retry-after")
        assert retry == (None if fault.retry_after is None else "2")
        assert engine_of(simulated).bill().charged == 0
        assert (await simulated.messages.create(**ask)).stop_reason == "tool_use"

    run(main)


def test_the_sdk_retries_what_may_pass(run, ask) -> None:
    async def main() -> None:
        faults = {0: Fault.http(429, retry_after=0.001), 1: Fault.drop()}
        simulated = client(answer, faults=faults, max_retries=2)
        assert (await simulated.messages.create(**ask)).content
        assert [exchange.state for exchange in engine_of(simulated).requests] == ["failed", "failed", "complete"]
        assert engine_of(simulated).bill().charged == 1

    run(main)


def test_a_connection_that_breaks_before_any_header(run, ask) -> None:
    async def main() -> None:
        simulated = client(answer, faults=lambda index: Fault.drop(), max_retries=0)
        with pytest.raises(anthropic.APIConnectionError):
            await simulated.messages.create(**ask)
        assert engine_of(simulated).requests[0].usage is None

    run(main)


@pytest.mark.parametrize("after", range(0, 19, 3))
def test_a_cut_at_every_event(run, ask, after: int) -> None:
    async def main() -> None:
        simulated = client(answer, faults={0: Fault.cut(after)})
        found = await read(simulated, {**ask, "tools": TOOLS})
        exchange = engine_of(simulated).requests[0]
        if after < len(exchange.events):
            assert isinstance(found[-1], httpx2.RemoteProtocolError)
            assert exchange.state == "cut"
        else:
            assert exchange.state == "complete"
        assert exchange.usage.input > 0  # the response had begun: the prompt is charged
        assert len(engine_of(simulated).requests) == 1  # a broken stream is not retried

    run(main)


def test_an_error_event_in_the_middle(run, ask) -> None:
    async def main() -> None:
        found = await read(client(answer, faults={0: Fault.error(5)}), ask)
        assert isinstance(found[-1], anthropic.APIStatusError)
        assert found[-1].type == "overloaded_error"
        assert found[-1].status_code == 200

    run(main)


def test_a_stream_that_ends_early_raises_nothing(run, ask) -> None:
    async def main() -> None:
        simulated = client(answer, faults={0: Fault.end(6)})
        found = await read(simulated, ask)
        assert len(found) == 5  # the ping is not shown
        assert engine_of(simulated).requests[0].state == "cut"

    run(main)


def test_a_stall_outlasts_the_read_timeout_or_passes(run, ask, clock) -> None:
    async def main() -> None:
        simulated = client(answer, faults={0: Fault.stall(3), 1: Fault.stall(3, 30)}, clock=clock, timeout=60)
        found = await read(simulated, ask)
        assert isinstance(found[-1], httpx2.ReadTimeout)
        assert clock.waits == [60]
        found = await read(simulated, ask)
        assert found[-1].type == "message_stop"
        assert clock.waits == [60, 30]

    run(main)


def test_a_garbled_event(run, ask) -> None:
    async def main() -> None:
        found = await read(client(answer, faults={0: Fault.garbled(4)}), ask)
        assert isinstance(found[-1], json.JSONDecodeError)

    run(main)


@pytest.mark.parametrize("kind", ["json", "headless"])
def test_no_stream_where_one_was_asked_for(run, ask, kind: Any) -> None:
    async def main() -> None:
        simulated = client(answer, faults={0: Fault(kind)})
        found = await read(simulated, ask)
        assert not any(getattr(event, "type", "") == "message_start" for event in found)
        assert engine_of(simulated).requests[0].state == "complete"

    run(main)


def test_blocks_that_interleave(run, ask) -> None:
    async def main() -> None:
        found = await read(client(answer, faults={0: Fault("interleaved")}), {**ask, "tools": TOOLS})
        starts = [event.index for event in found if event.type == "content_block_start"]
        stops = [i for i, event in enumerate(found) if event.type == "content_block_stop"]
        assert starts == [0, 1, 2, 3]
        assert min(stops) > max(i for i, event in enumerate(found) if event.type == "content_block_start")

    run(main)


CONTENT = [
    ("repeated_id", lambda calls: len({call.id for call in calls}) == 1),
    ("unoffered", lambda calls: calls[-1].name == "never_offered"),
    ("not_object", lambda calls: all(call.input == ["not", "an", "object"] for call in calls)),
]


@pytest.mark.parametrize(("kind", "holds"), CONTENT, ids=lambda value: value if isinstance(value, str) else "")
def test_a_broken_tool_call(run, ask, kind: Any, holds: Any) -> None:
    async def main() -> None:
        simulated = client(answer, faults={0: Fault(kind)})
        reply = await simulated.messages.create(**{**ask, "tools": TOOLS})
        assert holds([block for block in reply.content if block.type == "tool_use"])

    run(main)


def test_a_script_may_answer_with_a_fault_or_carry_one(run, ask) -> None:
    async def main() -> None:
        replies: Any = iter([Fault.http(529), Scripted("Hello", fault=Fault.cut(3)), "Hello"])
        simulated = client(lambda request: next(replies), max_retries=0)
        with pytest.raises(anthropic.InternalServerError):
            await simulated.messages.create(**ask)
        assert isinstance((await read(simulated, ask))[-1], httpx2.RemoteProtocolError)
        assert (await read(simulated, ask))[-1].type == "message_stop"

    run(main)


@pytest.mark.parametrize("kind", ["cut", "end", "error", "garbled"])
def test_a_whole_reply_that_breaks_off(run, ask, kind: Any) -> None:
    async def main() -> None:
        simulated = client(answer, engine=None, faults={0: Fault(kind, after=2)}, max_retries=0)
        with pytest.raises(anthropic.APIConnectionError):
            await simulated.messages.create(**ask)
        assert engine_of(simulated).requests[0].usage.input > 0

    run(main)


def test_entries_of_a_cut_stream_stand(run, ask) -> None:
    """Inferred: an entry is readable once the response has begun, so a cut afterwards leaves it."""

    async def main() -> None:
        simulated = client(engine=Engine(answer, faults={0: Fault.cut(2)}))
        system = [{"type": "text", "text": "x" * 4000, "cache_control": {"type": "ephemeral"}}]
        await read(simulated, {**ask, "system": system})
        reply = await simulated.messages.create(**{**ask, "system": system})
        assert reply.usage.cache_read_input_tokens == 1003

    run(main)
