"""Replies as no well-behaved server sends them: each is stored, or an error of ours, and the session goes on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx2
import pytest
from anthropic import AsyncAnthropic

from sessions import ConfigurationError, InvalidHistory, ModelError, SessionManager, Usage, tool
from tests.sessions.world import MODEL, World, create

NUL, HALF = "a\0b", "a \ud800 b"


def nested(depth: int) -> Any:
    value: Any = "x"
    for _ in range(depth):
        value = {"a": value}
    return value


def stream(block: dict[str, Any], usage: dict[str, Any] | None = None, stop: Any = "end_turn", **frame: Any) -> bytes:
    """The events of a reply of one block."""
    usage = {"input_tokens": 10, "output_tokens": 5} if usage is None else usage
    message = {"id": "msg_1", "type": "message", "role": "assistant", "model": MODEL, "content": [], "usage": usage}
    events: list[dict[str, Any]] = [
        {"type": "message_start", "message": {**message, "stop_reason": None, **frame}},
        {"type": "content_block_start", "index": 0, "content_block": block},
        {"type": "content_block_stop", "index": 0},
        {"type": "message_delta", "delta": {"stop_reason": stop}, "usage": usage},
        {"type": "message_stop"},
    ]
    return "".join(f"event: {one['type']}\ndata: {json.dumps(one)}\n\n" for one in events).encode()


class Canned(httpx2.AsyncBaseTransport):
    """Answers the first request with this body, and every later one with a reply that is as it should be."""

    def __init__(self, body: bytes) -> None:
        self.bodies = [body]

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        await request.aread()
        body = self.bodies.pop() if self.bodies else stream({"type": "text", "text": "fine"})
        return httpx2.Response(200, headers={"content-type": "text/event-stream"}, content=body)


TEXT = {"type": "text", "text": "Hello"}
FIGURES = [2**63, 10**400, -1, 1.5, float("nan"), float("inf"), "12", [], {}, None, True]
REPLIES: dict[str, bytes] = {
    **{f"input of {one!r:.9}": stream(TEXT, {"input_tokens": one, "output_tokens": one}) for one in FIGURES},
    **{f"read of {one!r:.9}": stream(TEXT, {"cache_read_input_tokens": one}) for one in FIGURES},
    **{f"split of {one!r:.9}": stream(TEXT, {"cache_creation": {"ephemeral_1h_input_tokens": one}}) for one in FIGURES},
    **{f"creation of {one!r:.9}": stream(TEXT, {"cache_creation": one, "iterations": one}) for one in FIGURES},
    **{f"iterations of {one!r:.9}": stream(TEXT, {"iterations": [one]}) for one in FIGURES},
    "text of NUL": stream({"type": "text", "text": NUL}),
    "text of half a pair": stream({"type": "text", "text": HALF}),
    "id of NUL": stream(TEXT, id=NUL),
    "id of a number": stream(TEXT, id=7),
    "id of half a pair": stream(TEXT, id=HALF),
    "stop of NUL": stream(TEXT, stop=NUL),
    "stop of half a pair": stream(TEXT, stop=HALF),
    "model of NUL": stream(TEXT, model=NUL),
    "tool of NUL": stream({"type": "tool_use", "id": "t1", "name": NUL, "input": {}}, stop="tool_use"),
    "tool id of NUL": stream({"type": "tool_use", "id": NUL, "name": "look", "input": {}}, stop="tool_use"),
    "tool of half a pair": stream({"type": "tool_use", "id": "t1", "name": HALF, "input": {}}, stop="tool_use"),
    "deep block": stream({"type": "server_tool_use", "id": "srvtoolu_1", "name": "x", "input": nested(930)}),
}


@tool
def look() -> str:
    """Looks."""
    return "seen"


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an empty store of each kind."""
    if request.param == "postgresql":
        found: str = request.getfixturevalue("empty_store")
        return found
    return f"sqlite:///{tmp_path}/hostile.db"


