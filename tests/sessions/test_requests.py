"""One way to make a request of any kind: sent, judged, priced and written down as a row of the ledger."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from decimal import Decimal
from typing import Any

import anyio
import pytest

from sessions import Call, ModelError, Session, SessionManager
from sessions.core.plan import make_plan, render
from sessions.simulator import Fault, Latency
from tests.sessions.world import World, create, everywhere

GREETING: Any = "greeting"
"""A kind of request that the library does not know."""


async def greeted(manager: SessionManager, session: Session) -> Call:
    """A new kind of request in one place: a plan, a body, and `Requests` does the rest."""
    runtime, conversation = manager.runtime, session.conversation
    at = runtime.forecaster.circumstances(conversation, runtime.clock.now())
    plan = make_plan(conversation.prompt, conversation.recent.warmth, at)
    body = render(conversation.prompt, plan.marks)
    body["messages"] = [{"role": "user", "content": "Greet the user."}]
    requests = runtime.requests
    sending = requests.outside_of_turns(conversation, GREETING, plan, body)
    async with sending as request, requests.stream(request) as events:
        async for _ in events:
            if request.first_event is None:
                requests.begun(request)
    record, call = runtime.requests.end(request, conversation, "ok")
    await runtime.store.record(record, conversation.settings_record)
    assert request.incoming.content[0]["text"] == "Good morning."
    return call


@everywhere
async def test_a_kind_of_request_is_added_in_one_place() -> None:
    world = World(lambda _: "Good morning.")
    async with world.manager() as manager:
        session = await create(manager)
        call = await greeted(manager, session)
        await session.send("Hello")
        ledger = await session.calls()
        assert ledger[0] == call
        assert [row.kind for row in ledger] == [GREETING, "turn"]
        assert (call.status, call.miss, call.turn, call.estimated) == ("ok", None, None, False)
        assert call.usage.cache_write == 600
        assert (await session.cost()).by_kind[GREETING] == call.cost
        assert call.cost is not None
        assert call.cost > Decimal(0)
        bill = world.engine.bill()
        assert sum((row.cost or Decimal(0) for row in ledger), start=Decimal(0)) == bill.cost
        assert len(session.entries) == 2, "it left no entry"
    world.check()


async def _fails(manager: SessionManager, session: Session) -> None:
    with pytest.raises(ModelError, match="529"):
        await greeted(manager, session)


async def _cancelled(manager: SessionManager, session: Session) -> None:
    with anyio.CancelScope() as scope:

        async def soon() -> None:
            await manager.clock.sleep(1)
            scope.cancel()

        async with anyio.create_task_group() as group:
            group.start_soon(soon)
            group.start_soon(greeted, manager, session)


@everywhere
@pytest.mark.parametrize(
    ("end", "faults", "status"),
    [
        (_fails, {0: Fault.http(529)}, "error"),
        (_cancelled, None, "cancelled"),
    ],
)
async def test_one_that_fails_is_a_row_too(
    end: Callable[[SessionManager, Session], Awaitable[None]], faults: Any, status: str
) -> None:
    world = World(lambda _: "Good morning.", faults=faults, latency=Latency(first_event=10.0))
    async with world.manager() as manager, anyio.create_task_group() as group:
        session = await create(manager)
        group.start_soon(world.clock.advance, 100.0)
        await end(manager, session)
        (row,) = await session.calls()
        assert (row.kind, row.status, row.entry) == (GREETING, status, None)
        assert row.error


@everywhere
async def test_requests_under_way_know_which_others_have_no_answer() -> None:
    """A request that finds nothing, because another was just writing it, is told so in the diagnosis."""
    world = World(lambda _: "Good morning.", latency=Latency(first_event=10.0))
    async with world.manager(warmup=False) as manager, anyio.create_task_group() as group:
        session = await create(manager)
        await anyio.lowlevel.checkpoint()
        runtime, conversation = manager.runtime, session.conversation
        at = runtime.forecaster.circumstances(conversation, runtime.clock.now())
        plan = make_plan(conversation.prompt, conversation.recent.warmth, at)
        body = render(conversation.prompt, plan.marks)
        body["messages"] = [{"role": "user", "content": "Greet the user."}]
        requests, seen = runtime.requests, []

        async def ask() -> None:
            async with requests.outside_of_turns(conversation, GREETING, plan, body) as request:
                await manager.clock.sleep(len(seen))
                async with requests.stream(request) as events:
                    seen.append(len(request.others_unanswered))
                    async for _ in events:
                        if request.first_event is None:
                            requests.begun(request)

        async with anyio.create_task_group() as asking:
            asking.start_soon(ask)
            asking.start_soon(ask)
            group.start_soon(world.clock.advance, 100.0)
        assert sorted(seen) == [0, 1]
        await ask()
        assert seen[-1] == 0
