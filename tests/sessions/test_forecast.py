"""`session.forecast()`: what it says is what the next turn then costs."""

from __future__ import annotations

from decimal import Decimal

import pytest

from sessions import simulator
from sessions.simulator import Scripted
from tests.sessions.world import World, create, everywhere

REPLY = simulator.filler(150)


def world() -> World:
    return World(lambda request: Scripted(REPLY, output_tokens=150))


async def said_and_paid(wait: float, *, tend: bool) -> tuple[list[Decimal | None], Decimal | None, Decimal | None]:
    """What was forecast (the three costs, and what is kept in an hour), what it cost after `wait`, what was kept."""
    at = world()
    async with at.manager(tend=tend) as manager:
        given = {"model": "claude-opus-5", "max_tokens": 1000, "system": simulator.filler(2883)}
        session = await manager.create(**given)
        await session.send(simulator.filler(80))
        await at.clock.advance(30.0)
        requests = len(at.requests)
        found = await session.forecast()
        assert len(at.requests) == requests
        await at.clock.advance(wait)
        kept = (await session.forecast()).waited
        reply = await session.send(simulator.filler(80))
        at.check()
        costs = [found.now.cost, found.in_five_minutes.cost, found.in_an_hour.cost, found.in_an_hour.kept]
        return costs, reply.cost, kept


@everywhere
async def test_what_it_says_is_what_it_costs() -> None:
    for tend in (True, False):
        for place, wait in enumerate((0.0, 300.0, 3600.0)):
            said, paid, kept = await said_and_paid(wait, tend=tend)
            assert paid is not None
            assert float(said[place] or 0) == pytest.approx(float(paid), rel=0.03), (tend, wait)
            if wait:
                assert float(said[3] or 0) == pytest.approx(float(kept or 0), rel=0.03), (tend, wait)
            assert (kept or 0) > 0 if wait and tend else kept == 0


@everywhere
async def test_a_session_that_has_not_begun_and_one_whose_words_wait() -> None:
    at = world()
    async with at.manager() as manager:
        session = await create(manager)
        empty = await session.forecast()
        assert empty.now.usage.cache_write > 0
        assert empty.now.cost == empty.in_an_hour.cost
        assert (empty.waited, empty.in_an_hour.kept) == (0, 0)
        await session.append([{"role": "user", "content": "one"}])
        waiting = await session.forecast()
        assert waiting.now.usage.total_input < empty.now.usage.total_input
        await session.send("hello")
        await at.clock.advance(301.0)  # parked by now: a refresh comes before it lapses
        parked = await session.forecast()
        assert parked.now.usage.cache_read > 0
    at.check()
