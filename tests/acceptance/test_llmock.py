"""A double that is not ours: llmock breaks the connection in every way it knows, and judges what the client did.

After each fault the session still works, nothing is lost, and llmock's verdict on the retries is clean.
"""

from __future__ import annotations

import json
import urllib.request
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
import httpx2
import pytest
from anthropic import AsyncAnthropic

from sessions import ModelError, Reply, Session, SessionManager, profile_for, tool
from tests.sessions.world import results, words

pytest.importorskip("llmock", reason="llmock is not installed: install the dev extra")

MODEL = "claude-sonnet-5-5"
SAID = "one two three four five six"
EVENTS, PING, CALL_EVENTS = 11, 2, 6
"""Events up to the one with the stop reason: start, block start, ping, six deltas, block stop, message delta; for the
call of a tool: start, block start, two deltas, block stop, message delta."""
PACE = 10
"""Milliseconds between events, so that llmock sees the client hang up before it has sent the rest."""
SILENCE = 0.3
"""Seconds without an event after which a stalled stream is given up. Only the stream that stalls is read with so little
patience, and it is sent once: whenever it is given up on a busy machine, what follows is the same."""


@asynccontextmanager
async def open_session(llmock: Any, *, stalls: bool = False, **given: Any) -> AsyncIterator[Session]:
    """A session whose model is llmock. `stalls`: its first request will, and is given up soon."""
    client = AsyncAnthropic(base_url=llmock.base_url("anthropic"), api_key="any", timeout=60.0)
    if stalls:
        client.timeout, client.max_retries = httpx2.Timeout(60.0, read=SILENCE), 0
    async with client, SessionManager("sqlite://", client=client, profile=profile_for(MODEL)) as manager:
        yield await manager.create(**{"model": MODEL, "max_tokens": 1000, **given})


async def check_verdict(llmock: Any) -> None:
    """What llmock thinks of us, warnings included."""

    def ask() -> Any:
        with urllib.request.urlopen(f"{llmock.url}/_llmock/verdict") as answer:
            return json.load(answer)

    found = await anyio.to_thread.run_sync(ask)
    assert found["findings"] == [], json.dumps(found["findings"], indent=2)


async def check_works(session: Session, llmock: Any) -> None:
    """Two more turns go through, and no words are there twice."""
    llmock.pace(0)
    for number in range(2):
        llmock.reply(f"reply {number}")
        assert (await session.send(f"next {number}")).text == f"reply {number}"
    said = words(session)
    assert len(said) == len(set(said))
    assert await session.resume() is None
    assert await session.verify() is None


async def broken(session: Session, llmock: Any) -> ModelError:
    """A turn that breaks with an error of ours. Afterwards llmock has noticed it too, and the client has patience."""
    with pytest.raises(ModelError) as caught:
        await session.send("go")
    # A request that comes before would not count as the next attempt, and llmock tells it nowhere else.
    while llmock._server.state.journal.in_flight:  # noqa: SLF001
        await anyio.sleep(0.01)
    client = session.runtime.client.sdk
    client.timeout, client.max_retries = 60.0, 2
    return caught.value


async def broken_then_resumed(session: Session, llmock: Any) -> Reply:
    """A turn that breaks, and its end by `resume()`."""
    assert (await broken(session, llmock)).retryable
    reply = await session.resume()
    assert reply is not None
    assert [one.status for one in reply.calls] == ["error", "ok"]
    assert words(session) == ["go"]
    return reply


# -- refusals and outages --


@pytest.mark.parametrize("status", [500, 502, 503, 504, 529])
async def test_one_failure_is_retried(status: int, llmock: Any) -> None:
    async with open_session(llmock) as session:
        llmock.fail(status).reply("here")
        assert (await session.send("go")).text == "here"
        await check_works(session, llmock)
    await check_verdict(llmock)


@pytest.mark.parametrize("status", [429, 529])
async def test_retry_after_is_kept_to(status: int, llmock: Any) -> None:
    async with open_session(llmock) as session:
        llmock.fail(status, times=2, retry_after=0.7).reply("here")
        assert (await session.send("go")).text == "here"
        await check_works(session, llmock)
    await check_verdict(llmock)