async def test_a_reply_that_no_server_should_give_is_stored_or_an_error_of_ours(url: str) -> None:
    for name, body in REPLIES.items():
        async with httpx2.AsyncClient(transport=Canned(body)) as http:
            client = AsyncAnthropic(api_key="k", http_client=http, max_retries=0)
            async with SessionManager(url, client=client, tend=False, warmup=False) as manager:
                session = await create(manager, tools=[look])
                try:
                    await session.send("Hello")
                except ModelError as error:
                    assert "resume() asks again" in str(error), name
                assert (await session.send("And?")).text == "fine", name
                assert await session.verify() is None
                assert len(await session.export()) == len((await manager.open(session.id)).messages)
                assert all(0 <= call.usage.total_input < 2**31 for call in await session.calls()), name


async def test_figures_that_are_no_counts_are_as_if_they_were_not_said(tmp_path: Path) -> None:
    usage = {"input_tokens": 2**63, "output_tokens": 7, "cache_read_input_tokens": "12"}
    async with httpx2.AsyncClient(transport=Canned(stream(TEXT, usage))) as http:
        client = AsyncAnthropic(api_key="k", http_client=http, max_retries=0)
        async with SessionManager(f"sqlite:///{tmp_path}/x.db", client=client, tend=False) as manager:
            reply = await (await create(manager)).send("Hello")
    assert reply.usage == Usage(output=7, counters=False)


@pytest.mark.parametrize("depth", [98, 99, 930])
async def test_a_tool_input_nested_too_deep_is_an_input_that_cannot_be_read(depth: int) -> None:
    """Two levels are around it, the content and the block; a hundred in all are taken."""
    body = stream({"type": "tool_use", "id": "t1", "name": "look", "input": nested(depth)}, stop="tool_use")
    async with httpx2.AsyncClient(transport=Canned(body)) as http:
        client = AsyncAnthropic(api_key="k", http_client=http, max_retries=0)
        async with SessionManager("sqlite://", client=client, tend=False) as manager:
            session = await create(manager, tools=[look])
            if depth > 98:
                # the SDK's own reader gives up first where the caller's stack is deep already
                readable = r"tool 'look' came without a readable input object|could not be read \(RecursionError"
                with pytest.raises(ModelError, match=readable):
                    await session.send("Look")
                assert len(session.messages) == 1
                assert (await session.resume()).text == "fine"  # type: ignore[union-attr]
            else:
                assert (await session.send("Look")).text == "fine"
            assert (await session.send("Again")).text == "fine"
            again = await manager.open(session.id, tools=[look])
            assert again.messages == session.messages == await session.export()


@pytest.mark.parametrize("depth", [98, 99, 930])
async def test_what_the_user_gives_is_nested_a_hundred_levels_deep_at_most(depth: int) -> None:
    world = World()
    source = {"type": "text", "media_type": "text/plain", "data": "x"}
    words = [{"type": "document", "source": source, "citations": nested(depth)}]
    async with world.manager() as manager:
        session = await create(manager)
        made = {
            "metadata": nested(depth + 1),
            "params": {"metadata": nested(depth)},
            "context": words,
            "tools": [{"name": "x", "input_schema": {"type": "object", "properties": nested(depth - 1)}}],
        }
        if depth == 98:
            await session.append([{"role": "user", "content": words}])
            for name, value in made.items():
                assert (await create(manager, **{name: value})).settings
        else:
            with pytest.raises(InvalidHistory, match=r"messages\[0\].content is nested deeper than 100 levels"):
                await session.append([{"role": "user", "content": words}])
            with pytest.raises(ConfigurationError, match="content is nested deeper than 100 levels"):
                await session.send(words)
            for name, value in made.items():
                with pytest.raises(ConfigurationError, match=f"{name} is nested deeper than 100 levels"):
                    await create(manager, **{name: value})
        assert await session.export() == session.messages
