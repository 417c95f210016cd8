"""Idle work under pressure: many at once, requests that hang, managers left in a hurry, unfinished replies."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from sessions import Fixed, ModelError, Option, Outlook, simulator
from sessions.simulator import Fault, Scripted
from sessions.upkeep.tending import AT_ONCE
from storage.sqlite import database
from tests.sessions.test_tending import Parks, chat, kinds, talk, world
from tests.sessions.world import World, everywhere


@everywhere
async def test_all_that_fall_due_at_once_are_parked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sessions.core.idle_limits.LOST_OF_ONE", 100.0)
    for given in ({}, {"url": tmp_path / f"{anyio.current_time()}.db"}):
        at = world(**given)
        async with at.manager(ttl=Parks()) as manager:
            sessions = [await chat(manager) for _ in range(3 * AT_ONCE + 1)]
            async with anyio.create_task_group() as group:
                for session in sessions:
                    group.start_soon(session.send, "hello")
            await at.clock.advance(272.0)
            assert [await kinds(one) for one in sessions] == [["turn", "park"]] * len(sessions)
        at.check()


class Keeps:
    """Keeps every prefix for ever."""

    def choose(self, outlook: Outlook) -> Option:
        return "refresh" if "refresh" in outlook.options else "1h"


@everywhere
async def test_a_store_that_cannot_say_what_is_due_is_asked_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "BUSY_TIMEOUT", 0.1)  # real seconds that it waits for another process
    path = tmp_path / f"{anyio.current_time()}.db"
    at = world(url=path)
    async with at.manager(ttl=Keeps()) as manager:
        session = await chat(manager)
        await session.send("hello")
        await at.clock.advance(3000.0)  # nobody looks any longer: what falls due next is all that is known
        with closing(sqlite3.connect(path, isolation_level=None)) as raw:
            raw.execute("BEGIN IMMEDIATE")
            await at.clock.advance(542.0)
        assert await kinds(session) == ["turn"]
        await at.clock.advance(10.0)
        assert await kinds(session) == ["turn", "refresh"]
    at.check()


@everywhere
async def test_a_park_without_an_answer_is_given_up_and_holds_up_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    at = world()
    async with at.manager() as manager:
        first, second = await chat(manager), await chat(manager, system=simulator.filler(3000))
        send, asked = manager.runtime.client.send, 0

        async def hang(body: Any) -> Any:
            nonlocal asked
            asked += 1
            if asked == 1:
                await at.clock.sleep(600.0)  # as the SDK waits by default, before it sends it again
            return await send(body)

        monkeypatch.setattr(manager.runtime.client, "send", hang)
        await first.send("hello")
        await at.clock.advance(275.0)
        await second.send("hello")
        await at.clock.advance(900.0)
        assert await kinds(second) == ["turn", "park"]
        assert [(one.kind, one.status) for one in await first.calls()] == [("turn", "ok"), ("park", "cancelled")]
        assert at.engine.bill().usage.cache_write_1h < 200, "nothing was written anew"
    at.check()


@everywhere
async def test_a_manager_that_is_left_by_cancellation_goes_on_with_nothing() -> None:
    at = world()
    with anyio.CancelScope() as scope:
        async with at.manager(recover=True) as manager:
            await (await chat(manager)).send("hello")
            scope.cancel()
            await anyio.lowlevel.checkpoint()
    assert not manager.runtime.background.running
    await at.clock.advance(900.0)
    assert len(at.requests) == 1


async def test_nothing_follows_a_paused_reply() -> None:
    """Its server tool has no result yet: the API refuses a message behind it."""
    at = World(faults={1: Fault.http(529)})
    search = {"type": "server_tool_use", "id": "srvtoolu_1", "name": "web_search", "input": {"query": "x"}}
    replies = iter([Scripted([{"type": "text", "text": simulator.filler(300)}, search], stop_reason="pause_turn")])
    at.engine.script = lambda request: next(replies)
    async with at.manager() as manager:
        session = await chat(manager, tools=[{"type": "web_search_20250305", "name": "web_search"}])
        with pytest.raises(ModelError):
            await session.send("go")
        await at.clock.advance(900.0)
        assert await session.prewarm() is None
    at.check()


async def test_what_is_counted_for_the_limits_is_forgotten_after_an_hour() -> None:
    for options, most in (({"tend": False}, 0), ({"ttl": Fixed("5m")}, 0), ({}, 2)):
        at = world()
        async with at.manager(**options) as manager:
            await talk(await chat(manager), at, *[3700.0] * 10)
            assert len(manager.runtime.forecaster.hour_limit.earned) <= most


WHO: ContextVar[str] = ContextVar("WHO", default="nobody")


@everywhere
async def test_idle_requests_run_in_no_callers_context(monkeypatch: pytest.MonkeyPatch) -> None:
    """One task serves all sessions: the trace and tenant of whoever came first are not theirs."""
    at = world()
    async with at.manager() as manager:
        send, seen = manager.runtime.client.send, list[str]()

        async def look(body: Any) -> Any:
            seen.append(WHO.get())
            return await send(body)

        monkeypatch.setattr(manager.runtime.client, "send", look)
        for name in ("alice", "bob"):
            WHO.set(name)
            await (await chat(manager, system=simulator.filler(2883) + name)).send("hello")
            await at.clock.advance(10.0)
        await at.clock.advance(400.0)
        assert seen == ["nobody", "nobody"]