async def test_an_outage_ends_the_turn_and_keeps_the_words(llmock: Any) -> None:
    async with open_session(llmock) as session:
        llmock.outage()
        with pytest.raises(ModelError) as caught:
            await session.send("go")
        assert caught.value.retryable
        await check_verdict(llmock)
        llmock.reset().reply("back")
        reply = await session.resume()
        assert reply is not None
        assert reply.text == "back"
        assert words(session) == ["go"]
        await check_works(session, llmock)
    await check_verdict(llmock)


@pytest.mark.parametrize("status", [400, 401, 403, 404, 413, 422])
async def test_what_cannot_succeed_is_not_tried_again(status: int, llmock: Any) -> None:
    async with open_session(llmock) as session:
        llmock.fail(status)
        with pytest.raises(ModelError, match=str(status)) as caught:
            await session.send("go")
        assert not caught.value.retryable
        assert len(llmock.requests) == 1
        assert words(session) == ([] if status in (400, 413) else ["go"])
        await check_works(session, llmock)
    await check_verdict(llmock)


@pytest.mark.parametrize("how", ["scripted", "window"])
async def test_a_prompt_that_is_too_long(how: str, llmock: Any) -> None:
    async with open_session(llmock) as session:
        llmock.reply("before")
        await session.send("before")
        llmock.context_overflow() if how == "scripted" else llmock.limits(context_window=100)
        with pytest.raises(ModelError, match=r"context length|too long"):
            await session.send("go " * 1000)
        assert words(session) == ["before"], "words that the API refuses may not stay in its way"
        await check_works(session, llmock)
    await check_verdict(llmock)


async def test_a_quota_is_waited_for(llmock: Any) -> None:
    """Two prompts of more than half a minute's tokens: the second is refused and comes back when it was told to."""
    llmock.limits(tpm=60_000).reply("here", times=3)  # a refused request uses one up too
    async with open_session(llmock) as one, open_session(llmock) as two:
        for session in (one, two):
            assert (await session.send("word " * 24_000)).text == "here"
        assert [record.status for record in llmock.requests] == [200, 429, 200]
        llmock.limits()
        await check_works(two, llmock)
    await check_verdict(llmock)


# -- broken streams --

BREAKS: dict[str, Callable[[Any, int], Any]] = {
    "disconnect": lambda llmock, after: llmock.disconnect(after_chunks=after),
    "truncate": lambda llmock, after: llmock.truncate(after_chunks=after),
    "corrupt": lambda llmock, after: llmock.corrupt(after_chunks=after),
    "stall": lambda llmock, after: llmock.stall(after_chunks=after, seconds=60),
}


@pytest.mark.parametrize(
    ("how", "after"), [(how, after) for how in BREAKS for after in range(EVENTS) if (how, after) != ("corrupt", PING)]
)
async def test_a_stream_that_breaks(how: str, after: int, llmock: Any) -> None:
    async with open_session(llmock, stalls=how == "stall") as session:
        BREAKS[how](llmock.pace(PACE), after)
        llmock.reply(SAID, times=2)
        assert (await broken_then_resumed(session, llmock)).text == SAID
        await check_works(session, llmock)
    await check_verdict(llmock)


@pytest.mark.parametrize("how", BREAKS)
async def test_new_words_after_a_stream_that_broke(how: str, llmock: Any) -> None:
    """Without `resume()`: the first words stay, and nothing of the half answer is left."""
    async with open_session(llmock, stalls=how == "stall") as session:
        BREAKS[how](llmock.pace(PACE), 5)
        llmock.reply(SAID)
        await broken(session, llmock)
        await check_works(session, llmock)
        assert [message["role"] for message in session.messages][:3] == ["user", "user", "assistant"]


async def test_a_reply_without_its_last_event_is_whole(llmock: Any) -> None:
    """The stop reason and the final usage have come: asking again would pay twice. (llmock calls this accepting a cut
    stream, for it goes by the fault alone: its verdict is not asked.)"""
    async with open_session(llmock) as session:
        llmock.truncate(after_chunks=EVENTS).reply(SAID)
        assert (await session.send("go")).text == SAID
        await check_works(session, llmock)


async def test_a_garbled_ping_is_nothing(llmock: Any) -> None:
    """A ping has nothing to lose: the SDK does not even read it."""
    async with open_session(llmock) as session:
        llmock.corrupt(after_chunks=PING).reply(SAID)
        assert (await session.send("go")).text == SAID
        await check_works(session, llmock)


