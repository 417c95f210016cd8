"""A conversation needs three things of a client; one that is not Anthropic's SDK has turns like any other."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing, asynccontextmanager
from types import SimpleNamespace
from typing import Any

import pytest

from sessions import ConfigurationError, ContextFull, ModelError, SessionManager, tool
from sessions.core.incoming import Incoming
from sessions.core.profiles import profile_for
from tests.sessions.world import everywhere

MODEL = "claude-sonnet-5-5"
USAGE = {"input_tokens": 20, "output_tokens": 3}


class Canned:
    """Another way to the Messages API: it gives these answers, one after the other, each as the blocks of a reply."""

    base_url = None

    def __init__(self, *answers: list[dict[str, Any]] | ModelError) -> None:
        self._answers = list(answers)
        self.bodies: list[Mapping[str, Any]] = []
        self.open = 0

    @asynccontextmanager
    async def stream(
        self, body: Mapping[str, Any], incoming: Incoming, *, typed: bool = False
    ) -> AsyncIterator[AsyncIterator[Any]]:
        self.bodies.append(body)
        answer = self._answers.pop(0)
        if isinstance(answer, ModelError):
            raise answer
        incoming.request_id = f"request {len(self.bodies)}"
        self.open += 1
        try:
            async with aclosing(self._events(answer, incoming, typed)) as given:
                yield given
        finally:
            self.open -= 1

    async def _events(self, answer: list[dict[str, Any]], incoming: Incoming, typed: bool) -> AsyncGenerator[Any]:
        for event in events(answer):
            incoming.feed(event)
            yield attributes(event) if typed else event

    async def send(self, body: Mapping[str, Any]) -> tuple[dict[str, Any], str | None]:
        self.bodies.append(body)
        return {"id": "warm", "content": [], "stop_reason": "max_tokens", "usage": USAGE}, "request of nothing"


def events(blocks: list[dict[str, Any]]) -> list[dict[str, Any]]:
    reason = "tool_use" if blocks[-1]["type"] == "tool_use" else "end_turn"
    found: list[dict[str, Any]] = [{"type": "message_start", "message": {"id": "m", "usage": USAGE}}]
    for index, block in enumerate(blocks):
        start = {**block, "text": ""} if block["type"] == "text" else block
        found.append({"type": "content_block_start", "index": index, "content_block": start})
        if block["type"] == "text":
            delta = {"type": "text_delta", "text": block["text"]}
            found.append({"type": "content_block_delta", "index": index, "delta": delta})
        found.append({"type": "content_block_stop", "index": index})
    return [*found, {"type": "message_delta", "delta": {"stop_reason": reason}}, {"type": "message_stop"}]


def attributes(event: Any) -> Any:
    return (
        SimpleNamespace(**{name: attributes(one) for name, one in event.items()}) if isinstance(event, dict) else event
    )


def said(text: str) -> list[dict[str, Any]]:
    return [{"type": "text", "text": text}]


@tool
def look(where: str) -> str:
    """Looks somewhere."""
    return f"seen {where}"


CALL = {"type": "tool_use", "id": "toolu_1", "name": "look", "input": {"where": "there"}}


@everywhere
async def test_a_turn_with_a_tool_goes_through_it() -> None:
    client = Canned([CALL], said("There."))
    async with SessionManager("sqlite://", client=client) as manager:
        session = await manager.create(model=MODEL, max_tokens=100, tools=[look])
        reply = await session.send("Look!")
        assert (reply.text, reply.usage.output) == ("There.", 6)
        assert [one.request_id for one in await session.calls()] == ["request 1", "request 2"]
    assert [block["type"] for block in client.bodies[1]["messages"][-1]["content"]] == ["tool_result"]
    assert client.open == 0


@everywhere
async def test_who_reads_a_stream_gets_events_with_attributes() -> None:
    client = Canned(said("One, two."))
    async with SessionManager("sqlite://", client=client) as manager:
        session = await manager.create(model=MODEL, max_tokens=100)
        async with session.stream("Count.") as stream:
            assert [text async for text in stream.text_stream] == ["One, two."]
            assert (await stream.get_final_reply()).text == "One, two."


@everywhere
async def test_a_stream_that_is_left_is_closed() -> None:
    client = Canned(said("One, two."), said("Three."))
    async with SessionManager("sqlite://", client=client) as manager:
        session = await manager.create(model=MODEL, max_tokens=100)
        async with session.stream("Count.") as stream:
            await anext(stream)
            assert client.open == 1
        assert client.open == 0
        reply = await session.resume()
        assert reply is not None
        assert reply.text == "Three."


async def test_its_failures_are_those_of_any_client() -> None:
    client = Canned(ModelError("busy", retryable=True), ContextFull(), said("Fine."))
    async with SessionManager("sqlite://", client=client) as manager:
        session = await manager.create(model=MODEL, max_tokens=100)
        with pytest.raises(ModelError, match="busy"):
            await session.send("Hello")
        with pytest.raises(ContextFull):
            await session.resume()
        assert [one.status for one in await session.calls()] == ["error", "error"]


async def test_a_request_of_no_tokens_goes_through_it() -> None:
    client = Canned()
    minimum = profile_for(MODEL).minimum_tokens
    async with SessionManager("sqlite://", client=client) as manager:
        session = await manager.create(model=MODEL, max_tokens=100, system="word " * minimum, params={"any": 1})
        await session.prewarm()
        assert [one.request_id for one in await session.calls()] == ["request of nothing"]
    assert client.bodies[0]["max_tokens"] == 0


async def test_what_only_the_sdk_can_do_says_so() -> None:
    async with SessionManager("sqlite://", client=Canned()) as manager:
        session = await manager.create(model=MODEL, max_tokens=100)
        with pytest.raises(ConfigurationError, match=r"Canned only asks for messages: use one of AsyncAnthropic"):
            await session.batch(["a", "b"])


def test_what_is_no_client_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="client must be one of the SDK's async clients"):
        SessionManager("sqlite://", client=object())