@pytest.mark.parametrize("slow", ["delay", "slow_first_token", "pace"])
async def test_slowness_is_no_failure(slow: str, llmock: Any) -> None:
    async with open_session(llmock) as session:
        getattr(llmock, slow)(50 if slow == "pace" else 0.5)
        llmock.reply(SAID)
        assert (await session.send("go")).text == SAID
        assert len(llmock.requests) == 1
        await check_works(session, llmock)
    await check_verdict(llmock)


# -- tools --


class Acting:
    """One tool and how often it ran."""

    def __init__(self) -> None:
        self.ran: list[str] = []

        @tool(name="search")
        def search(query: str) -> str:
            """Searches the archive."""
            self.ran.append(query)
            return f"found {query}"

        self.tools = [search]


async def test_a_tool_is_run_and_its_result_answered(llmock: Any) -> None:
    """llmock chooses the tool and its arguments itself."""
    acting = Acting()
    async with open_session(llmock, tools=acting.tools) as session:
        reply = await session.send("search for something")
        assert reply.stop_reason == "end_turn"
        assert len(acting.ran) == 1
        assert [len(results(message)) for message in session.messages] == [0, 0, 1, 0]
        await check_works(session, llmock)
    await check_verdict(llmock)


@pytest.mark.parametrize("after", range(CALL_EVENTS))
@pytest.mark.parametrize("how", BREAKS)
async def test_a_stream_that_breaks_in_a_tool_call(how: str, after: int, llmock: Any) -> None:
    """Half a call is never run: the tool runs once, for the call that came whole."""
    acting = Acting()
    async with open_session(llmock, stalls=how == "stall", tools=acting.tools) as session:
        llmock.call_tool("search", {"query": "an old map"}, times=2)
        BREAKS[how](llmock.pace(PACE), after)
        llmock.reply("done")
        await broken_then_resumed_with_tools(session, llmock)
        assert acting.ran == ["an old map"]
        await check_works(session, llmock)
    await check_verdict(llmock)


async def broken_then_resumed_with_tools(session: Session, llmock: Any) -> None:
    """As `broken_then_resumed`, with one round of tools in between."""
    await broken(session, llmock)
    reply = await session.resume()
    assert reply is not None
    assert [one.status for one in reply.calls] == ["error", "ok", "ok"]


async def test_arguments_that_are_no_json(llmock: Any) -> None:
    acting = Acting()
    async with open_session(llmock, tools=acting.tools) as session:
        llmock.call_tool("search", {"query": "an old map"}, times=2).break_tool_call().reply("done")
        await broken_then_resumed_with_tools(session, llmock)
        assert acting.ran == ["an old map"]
        await check_works(session, llmock)
    await check_verdict(llmock)


async def test_a_tool_that_was_never_offered(llmock: Any) -> None:
    acting = Acting()
    async with open_session(llmock, tools=acting.tools) as session:
        llmock.call_tool("search", {"query": "x"}).break_tool_call("unknown_tool").reply("done")
        assert (await session.send("go")).text == "done"
        assert acting.ran == []
        (told,) = results(session.messages[2])
        assert told["is_error"]
        assert "no tool named" in told["content"]
        await check_works(session, llmock)
    await check_verdict(llmock)


# -- what the model says --


@pytest.mark.parametrize(
    ("reason", "kept"),
    [("length", True), ("content_filter", False), ("model_context_window_exceeded", True), ("something new", True)],
)
async def test_every_way_to_stop(reason: str, kept: bool, llmock: Any) -> None:
    from llmock.scenarios import Reply as Scripted

    async with open_session(llmock) as session:
        llmock.add(Scripted(text="half an answer", finish_reason=reason))
        reply = await session.send("go")
        assert reply.text == "half an answer"
        assert words(session) == (["go"] if kept else [])
        await check_works(session, llmock)
    await check_verdict(llmock)


async def test_a_paused_turn_goes_on(llmock: Any) -> None:
    from llmock.scenarios import Reply as Scripted

    async with open_session(llmock) as session:
        llmock.add(Scripted(text="thinking", finish_reason="pause_turn", times=2), Scripted(text="there"))
        reply = await session.send("go")
        assert (reply.text, len(reply.calls)) == ("there", 3)
        await check_works(session, llmock)
    await check_verdict(llmock)


async def test_an_empty_answer(llmock: Any) -> None:
    """Nothing to keep: the words leave the chain, and the next ones are answered."""
    async with open_session(llmock) as session:
        llmock.reply("")
        reply = await session.send("go")
        assert reply.text == ""
        await check_works(session, llmock)
    await check_verdict(llmock)
